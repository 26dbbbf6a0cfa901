"""JSON Schema of a type hint: what a form or an API may tell people about a payload before they send it."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import json
import types
import typing
import uuid
from typing import Any

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    types.NoneType: {"type": "null"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    decimal.Decimal: {"type": "string", "format": "decimal"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
    dt.time: {"type": "string", "format": "time"},
    dt.timedelta: {"type": "string", "format": "duration"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    Any: {},
    object: {},
}
_ARRAYS = frozenset(
    {
        list,
        set,
        frozenset,
        tuple,
        collections.abc.Iterable,
        collections.abc.Collection,
        collections.abc.Sequence,
        collections.abc.MutableSequence,
        collections.abc.Set,
    }
)
_OBJECTS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})
_DEEPEST = 12
_DEEPEST_CLASSES = 3
"""How deep classes within classes are told: those that hold each other would never end."""


def json_schema(hint: Any) -> dict[str, Any]:
    """Return the JSON Schema of the payloads that fit a type hint; an empty one allows everything.

    It is a help, not a check: what it does not know, it leaves open.
    """
    return _schema(hint, ())


def _schema(hint: Any, within: tuple[Any, ...]) -> dict[str, Any]:
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if len(within) > _DEEPEST or not _is_hashable(origin):
        return {}
    if origin in _SCALARS:
        return dict(_SCALARS[origin])
    if origin is typing.Literal:
        return _enum([arg.value if isinstance(arg, enum.Enum) else arg for arg in args])
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(arg, within) for arg in args]}
    if origin is tuple and args and args[-1] is not Ellipsis:
        return {
            "type": "array",
            "prefixItems": [_schema(arg, within) for arg in args],
            "minItems": len(args),
            "maxItems": len(args),
        }
    if origin in _ARRAYS:
        return {"type": "array", "items": _schema(args[0], within) if args else {}}
    if origin in _OBJECTS:
        return {"type": "object", "additionalProperties": _schema(args[1], within) if len(args) == 2 else {}}
    return _class_schema(origin, within) if isinstance(origin, type) else {}


def _class_schema(cls: type, within: tuple[Any, ...]) -> dict[str, Any]:
    own = getattr(cls, "model_json_schema", None)  # pydantic's
    if callable(own):
        return _from_model(own)
    if cls in within or len(within) > _DEEPEST_CLASSES:
        return {"type": "object", "title": cls.__name__}
    if issubclass(cls, enum.Enum):
        return {"title": cls.__name__, **_enum([member.value for member in cls])}
    if dataclasses.is_dataclass(cls):
        required = [
            field.name
            for field in dataclasses.fields(cls)
            if field.init
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        names = [field.name for field in dataclasses.fields(cls) if field.init]
    elif typing.is_typeddict(cls):
        names, required = list(cls.__annotations__), _required_keys(cls)
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return {"type": "array", "title": cls.__name__}
    else:
        return {}
    hints = _hints(cls)
    return {
        "type": "object",
        "title": cls.__name__,
        "properties": {name: _schema(hints.get(name, Any), (*within, cls)) for name in names},
        "required": required,
    }


def _enum(values: list[Any]) -> dict[str, Any]:
    try:
        json.dumps(values)
    except (TypeError, ValueError):
        return {}
    return {"enum": values}


def _from_model(own: Any) -> dict[str, Any]:
    try:
        schema = own()
    except Exception:  # noqa: BLE001 - code of another library, for a help
        return {}
    return schema if isinstance(schema, dict) else {}


def _hints(cls: type) -> dict[str, Any]:
    try:
        found = typing.get_type_hints(cls)
    except Exception:  # noqa: BLE001 - evaluates what users wrote, with names that only type checkers see
        return {}
    return found


def _required_keys(cls: Any) -> list[str]:
    try:
        marked = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001 - as above
        marked = {}
    # Where annotations are text, the class itself does not see the marks in it.
    marks = {name: typing.get_origin(hint) for name, hint in marked.items()}
    return [
        name
        for name in cls.__annotations__
        if marks.get(name) is typing.Required
        or (name in cls.__required_keys__ and marks.get(name) is not typing.NotRequired)
    ]


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
