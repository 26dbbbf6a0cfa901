"""Python values to JSON text."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import marshal
import re
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from durable_django.core.errors import PayloadError

_Writer = Callable[[Any, set[int]], Any]

_EXACT_SCALARS = frozenset({str, int, float, bool, type(None)})

# What `json.dumps` writes of these, without its preparations for all else.
_SCALAR_WRITERS: dict[type, Callable[[Any], str]] = {
    str: json.encoder.encode_basestring_ascii,
    int: int.__repr__,
    bool: {True: "true", False: "false"}.__getitem__,
}

# Marshal takes exact built-in types alone and no subclasses: it tells in C what a walk would tell in Python.
# Its format 2 keeps no table of references, which makes it faster.
_MARSHAL_FORMAT = 2

# JSON text whose escapes are neither NUL nor half of a surrogate pair.
_STORABLE_JSON = re.compile(
    r"""(?: [^\\]++
          | \\ [^u]
          | \\u (?! 0000 | d[89a-f] ) [0-9a-f]{4}
          | \\u d[89ab][0-9a-f]{2} \\u d[c-f][0-9a-f]{2}
        )*+""",
    re.VERBOSE,
)
_UNSTORABLE_CHARACTER = re.compile("[\x00\ud800-\udfff]")
_IDENTIFIER = re.compile(r"[^\W\d]\w*", re.ASCII)


def encode(value: Any) -> str:
    """Return ``value`` as JSON text, exactly as `json.dumps` writes it where that can.

    Raises:
        TypeError: something inside has a type that JSON cannot hold; names the type and the path to it.
        ValueError: a circular reference, or a time with a time zone; names the path.
        PayloadError: a NUL or a lone surrogate in a text, named by its path, or nesting too deep to write.
    """
    try:
        text = _encode(value)
    except RecursionError as error:
        raise PayloadError("The value is nested too deeply to be written as JSON") from error
    if ("\\u0000" in text or "\\ud" in text) and not _STORABLE_JSON.fullmatch(text):
        raise PayloadError(_describe_unstorable(text))
    return text


def _encode(value: Any) -> str:
    if (write := _SCALAR_WRITERS.get(type(value))) is not None:
        return write(value)
    try:
        marshal.dumps(value, _MARSHAL_FORMAT)
        return json.dumps(value)
    except (TypeError, ValueError):
        pass  # Not plain: converted, or refused by a message that says where.
    try:
        return json.dumps(_plain(value, set()))
    except _UnwritableError as problem:
        raise problem.located() from None


class _UnwritableError(Exception):
    """Something that has no JSON form; collects the way to it while the stack unwinds."""

    def __init__(self, error: type[Exception], subject: str, predicate: str) -> None:
        super().__init__(subject, predicate)
        self.error = error
        self.subject = subject
        self.predicate = predicate
        self.steps: list[Any] = []

    def located(self) -> Exception:
        return self.error(f"{self.subject} at {_path(reversed(self.steps))} {self.predicate}")


def _path(steps: Iterable[Any]) -> str:
    return "$" + "".join(
        f".{step}"
        if isinstance(step, str) and _IDENTIFIER.fullmatch(step)
        else f"[{step}]"
        if isinstance(step, int)
        else f"[{json.dumps(step)}]"
        for step in steps
    )


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any, ancestors: set[int]) -> Any:
    """Return ``value`` made of exact built-in types; ``ancestors`` are the ids of the objects around it."""
    cls: type[object] = type(value)
    if cls in _EXACT_SCALARS:
        return value
    if id(value) in ancestors:
        raise _UnwritableError(ValueError, "The reference", "is circular")
    ancestors.add(id(value))
    plain = _writer(cls)(value, ancestors)  # type: ignore[arg-type]  # mypy takes no class for hashable
    ancestors.remove(id(value))
    return plain


def _write_object(value: Mapping[Any, Any], ancestors: set[int]) -> dict[Any, Any]:
    keys = [key if type(key) is str else _plain_key(key) for key in value]
    plain: dict[Any, Any] = {}
    key = None
    try:
        for key, item in zip(keys, value.values(), strict=True):
            plain[key] = _plain(item, ancestors)
    except _UnwritableError as problem:
        problem.steps.append(key if isinstance(key, str) else json.dumps(key))
        raise
    return plain


def _plain_key(key: Any) -> Any:
    if key is None or isinstance(key, bool):
        return key
    for base, strip in _STRIPPERS:
        if isinstance(key, base):
            return strip(key)
    name = _type_name(type(key))
    raise _UnwritableError(TypeError, f"Key of type '{name}' in the object", "is not JSON serializable")


def _write_array(value: Iterable[Any], ancestors: set[int]) -> list[Any]:
    plain: list[Any] = []
    try:
        for item in value:
            plain.append(_plain(item, ancestors))  # noqa: PERF401 - its length tells where an error was met
    except _UnwritableError as problem:
        problem.steps.append(len(plain))
        raise
    return plain


@functools.lru_cache(maxsize=2048)
def _writer(cls: type) -> _Writer:
    """Return what writes a ``cls``: hooks first, special types before the built-in ones they derive from."""
    hook = getattr(cls, "to_json", None)
    if callable(hook):
        return lambda value, ancestors: _plain(hook(value), ancestors)
    if issubclass(cls, enum.Enum):
        return lambda value, ancestors: _plain(value.value, ancestors)
    if dataclasses.is_dataclass(cls):
        return _fields_writer(tuple(field.name for field in dataclasses.fields(cls)))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _fields_writer(cls._fields)
    if issubclass(cls, types.SimpleNamespace):
        return lambda value, ancestors: _write_object(vars(value), ancestors)
    for base, writer in _BASE_WRITERS:
        if issubclass(cls, base):
            return writer
    return _refuse


def _fields_writer(names: tuple[str, ...]) -> _Writer:
    return lambda value, ancestors: _write_object({name: getattr(value, name) for name in names}, ancestors)


def _refuse(value: Any, ancestors: set[int]) -> Any:
    raise _UnwritableError(
        TypeError, f"Object of type '{_type_name(type(value))}'", "is not JSON serializable"
    )


def _datetime_text(value: dt.datetime) -> str:
    text = value.isoformat()
    if value.microsecond:
        text = text[:23] + text[26:]
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _time_text(value: dt.time) -> str:
    if value.utcoffset() is not None:
        raise _UnwritableError(ValueError, "The time with a time zone", "has no JSON form")
    text = value.isoformat()
    return text[:12] if value.microsecond else text


def _duration_text(value: dt.timedelta) -> str:
    sign, value = ("-", -value) if value < dt.timedelta(0) else ("", value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06d}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{hours:02d}H{minutes:02d}M{seconds:02d}{fraction}S"


# Strip a value of its subclass, deaf to conversions that the subclass overrides, as `json.dumps` is.
_STRIPPERS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)

# As Django's JSON encoder writes them: ISO 8601, times of day to the millisecond.
_TEXT_FORMS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (dt.datetime, _datetime_text),
    (dt.date, dt.date.isoformat),
    (dt.time, _time_text),
    (dt.timedelta, _duration_text),
    (decimal.Decimal, str),
    (uuid.UUID, str),
)


def _leaf_writer(convert: Callable[[Any], Any]) -> _Writer:
    return lambda value, ancestors: convert(value)


_BASE_WRITERS: tuple[tuple[type, _Writer], ...] = (
    *((base, _leaf_writer(text)) for base, text in _TEXT_FORMS),
    (dict, _write_object),
    (list, _write_array),
    (tuple, _write_array),
    *((base, _leaf_writer(strip)) for base, strip in _STRIPPERS),
)


def _describe_unstorable(text: str) -> str:
    place = _path(_unstorable_steps(json.loads(text)) or ())
    return f"The text at {place} holds a NUL character or a lone surrogate, which cannot be stored"


def _unstorable_steps(value: Any) -> list[Any] | None:
    """Return the way to the first text with such a character, a key being its own place; None without one."""
    if isinstance(value, str):
        return [] if _UNSTORABLE_CHARACTER.search(value) else None
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        if isinstance(step, str) and _UNSTORABLE_CHARACTER.search(step):
            return [step]
        steps = _unstorable_steps(item)
        if steps is not None:
            return [step, *steps]
    return None
