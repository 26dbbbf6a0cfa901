"""Payloads: written as plain JSON, rebuilt by type hint, refused when they cannot be stored."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import pickle
import typing
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_django.core.annotations import input_type, return_type
from durable_django.core.json_decoding import AttributeDict as CoreAttributeDict
from durable_django.core.serialization import PayloadCodec
from durable_django.serialization import (
    DEFAULT_DATA_CONVERTER,
    AttributeDict,
    DataConverter,
    JsonDataConverter,
    PayloadError,
)

if typing.TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

converter = JsonDataConverter()

Approval = namedtuple("Approval", ["approver", "note"], defaults=["none"])


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Tenth(enum.IntEnum):
    ALL = 10


class Mode(enum.StrEnum):
    FAST = "fast"


class Point(NamedTuple):
    x: int
    day: dt.date = dt.date(2020, 1, 1)


class Money:
    def __init__(self, amount: str) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.amount == self.amount

    def __hash__(self) -> int:
        return hash(self.amount)

    def to_json(self) -> Any:
        return {"eur": self.amount}

    @classmethod
    def from_json(cls, value: Any) -> Money:
        return cls(value["eur"])


@dataclass
class Item:
    sku: str
    price: Money
    quantity: int = 1


@dataclass
class Order:
    number: uuid.UUID
    items: list[Item]
    placed: dt.datetime
    colour: Colour = Colour.RED
    total: Decimal | None = None
    wait: dt.timedelta = dt.timedelta()
    points: tuple[Point, ...] = ()
    levels: dict[Level, Item] = field(default_factory=dict)
    parent: Order | None = None
    checked: bool = field(default=False, init=False)


@dataclass
class Partly:
    day: dt.date
    other: Unknown


class Movie(TypedDict):
    title: str


OrderId = NewType("OrderId", uuid.UUID)


def order(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "number": uuid.UUID(int=7),
        "items": [Item("a", Money("1.50"), 2)],
        "placed": dt.datetime(2024, 5, 6, 7, 8, 9, 120_000, tzinfo=dt.UTC),
        "colour": Colour.BLUE,
        "total": Decimal("3.00"),
        "wait": dt.timedelta(days=2, microseconds=5),
        "points": (Point(1), Point(2, dt.date(2021, 2, 3))),
        "levels": {Level.HIGH: Item("b", Money("2"))},
    }
    return Order(**(values | changes))


def round_trip(value: Any, target_type: Any = None) -> Any:
    return converter.deserialize(converter.serialize(value), target_type)


# Plain values

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), inner)
    ),
)


@given(plain_values.filter(lambda value: value is not None))
@example("\\u0000")
@example("\\\\u0000 \\ud800")
@example({"\\ud800": "😀"})
def test_plain_values_are_written_as_json_dumps_writes_them(value: Any) -> None:
    text = converter.serialize(value)
    assert text == json.dumps(value)
    assert converter.deserialize(text) == value


@given(plain_values)
def test_values_of_subclasses_are_written_like_their_bases(value: Any) -> None:
    # The second way through the encoder, which plain values do not take.
    assert converter.serialize([value, OrderedDict()]) == json.dumps([value, {}])


def test_none_is_no_payload() -> None:
    assert converter.serialize(None) is None
    assert converter.deserialize(None) is None
    assert converter.deserialize("") is None
    assert converter.deserialize(None, Order) is None
    assert converter.deserialize("null", Order) is None


@pytest.mark.parametrize("value", [{1: "a", None: "b", False: "c", 1.5: "d"}, (1, 2), float("inf")])
def test_what_json_dumps_converts_is_left_to_it(value: Any) -> None:
    assert converter.serialize(value) == json.dumps(value)


@pytest.mark.parametrize("text", ["{", "nope", "[1,]"])
def test_invalid_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        converter.deserialize(text)


# Objects


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Item("a", Money("1")), {"sku": "a", "price": {"eur": "1"}, "quantity": 1}),
        (Point(1), {"x": 1, "day": "2020-01-01"}),
        (Approval("me"), {"approver": "me", "note": "none"}),
        (SimpleNamespace(a=1, b=[Money("2")]), {"a": 1, "b": [{"eur": "2"}]}),
        (Colour.RED, "red"),
        (Level.HIGH, 2),
        (Mode.FAST, "fast"),
        ({Mode.FAST: Level.LOW}, {"fast": 1}),
        ({Level.LOW: 1}, {"1": 1}),
        ([Money("1")], [{"eur": "1"}]),
        (AttributeDict(a=AttributeDict(b=1)), {"a": {"b": 1}}),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 678_901), "2024-01-02T03:04:05.678"),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05Z"),
        (
            dt.datetime(2024, 1, 2, 3, 4, 5, 999_999, dt.timezone(dt.timedelta(hours=2))),
            "2024-01-02T03:04:05.999+02:00",
        ),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.time(3, 4, 5, 678_901), "03:04:05.678"),
        (dt.timedelta(days=1, hours=2, minutes=3, seconds=4), "P1DT02H03M04S"),
        (-dt.timedelta(microseconds=5), "-P0DT00H00M00.000005S"),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_objects_are_written_as_plain_json(value: Any, written: Any) -> None:
    assert converter.serialize(value) == json.dumps(written)


def test_a_hook_comes_before_everything_else() -> None:
    @dataclass
    class Hooked:
        secret: object

        def to_json(self) -> Any:
            return Colour.RED

    class HookedDict(dict[str, Any]):
        def to_json(self) -> Any:
            return sorted(self)

    class HookedInt(int):
        @staticmethod
        def to_json(value: int) -> str:
            return f"#{int(value)}"

    class HookedEnum(enum.Enum):
        A = 1

        def to_json(self) -> str:
            return self.name

    value = [Hooked(object()), HookedDict(b=1, a=2), HookedInt(5), HookedEnum.A]
    assert converter.serialize(value) == '["red", ["a", "b"], "#5", "A"]'


def test_subclasses_of_scalars_are_written_by_their_value() -> None:
    class Loud(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self.upper()

    class Odd(int):
        def __repr__(self) -> str:
            return "odd"

    assert converter.serialize({Loud("k"): [Loud("v"), Odd(3), True]}) == '{"k": ["v", 3, true]}'


# What cannot be written


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), r"'object' at \$ is"),
        ({"items": [1, 2, 3, {"owner": object()}]}, r"'object' at \$\.items\[3\]\.owner is"),
        ({"a b": {"ü": [b"x"]}}, r"'bytes' at \$\[\"a b\"\]\[\"\\u00fc\"\]\[0\] is"),
        ({1: {2, 3}}, r"'set' at \$\[\"1\"\] is"),
        ([Item("a", typing.cast("Money", 3j))], r"'complex' at \$\[0\]\.price is"),
        (SimpleNamespace(a=Approval(object())), r"'object' at \$\.a\.approver is"),
        ({"a": {(1, 2): 3}}, r"Key of type 'tuple' in the object at \$\.a is"),
        ([{uuid.UUID(int=1): 3}], r"Key of type 'uuid\.UUID' in the object at \$\[0\] is"),
        (Order, r"'type' at \$ is"),
        ([ValueError("x")], r"'ValueError' at \$\[0\] is"),
    ],
)
def test_a_type_that_cannot_be_written_is_named_with_its_path(value: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        converter.serialize(value)


def test_circular_references_are_named() -> None:
    items: list[Any] = [1]
    items.append({"back": items})
    with pytest.raises(ValueError, match=r"at \$\[1\]\.back is circular"):
        converter.serialize(items)

    looped = order()
    looped.parent = looped
    with pytest.raises(ValueError, match=r"at \$\.parent is circular"):
        converter.serialize(looped)


def test_one_object_in_two_places_is_no_circle() -> None:
    shared = SimpleNamespace(a=1)
    assert converter.serialize([shared, shared]) == '[{"a": 1}, {"a": 1}]'


def test_a_time_with_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"time with a time zone at \$\.at "):
        converter.serialize({"at": dt.time(1, tzinfo=dt.UTC)})


def test_nesting_without_end_is_refused() -> None:
    deep: Any = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(PayloadError, match="nested too deeply"):
        converter.serialize(deep)
    with pytest.raises(PayloadError, match="nested too deeply"):
        converter.deserialize("[" * 200_000 + "]" * 200_000)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("a\x00", r"\$ holds"),
        (["😀", {"x": ["\x00"]}], r"\$\[1\]\.x\[0\] holds"),
        ({"k\x00": 1}, r"\$\[\"k\\u0000\"\] holds"),
        ("\ud83d", r"\$ holds"),
        ("\ude00\ud83d", r"\$ holds"),
        ("😀\udc00", r"\$ holds"),
        ("\\\\ud83d\ude00", r"\$ holds"),
        (SimpleNamespace(a=Colour.RED, b="\\\x00"), r"\$\.b holds"),
    ],
)
def test_text_that_no_database_holds_is_refused(value: Any, place: str) -> None:
    with pytest.raises(PayloadError, match=place):
        converter.serialize(value)


@given(st.text(st.characters(codec=None, categories=None) | st.sampled_from("\\u0d8\x00\ud800\udc00")))
def test_exactly_the_unstorable_texts_are_refused(text: str) -> None:
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    storable = "\x00" not in text and joined.count("\ufffd") == text.count("\ufffd")
    if storable:
        assert converter.serialize(text) == json.dumps(text)
    else:
        with pytest.raises(PayloadError):
            converter.serialize(text)


# AttributeDict


def test_objects_answer_attribute_access() -> None:
    value = converter.deserialize('{"approver": {"name": "me"}, "tags": [{"a": 1}], "items": 3}')
    assert value.approver.name == "me"
    assert value.tags[0].a == 1
    assert value["items"] == 3
    assert callable(value.items)
    assert value == {"approver": {"name": "me"}, "tags": [{"a": 1}], "items": 3}
    assert isinstance(value, dict)
    assert not hasattr(value, "missing")


def test_attributes_can_be_set_and_deleted() -> None:
    value = AttributeDict()
    value.a = 1
    assert value == {"a": 1}
    del value.a
    assert value == {}
    with pytest.raises(AttributeError, match="'a'"):
        del value.a


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v)), dict.copy]
)
def test_attribute_dicts_copy(copied: Any) -> None:
    value = converter.deserialize(
        '{"a": {"b": [1]}, "__deepcopy__": 1, "__reduce_ex__": 2, "__setstate__": 3}'
    )
    assert copied(value) == value


def test_copies_keep_their_attributes() -> None:
    value = converter.deserialize('{"a": {"b": [1]}}')
    assert type(value.copy()) is AttributeDict
    assert copy.deepcopy(value).a.b == [1]
    assert CoreAttributeDict is AttributeDict


# Rebuilding by type


def test_a_dataclass_comes_back_whole() -> None:
    original = order(parent=order())
    assert round_trip(original, Order) == original


def test_unknown_keys_are_ignored_and_defaults_apply() -> None:
    assert converter.deserialize('{"sku": "a", "price": {"eur": "1"}, "new": 1}', Item) == Item(
        "a", Money("1")
    )


def test_a_member_whose_hint_cannot_be_resolved_stays_plain() -> None:
    value = converter.deserialize('{"day": "2024-01-02", "other": {"a": 1}}', Partly)
    assert value == Partly(dt.date(2024, 1, 2), {"a": 1})


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (Colour.BLUE, Colour),
        (Level.HIGH, Level),
        (Mode.FAST, Mode),
        (Point(3), Point),
        (Approval("me"), Approval),
        (Money("1"), Money),
        (SimpleNamespace(a=1), SimpleNamespace),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 6000), dt.datetime),
        (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), dt.datetime),
        (dt.date(2024, 1, 2), dt.date),
        (dt.time(1, 2, 3, 4000), dt.time),
        (dt.timedelta.max, dt.timedelta),
        (dt.timedelta.min, dt.timedelta),
        (Decimal("-1.5E+3"), Decimal),
        (uuid.UUID(int=5), uuid.UUID),
        (uuid.UUID(int=5), OrderId),
        (Point(1), Point | None),
        (Point(1), typing.Optional[Point]),  # noqa: UP045
        (Point(1), Annotated[Point, ["unhashable"]]),
        ([Point(1), None], list[Point | None]),
        ([Point(1)], typing.List[Point]),  # noqa: UP006
        ([Point(1)], Sequence[Point]),
        ({"a": Point(1)}, dict[str, Point]),
        ({"a": [Point(1)]}, Mapping[str, list[Point]]),
        ({5: Point(1)}, dict[int, Point]),
        ((1, Point(2)), tuple[int, Point]),
        ((Point(2),), tuple[Point, ...]),
        ((1, "a"), tuple),
        (Point(1), Point | str),
        ("a", Point | str),
        ("2024-01-02", dt.date | str),
        ({"a": 1}, Point | dict[str, int]),
        (5, Decimal | float),
    ],
)
def test_values_come_back_by_their_hint(value: Any, hint: Any) -> None:
    result = round_trip(value, hint)
    assert result == value
    assert type(result) is type(value) or isinstance(value, dict)
    assert converter.can_reconstruct(hint)


@pytest.mark.parametrize(
    ("parsed", "hint", "expected"),
    [
        ([1, 2, 2], set[int], {1, 2}),
        (["red"], frozenset[Colour], frozenset({Colour.RED})),
        ([1, "2020-02-03"], Point, Point(1, dt.date(2020, 2, 3))),
        ([1], Point, Point(1)),
        (1.5, Decimal, Decimal("1.5")),
        ("P1D", dt.timedelta, dt.timedelta(days=1)),
        ("PT1M0.5S", dt.timedelta, dt.timedelta(minutes=1, milliseconds=500)),
        (5, float, 5.0),
        (5.0, int, 5),
        ("5", int, 5),
        (5, str, "5"),
        ("-5", int, -5),
        ("1.50", float, 1.5),
        ("0.1", float, 0.1),
        ("1e+16", float, 1e16),
        ("5", float, 5.0),
        ("Infinity", float, float("inf")),
        (2**53, float, float(2**53)),
        ({"a": 1}, OrderedDict, OrderedDict(a=1)),
        ({"title": "x"}, Movie, {"title": "x"}),
    ],
)
def test_json_is_converted_where_nothing_is_lost(parsed: Any, hint: Any, expected: Any) -> None:
    for result in (converter.coerce(parsed, hint), converter.deserialize(json.dumps(parsed), hint)):
        assert result == expected
        assert type(result) is type(expected) or isinstance(expected, dict)


@pytest.mark.parametrize(
    ("parsed", "hint"),
    [
        ({"price": {"eur": "1"}}, Item),  # a required field is missing
        ("text", Item),
        ({"usd": 1}, Money),
        ([{"sku": "a", "price": {"eur": "1"}}, 5], list[Item]),
        ({"a": 1}, list[Item]),
        ("text", list[str]),
        ([1], dict[str, Item]),
        ([1, 2, 3], tuple[int, str]),
        ([1, "2020-01-01", 3], Point),
        ("green", Colour),
        ("noon", dt.datetime),
        ("P", dt.timedelta),
        ("PT", dt.timedelta),
        (5, dt.date),
        ("x", uuid.UUID),
        ("x", Decimal),
        ("text", SimpleNamespace),
        (2.5, int),
        (2**53 + 1, float),
        (10**400, float),
        ("9007199254740993", float),
        ("0.10000000000000000001", float),
        ("1e400", float),
        ("1_0", int),
        ("1_0", float),
        ("1_0", Decimal),
        ("1_0", Tenth),
        ("007", int),
        ("007", float),
        (" 5", int),
        ("+5", int),
        ("\N{ARABIC-INDIC DIGIT FIVE}", int),
        (True, str),
        ("yes", bool),
        ("x", float),
        ({"sku": "a"}, Item | Money),  # the payload may not choose
        ({"a": 1}, object),
        ({"a": 1}, Any),
        ({"a": 1}, "Order"),
        ({"a": 1}, 5),
        ({"a": 1}, [int]),
        ("a", Literal["a"]),
    ],
)
def test_what_does_not_fit_stays_plain_json(parsed: Any, hint: Any) -> None:
    assert converter.coerce(parsed, hint) is parsed
    result = converter.deserialize(json.dumps(parsed), hint)
    assert result == parsed
    assert isinstance(result, AttributeDict) or not isinstance(parsed, dict)


def test_values_that_are_instances_already_are_left_alone() -> None:
    item = Item("a", Money("1"))
    assert converter.coerce(item, Item) is item
    assert converter.coerce([item], list[Item])[0] is item
    assert converter.coerce(Colour.RED, Colour) is Colour.RED
    assert converter.coerce({"a": 1}, None) == {"a": 1}


def test_the_payload_never_chooses_the_type() -> None:
    text = json.dumps({"__class__": "Order", "py/object": "builtins.dict", "__type__": "x"})
    assert type(converter.deserialize(text)) is AttributeDict


def test_hooks_may_ask_for_the_converter() -> None:
    class Box:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        @classmethod
        def from_json(cls, value: Any, converter: DataConverter) -> Box:
            return cls(converter.coerce(value["inner"], Point))

    class Strict:
        strict: Any

        @staticmethod
        def from_json(value: Any, strict: bool = False) -> Strict:
            result = Strict()
            result.strict = strict
            return result

    assert converter.deserialize('{"inner": {"x": 1}}', Box).inner == Point(1)
    assert converter.deserialize("{}", Strict).strict is False


@pytest.mark.parametrize(
    "hint",
    [
        int,
        str,
        float,
        bool,
        list,
        dict,
        Any,
        None,
        object,
        list[int],
        dict[str, str],
        int | None,
        Movie,
        "Order",
    ],
)
def test_types_that_json_keeps_are_not_reconstructed(hint: Any) -> None:
    assert not converter.can_reconstruct(hint)


def test_a_subclass_may_claim_types_within_containers() -> None:
    class Model:
        pass

    class ModelConverter(JsonDataConverter):
        def can_reconstruct(self, target_type: Any) -> bool:
            return target_type is Model or super().can_reconstruct(target_type)

    assert ModelConverter().can_reconstruct(list[Model] | None)
    assert not converter.can_reconstruct(list[Model])


@dataclass
class Sample:
    when: dt.datetime
    day: dt.date | None
    wait: dt.timedelta
    amount: Decimal
    key: uuid.UUID
    colours: list[Colour]
    point: Point
    levels: dict[Level, dt.time]
    rest: Any
    numbers: tuple[int, str] = (0, "")


def milliseconds(value: Any) -> Any:
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


@given(
    st.builds(
        Sample,
        when=st.datetimes(timezones=st.none() | st.just(dt.UTC)).map(milliseconds),
        day=st.none() | st.dates(),
        wait=st.timedeltas(),
        amount=st.decimals(allow_nan=False),
        key=st.uuids(),
        colours=st.lists(st.sampled_from(Colour)),
        point=st.builds(Point, st.integers(), st.dates()),
        levels=st.dictionaries(st.sampled_from(Level), st.times().map(milliseconds)),
        rest=plain_values,
        numbers=st.tuples(st.integers(), st.text("abc")),
    )
)
def test_typed_values_round_trip(sample: Sample) -> None:
    text = converter.serialize(sample)
    assert converter.deserialize(text, Sample) == sample
    assert converter.serialize(converter.deserialize(text)) == text
    assert converter.coerce(converter.deserialize(text), Sample) == sample


@given(
    plain_values,
    st.sampled_from([Order, Sample, list[Point], dict[Level, Item], Colour, Money, dt.timedelta]),
)
def test_any_json_is_accepted_for_any_hint(value: Any, hint: Any) -> None:
    converter.deserialize(json.dumps(value), hint)
    converter.coerce(value, hint)


# Annotations


def plain(ctx: Any, order: Order) -> Point | None: ...


async def awaited(ctx: Any, when: dt.datetime) -> list[Point]:
    return []


def generator(ctx: Any, number: int) -> Generator[Any, Any, Order]:
    yield 1
    return order()


def bare_generator(ctx: Any, _: Any) -> Generator[Any]:  # type: ignore[type-arg, unused-ignore]
    yield 1


async def stream(ctx: Any, _: Any) -> AsyncGenerator[Order, None]:
    yield order()


def unresolved(ctx: Any, order: Unknown) -> Order:
    return order  # type: ignore[no-any-return]


def unannotated(ctx, order):  # type: ignore[no-untyped-def]
    return order


class Callable_:  # noqa: N801
    def __call__(self, ctx: Any, order: Order) -> Point: ...  # type: ignore[empty-body]

    def method(self, order: Order) -> Point: ...  # type: ignore[empty-body]


def wrapping(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


@pytest.mark.parametrize(
    ("fn", "given_type", "returned"),
    [
        (plain, Order, Point | None),
        (awaited, dt.datetime, list[Point]),
        (generator, None, Order),
        (bare_generator, None, None),
        (stream, None, None),
        (unresolved, None, Order),
        (unannotated, None, None),
        (wrapping(plain), Order, Point | None),
        (functools.partial(plain), Order, Point | None),
        (Callable_(), Order, Point),
        (Callable_.method, Order, Point),
        (Callable_().method, None, Point),
        (lambda ctx: None, None, None),
        ("name", None, None),
        (print, None, None),
        (int, None, None),
    ],
)
def test_annotations_of_functions(fn: Any, given_type: Any, returned: Any) -> None:
    assert input_type(fn) == given_type
    assert return_type(fn) == returned


def test_the_converter_decides_which_annotations_count() -> None:
    class Nothing(TextConverter):
        pass

    class Everything(TextConverter):
        def can_reconstruct(self, target_type: Any) -> bool:
            return True

    assert input_type(plain, Nothing()) is None
    assert input_type(generator, Everything()) is int
    assert input_type(bare_generator, Everything()) is None


def test_an_unhashable_callable_is_read_each_time() -> None:
    class Unhashable(Callable_):
        __hash__ = None  # type: ignore[assignment]

    assert input_type(Unhashable()) is Order


# The codec


class TextConverter(DataConverter):
    """Writes what it is given, as it is."""

    def serialize(self, value: Any) -> Any:
        return value

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        return data

    def coerce(self, value: Any, target_type: Any = None) -> Any:
        return value


def test_the_codec_writes_and_reads() -> None:
    codec = PayloadCodec(DEFAULT_DATA_CONVERTER)
    text = codec.dumps(Point(1), "the input")
    assert text == '{"x": 1, "day": "2020-01-01"}'
    assert codec.loads(text, Point) == Point(1)
    assert codec.loads(text).x == 1
    assert codec.dumps(None, "the input") is None
    assert codec.loads(None) is None


def test_the_codec_measures_bytes() -> None:
    assert PayloadCodec(converter, 10).dumps("x" * 8, "the input") == '"xxxxxxxx"'
    assert PayloadCodec(TextConverter(), 4).dumps("üü", "the input") == "üü"
    with pytest.raises(
        PayloadError, match="the input of activity 'a': it takes 11 bytes, and MAX_PAYLOAD_BYTES allows 10"
    ):
        PayloadCodec(converter, 10).dumps("x" * 9, "the input of activity 'a'")
    with pytest.raises(PayloadError, match="5 bytes"):
        PayloadCodec(TextConverter(), 4).dumps("üüx", "the input")


@pytest.mark.parametrize("text", ["a\x00", "\ud800"])
def test_the_codec_refuses_text_that_no_database_holds(text: str) -> None:
    with pytest.raises(PayloadError, match="the result"):
        PayloadCodec(TextConverter()).dumps(text, "the result")


def test_the_codec_refuses_a_converter_that_writes_no_text() -> None:
    with pytest.raises(TypeError, match=r"TextConverter\.serialize\(\) gave the result as bytes"):
        PayloadCodec(TextConverter()).dumps(b"{}", "the result")


def test_errors_of_the_converter_say_what_was_written() -> None:
    with pytest.raises(TypeError, match=r"'object' at \$\.a") as caught:
        PayloadCodec().dumps({"a": object()}, "the result of activity 'x'")
    assert "the result of activity 'x'" in caught.value.__notes__[0]


def test_the_codec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PayloadCodec().max_bytes = 1  # type: ignore[misc]


def test_text_forms_are_those_of_djangos_encoder() -> None:
    encoder = pytest.importorskip("django.core.serializers.json").DjangoJSONEncoder
    values = [
        dt.datetime(2024, 1, 2, 3, 4, 5, 6),
        dt.datetime(1, 1, 1, 0, 0, 0, 999, dt.UTC),
        dt.time(1, 2, 3, 999_999),
        dt.timedelta(days=-3, microseconds=7),
        decimal.Decimal("1E+5"),
        uuid.UUID(int=9),
    ]
    assert converter.serialize(values) == json.dumps(values, cls=encoder)
