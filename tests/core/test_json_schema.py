"""What type hints say as JSON Schema."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict
from uuid import UUID

import pytest

from durable_django.core.json_schema import json_schema


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    price: Decimal
    tags: list[str] = field(default_factory=list)
    parts: list[Item] = field(default_factory=list)


class Options(TypedDict):
    depth: int
    colour: NotRequired[Colour]


class Pair(NamedTuple):
    left: int
    right: int


Number = NewType("Number", int)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, {"type": "integer"}),
        (str, {"type": "string"}),
        (Any, {}),
        (None.__class__, {"type": "null"}),
        (Number, {"type": "integer"}),
        (Annotated[int, "positive"], {"type": "integer"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (list, {"type": "array", "items": {}}),
        (Sequence[int], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict, {"type": "object", "additionalProperties": {}}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Colour, {"title": "Colour", "enum": ["red"]}),
        (Pair, {"type": "array", "title": "Pair"}),
        (type("Odd", (), {}), {}),
        ("what is this", {}),
    ],
)
def test_hints(hint: Any, expected: dict[str, Any]) -> None:
    assert json_schema(hint) == expected


def test_a_pair_has_its_items() -> None:
    schema = json_schema(tuple[int, str])
    assert schema["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    assert (schema["minItems"], schema["maxItems"]) == (2, 2)


def test_a_dataclass_has_properties_and_ends_where_it_holds_itself() -> None:
    schema = json_schema(Item)
    assert schema["required"] == ["name", "price"]
    assert schema["properties"]["price"] == {"type": "string", "format": "decimal"}
    assert schema["properties"]["parts"]["items"] == {"type": "object", "title": "Item"}


def test_a_typed_dictionary_knows_what_is_required() -> None:
    schema = json_schema(Options)
    assert schema["required"] == ["depth"]
    assert schema["properties"]["colour"] == {"title": "Colour", "enum": ["red"]}


def test_a_model_describes_itself() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object", "title": "Model"}

    class Broken:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            raise RuntimeError

    assert json_schema(Model) == {"type": "object", "title": "Model"}
    assert json_schema(Broken) == {}
