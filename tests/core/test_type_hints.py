"""What hints stand for: aliases, generic classes, typed dictionaries and their members."""

from __future__ import annotations

import datetime as dt
import json
import sys
import typing
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import pytest

from durable_django.core.annotations import input_type, return_type
from durable_django.serialization import AttributeDict, JsonDataConverter

if sys.version_info >= (3, 12):
    from typing import TypeAliasType
else:
    from typing_extensions import TypeAliasType

T = TypeVar("T")
U = TypeVar("U")

converter = JsonDataConverter()

DAY = dt.date(2024, 5, 6)


@dataclass
class Point:
    x: int
    day: dt.date = DAY


@dataclass
class Box(Generic[T]):
    one: T
    many: list[T]
    named: dict[str, T | None]


@dataclass
class Pair(Generic[T, U]):
    left: T
    right: U


@dataclass
class Turned(Pair[U, T], Generic[T, U]):
    both: tuple[T, U]


@dataclass
class Lists(Pair[list[T], T]):
    last: T


@dataclass
class PointAndDay(Pair[Point, dt.date]):
    pass


@dataclass
class Later(PointAndDay):
    at: dt.date


class Named(NamedTuple, Generic[T]):
    name: str
    value: T


class Visit(TypedDict):
    who: str
    point: Point
    at: NotRequired[dt.datetime]


class Branch(TypedDict):
    day: dt.date
    branches: list[Branch]


class Plain(TypedDict):
    count: int
    plains: list[Plain]


class Tagged(TypedDict, Generic[T]):
    tag: T


class TaggedTwice(Tagged[Point]):
    other: dt.date


PointAlias = TypeAliasType("PointAlias", Point)
Points = TypeAliasType("Points", list[PointAlias])
MaybePoint = TypeAliasType("MaybePoint", Point | None)
Flow = TypeAliasType("Flow", Generator[Any, Any, Point])
Swapped = TypeAliasType("Swapped", tuple[U, T], type_params=(T, U))
Itself = TypeAliasType("Itself", T, type_params=(T,))
Nothing = TypeAliasType("Nothing", dict[str, int])


def round_trip(value: Any, hint: Any) -> Any:
    return converter.deserialize(converter.serialize(value), hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (Point(1), PointAlias),
        ([Point(1)], Points),
        ({"a": [Point(1)]}, dict[str, Points]),
        (Point(1), MaybePoint),
        ([Point(1), None], list[MaybePoint]),
        ("text", MaybePoint | str),
        ((Point(1), DAY), Swapped[dt.date, Point]),
        (Point(1), Itself[Point]),
        (Point(1), typing.Annotated[PointAlias, ["unhashable"]]),
    ],
)
def test_an_alias_is_what_it_stands_for(value: Any, hint: Any) -> None:
    assert converter.can_reconstruct(hint)
    assert round_trip(value, hint) == value


def test_an_alias_of_what_json_keeps_is_not_reconstructed() -> None:
    assert not converter.can_reconstruct(Nothing)
    assert not converter.can_reconstruct(Itself[int])


def test_aliases_annotate_functions() -> None:
    def flow(ctx: Any, points: Points) -> Any:
        yield points

    def nothing(ctx: Any, given: Nothing) -> Nothing:
        return given

    flow.__annotations__["return"] = Flow
    assert (input_type(flow), return_type(flow)) == (Points, Point)
    assert (input_type(nothing), return_type(nothing)) == (None, None)


if sys.version_info >= (3, 12):  # Only the statement makes aliases that are resolved later, if ever.
    STATEMENTS = """
type Later = list[Point]
type Missing = list[Unknown]
type Loop = Loop
type Json = dict[str, Json] | list[Json] | str
type Nested = list[Nested]
type Here = list[There]
type There = dict[str, Here]
type Around = list[Here]
type Many[T] = dict[str, list[T]]

@dataclass
class Crate[T]:
    content: T
"""
    stated: dict[str, Any] = {"Point": Point, "dataclass": dataclass}
    exec(STATEMENTS, stated)

    def test_statements_make_aliases_too() -> None:
        assert round_trip([Point(1)], stated["Later"]) == [Point(1)]
        assert round_trip({"a": [Point(1)]}, stated["Many"][Point]) == {"a": [Point(1)]}
        assert converter.can_reconstruct(stated["Many"][Point])
        assert not converter.can_reconstruct(stated["Many"][int])

    def test_classes_with_type_parameters_are_generic() -> None:
        crate = stated["Crate"]
        assert round_trip(crate(Point(1)), crate[Point]) == crate(Point(1))

    @pytest.mark.parametrize("name", ["Missing", "Loop", "Json", "Nested", "Here", "There", "Around"])
    def test_an_alias_without_an_end_says_nothing(name: str) -> None:
        hint = stated[name]
        assert not converter.can_reconstruct(hint)
        assert converter.deserialize('[{"x": 1}]', hint) == [{"x": 1}]

    def test_beside_such_an_alias_the_payload_would_choose() -> None:
        assert round_trip(Point(1), Point | stated["Json"]) == {"x": 1, "day": "2024-05-06"}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (Box(Point(1), [Point(2)], {"a": Point(3), "b": None}), Box[Point]),
        (Box(DAY, [DAY], {}), Box[dt.date]),
        (Box([Box(Point(1), [], {})], [], {}), Box[list[Box[Point]]]),
        ([Box(Point(1), [], {})], list[Box[Point]]),
        (Box({"x": 1}, [], {}), Box),
        (Pair(Point(1), DAY), Pair[Point, dt.date]),
        (Turned(DAY, Point(1), (Point(2), DAY)), Turned[Point, dt.date]),
        (Lists([Point(1)], Point(2), Point(3)), Lists[Point]),
        (PointAndDay(Point(1), DAY), PointAndDay),
        (Later(Point(1), DAY, DAY), Later),
        (Named("a", Point(1)), Named[Point]),
        (Box(Named("a", Point(1)), [], {}), Box[Named[Point]]),
        (Box(Point(1), [Point(2)], {}), Box[typing.Annotated[Point, ["unhashable"]]]),
    ],
)
def test_generic_classes_come_back_whole(value: Any, hint: Any) -> None:
    assert converter.can_reconstruct(hint)
    result = round_trip(value, hint)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("parsed", "hint"),
    [
        ({"one": {"x": 1}, "many": [{"y": 1}], "named": {}}, Box[Point]),
        ([{"one": {"x": 1}, "many": [], "named": {}}, {"one": {"x": 1}}], list[Box[Point]]),
        ({"left": {"one": {"x": 1}, "many": [5], "named": {}}, "right": 1}, Pair[Box[Point], int]),
        ({"left": {"x": 1}, "right": "noon"}, PointAndDay),
        ({"who": "me", "point": {"x": 1}, "at": "noon"}, Visit),
        ([{"who": "me", "point": {"x": 1}}, {"who": "me", "point": {"y": 1}}], list[Visit]),
        ({"day": "2024-05-06", "branches": [{"day": "today", "branches": []}]}, Branch),
        ("text", Visit),
    ],
)
def test_what_does_not_fit_is_never_half_rebuilt(parsed: Any, hint: Any) -> None:
    assert converter.coerce(parsed, hint) is parsed
    assert converter.deserialize(json.dumps(parsed), hint) == parsed


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({"who": "me", "point": Point(1), "at": dt.datetime(2024, 5, 6)}, Visit),
        ({"who": "me", "point": Point(1)}, Visit),
        ({"who": "me", "point": Point(1), "more": {"x": 1}}, Visit),
        ([{"who": "me", "point": Point(1)}], list[Visit]),
        ({"who": "me", "point": Point(1)}, Visit | None),
        ({"who": "me", "point": Point(1)}, Visit | str),
        ({"day": DAY, "branches": [{"day": DAY, "branches": []}]}, Branch),
        ({"tag": Point(1)}, Tagged[Point]),
        ({"tag": Point(1), "other": DAY}, TaggedTwice),
        (Box({"who": "me", "point": Point(1)}, [], {}), Box[Visit]),
    ],
)
def test_members_of_typed_dictionaries_are_rebuilt(value: Any, hint: Any) -> None:
    assert converter.can_reconstruct(hint)
    assert round_trip(value, hint) == value


def test_typed_dictionaries_answer_attribute_access() -> None:
    visit = round_trip({"who": "me", "point": Point(1)}, Visit)
    assert type(visit) is AttributeDict
    assert visit.point.x == 1


def test_typed_dictionaries_of_what_json_keeps_are_not_reconstructed() -> None:
    assert not converter.can_reconstruct(Plain)
    assert not converter.can_reconstruct(Tagged[int])
    assert round_trip({"count": 1, "plains": []}, Plain) == {"count": 1, "plains": []}


def test_a_typed_dictionary_that_is_rebuilt_is_a_copy() -> None:
    parsed = {"who": "me", "point": {"x": 1}}
    assert converter.coerce(parsed, Visit) == {"who": "me", "point": Point(1)}
    assert parsed == {"who": "me", "point": {"x": 1}}
