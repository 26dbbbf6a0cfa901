"""JSON text to Python values, rebuilt as the types that the reader names."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import json
import re
import types
import typing
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from durable_django.core.errors import PayloadError
from durable_django.core.type_hints import bare_hint, member_hints, remembering

if TYPE_CHECKING:
    from durable_django.core.serialization import DataConverter

_Rebuilder = Callable[[Any, "DataConverter"], Any]

_ARRAYS: dict[Any, type] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_OBJECTS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})
_LOST_COLLECTIONS = frozenset(origin for origin, make in _ARRAYS.items() if make is not list)
_ARRAY_VALUES = (list, tuple, set, frozenset)
_SCALARS = (str, int, float)
_SUBCLASSED: tuple[type, ...] = (str, int, float, list, dict, tuple, set, frozenset)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|-?Infinity")
_DURATION = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?"
)


class AttributeDict(dict[str, Any]):
    """A JSON object whose members are attributes too, where no method of `dict` has the name."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling look for special methods, which no payload may provide.
        if name in self and not (name.startswith("__") and name.endswith("__")):
            return self[name]
        raise AttributeError(f"The object has no member {name!r}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"The object has no member {name!r}", name=name, obj=self) from None

    def copy(self) -> Self:
        return type(self)(self)


_DECODER = json.JSONDecoder(object_hook=AttributeDict)


def decode(text: str) -> Any:
    """Return the value of a JSON text, its objects as `AttributeDict`.

    Raises:
        ValueError: the text is no JSON.
        PayloadError: it is nested too deeply to be read.
    """
    try:
        return _decode(text)
    except RecursionError as error:
        raise PayloadError("The JSON text is nested too deeply to be read") from error


def _decode(text: str) -> Any:
    try:
        # What is written here has no white space around it, which `decode` would look for twice.
        value, end = _DECODER.raw_decode(text)
        if end == len(text):
            return value
    except ValueError:
        pass  # For `decode` to say.
    return _DECODER.decode(text)


def rebuild(value: Any, hint: Any, converter: DataConverter) -> Any:
    """Return a parsed JSON value as the type that ``hint`` says.

    Values that have the type already, and None, are left alone; so is all of which the hint says nothing that
    JSON loses. ``converter`` is for ``from_json`` hooks that have a parameter of this name.

    Raises:
        Exception: the value does not fit; whatever the type's own constructor or hook raised.
    """
    return _apply(_rebuilder(hint), value, converter)


@remembering
def is_rebuilt(hint: Any) -> bool:
    """Tell whether ``hint`` is a class that JSON does not give back by itself, or a TypedDict with one."""
    return _is_rebuilt(hint, ())


def _is_rebuilt(hint: Any, around: tuple[Any, ...]) -> bool:
    """Tell what `is_rebuilt` tells; ``around`` are the TypedDicts that it is a member of."""
    hint = bare_hint(hint)
    origin = typing.get_origin(hint) or hint
    if not isinstance(origin, type) or _is_union(origin):
        return False
    if typing.is_typeddict(origin):
        members = () if origin in around else member_hints(origin, typing.get_args(hint)).values()
        return any(_is_lost(member, (*around, origin)) for member in members)
    return origin in _LOST_COLLECTIONS or _class_rebuilder(origin, ()) is not None


def _is_lost(hint: Any, around: tuple[Any, ...]) -> bool:
    return _is_rebuilt(hint, around) or any(_is_lost(wrapped, around) for wrapped in wrapped_hints(hint))


@remembering
def wrapped_hints(hint: Any) -> tuple[Any, ...]:
    """Return the hints that an Optional, a union, or a list, mapping and so on is made of."""
    hint = bare_hint(hint)
    origin = typing.get_origin(hint)
    if _is_union(origin) or origin in _ARRAYS or origin in _OBJECTS:
        return tuple(arg for arg in typing.get_args(hint) if arg not in (types.NoneType, Ellipsis))
    return ()


def _apply(rebuilder: _Rebuilder | None, value: Any, converter: DataConverter) -> Any:
    return value if rebuilder is None or value is None else rebuilder(value, converter)


@remembering
def _rebuilder(hint: Any) -> _Rebuilder | None:
    """Return what rebuilds values as ``hint`` says, None where there is nothing to rebuild."""
    hint = bare_hint(hint)
    args = typing.get_args(hint)
    origin = typing.get_origin(hint) or hint
    if _is_union(origin):
        return _union_rebuilder(args)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return _fixed_tuple_rebuilder(args)
    if not isinstance(origin, type):
        return None
    if origin in _ARRAYS:
        return _array_rebuilder(_ARRAYS[origin], _rebuilder(args[0]) if args else None)
    if origin in _OBJECTS:
        return _object_rebuilder(*args) if args else None
    return _class_rebuilder(origin, args) or _builtin_rebuilder(origin)


def _is_union(origin: Any) -> bool:
    return origin is typing.Union or origin is types.UnionType


def _misfit(value: Any, expected: str) -> TypeError:
    return TypeError(f"{expected} cannot be made from a {type(value).__name__}")


def _union_rebuilder(args: tuple[Any, ...]) -> _Rebuilder | None:
    """Rebuild as the one member that JSON loses; between several the payload would choose: none is taken."""
    members = [arg for arg in args if arg is not types.NoneType]
    if len(members) == 1:
        return _rebuilder(members[0])
    lost = [member for member in members if is_rebuilt(member) or any(map(is_rebuilt, wrapped_hints(member)))]
    if len(lost) != 1 or Any in map(bare_hint, members):
        return None
    rebuilder = _rebuilder(lost[0])
    kept = tuple(_instance_class(member) for member in members if member is not lost[0])

    def rebuild_union(value: Any, converter: DataConverter) -> Any:
        return value if isinstance(value, kept) else _apply(rebuilder, value, converter)

    return rebuild_union


def _instance_class(hint: Any) -> Any:
    """Return what `isinstance` knows a hint's values by."""
    hint = bare_hint(hint)
    cls = typing.get_origin(hint) or hint
    if typing.is_typeddict(cls):
        return dict
    if cls is float:
        return (int, float)
    return cls if isinstance(cls, type) else ()


def _array_rebuilder(make: type, item_rebuilder: _Rebuilder | None) -> _Rebuilder | None:
    if make is list and item_rebuilder is None:
        return None

    def rebuild_array(value: Any, converter: DataConverter) -> Any:
        if not isinstance(value, _ARRAY_VALUES):
            raise _misfit(value, f"A {make.__name__}")
        return make([_apply(item_rebuilder, item, converter) for item in value])

    return rebuild_array


def _fixed_tuple_rebuilder(args: tuple[Any, ...]) -> _Rebuilder:
    rebuilders = [_rebuilder(arg) for arg in args]

    def rebuild_tuple(value: Any, converter: DataConverter) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(rebuilders):
            raise _misfit(value, f"A tuple of {len(rebuilders)}")
        members = zip(rebuilders, value, strict=True)
        return tuple(_apply(rebuilder, item, converter) for rebuilder, item in members)

    return rebuild_tuple


def _object_rebuilder(key_hint: Any, value_hint: Any) -> _Rebuilder | None:
    key_rebuilder = None if key_hint is str else _rebuilder(key_hint)
    value_rebuilder = _rebuilder(value_hint)
    if key_rebuilder is None and value_rebuilder is None:
        return None

    def rebuild_object(value: Any, converter: DataConverter) -> Any:
        if not isinstance(value, dict):
            raise _misfit(value, "A dict")
        return {
            _apply(key_rebuilder, key, converter): _apply(value_rebuilder, item, converter)
            for key, item in value.items()
        }

    return rebuild_object


@remembering
def _class_rebuilder(cls: type, arguments: tuple[Any, ...]) -> _Rebuilder | None:
    """Return the rebuilder of a class that JSON does not give back by itself, None for every other.

    ``arguments`` are those of a generic class. A TypedDict has one too: JSON may not give back its members.
    """
    if typing.is_typeddict(cls):
        return functools.partial(_build_typed_dict, cls, arguments)
    hook = getattr(cls, "from_json", None)
    if callable(hook):
        build = _hook_builder(hook)
    elif issubclass(cls, enum.Enum):
        build = functools.partial(_build_enum, cls)
    elif dataclasses.is_dataclass(cls):
        build = functools.partial(_build_dataclass, cls, arguments)
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        build = functools.partial(_build_namedtuple, cls, arguments)
    elif issubclass(cls, types.SimpleNamespace):
        build = functools.partial(_build_namespace, cls)
    else:
        parse = next((parse for base, parse in _TEXT_PARSERS if issubclass(cls, base)), None)
        if parse is None:
            return None
        build = functools.partial(_build_from_text, cls, parse)

    return lambda value, converter: value if isinstance(value, cls) else build(value, converter)


def _hook_builder(hook: Callable[..., Any]) -> _Rebuilder:
    """Call a ``from_json`` hook, with the converter if its second parameter is called so."""
    try:
        parameters = list(inspect.signature(hook).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if len(parameters) > 1 and parameters[1].name == "converter" and parameters[1].kind in _POSITIONAL:
        return hook
    return lambda value, converter: hook(value)


def _build_enum(cls: Any, value: Any, converter: DataConverter) -> Any:
    # The keys of a JSON object are strings, even those of an IntEnum.
    return cls(_build_scalar(int, value, converter) if issubclass(cls, int) else value)


def _build_typed_dict(cls: Any, arguments: tuple[Any, ...], value: Any, converter: DataConverter) -> Any:
    if not isinstance(value, dict):
        raise _misfit(value, cls.__qualname__)
    made = value.copy()
    for name, rebuilder in _member_rebuilders(cls, arguments).items():
        if name in value:
            made[name] = _apply(rebuilder, value[name], converter)
    return made


def _build_dataclass(cls: Any, arguments: tuple[Any, ...], value: Any, converter: DataConverter) -> Any:
    if not isinstance(value, dict):
        raise _misfit(value, cls.__qualname__)
    return cls(
        **{
            name: _apply(rebuilder, value[name], converter)
            for name, rebuilder in _member_rebuilders(cls, arguments).items()
            if name in value
        }
    )


def _build_namedtuple(cls: Any, arguments: tuple[Any, ...], value: Any, converter: DataConverter) -> Any:
    rebuilders = _member_rebuilders(cls, arguments)
    if not isinstance(value, list):
        return _build_dataclass(cls, arguments, value, converter)
    if len(value) > len(rebuilders):
        raise _misfit(value, cls.__qualname__)
    members = zip(rebuilders.values(), value, strict=False)
    return cls(*[_apply(rebuilder, item, converter) for rebuilder, item in members])


def _build_namespace(cls: Any, value: Any, converter: DataConverter) -> Any:
    if not isinstance(value, dict):
        raise _misfit(value, cls.__qualname__)
    return cls(**value)


def _build_from_text(cls: Any, parse: Callable[[Any, str], Any], value: Any, converter: DataConverter) -> Any:
    if isinstance(value, int | float) and issubclass(cls, decimal.Decimal):
        return cls(str(value))
    if not isinstance(value, str):
        raise _misfit(value, cls.__qualname__)
    return parse(cls, value)


@remembering
def _member_rebuilders(cls: Any, arguments: tuple[Any, ...]) -> dict[str, _Rebuilder | None]:
    """Return what rebuilds a class's members; only at the first use, as a class may contain itself."""
    hints = member_hints(cls, arguments)
    names = (
        [f.name for f in dataclasses.fields(cls) if f.init]
        if dataclasses.is_dataclass(cls)
        else getattr(cls, "_fields", hints)
    )
    return {name: _rebuilder(hints.get(name, Any)) for name in names}


def _builtin_rebuilder(cls: type) -> _Rebuilder | None:
    """Return what makes the number or text asked for, or the subclass of a built-in type."""
    if cls in _SCALARS:
        return functools.partial(_build_scalar, cls)
    base = next((base for base in _SUBCLASSED if issubclass(cls, base) and cls is not base), None)
    if base is None or cls is bool:
        return None

    def rebuild_subclass(value: Any, converter: DataConverter) -> Any:
        return cls(value) if isinstance(value, base) and not isinstance(value, cls) else value

    return rebuild_subclass


def _build_scalar(cls: type, value: Any, converter: DataConverter) -> Any:
    """Convert where nothing is lost; what does not fit stays as it is, since Python's hints bind nobody."""
    if type(value) not in _SCALARS or isinstance(value, cls):
        return value
    with contextlib.suppress(ValueError, OverflowError):
        made = cls(value)
        if cls is str or (_reads_as(made, value) if isinstance(value, str) else made == value):
            return made
    return value


def _reads_as(number: float, text: str) -> bool:
    """Tell whether a text is a JSON number, and ``number`` has all its digits."""
    # Python also reads 1_0 and " 05 ", which are rather somebody's names.
    return _NUMBER.fullmatch(text) is not None and decimal.Decimal(repr(number)) == decimal.Decimal(text)


def _parse_duration(cls: Any, text: str) -> Any:
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        raise ValueError(f"Not an ISO 8601 duration: {text!r}")
    parts = {name: int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    duration = cls(**parts, microseconds=int((match["fraction"] or "").ljust(6, "0")))
    return -duration if match["sign"] else duration


def _parse_decimal(cls: Any, text: str) -> Any:
    if "_" in text:  # Python reads 1_0 as ten.
        raise ValueError(f"Not a decimal number: {text!r}")
    return cls(text)


_TEXT_PARSERS: tuple[tuple[type, Callable[[Any, str], Any]], ...] = (
    (dt.datetime, lambda cls, text: cls.fromisoformat(text)),
    (dt.date, lambda cls, text: cls.fromisoformat(text)),
    (dt.time, lambda cls, text: cls.fromisoformat(text)),
    (dt.timedelta, _parse_duration),
    (decimal.Decimal, _parse_decimal),
    (uuid.UUID, lambda cls, text: cls(text)),
)
