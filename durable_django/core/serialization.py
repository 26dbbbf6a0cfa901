"""How payloads become text and come back: the converters, and the codec that guards what is stored."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from durable_django.core.errors import PayloadError, scrub
from durable_django.core.json_decoding import AttributeDict, decode, is_rebuilt, rebuild, wrapped_hints
from durable_django.core.json_encoding import encode

__all__ = ["DEFAULT_DATA_CONVERTER", "AttributeDict", "DataConverter", "JsonDataConverter", "PayloadCodec"]

logger = logging.getLogger("durable_django.serialization")


class DataConverter(ABC):
    """Turns every payload into text and back: inputs, results, event data, custom status, entity state.

    It must be deterministic: the same value gives the same text. The type to rebuild always comes from the
    reader's code, never from the payload.
    """

    @abstractmethod
    def serialize(self, value: Any) -> str | None:
        """Return ``value`` as text, or None for None.

        Raises:
            TypeError: ``value`` cannot be written.
        """

    @abstractmethod
    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        """Return the value of a text, as ``target_type`` if given; None for None and for an empty text."""

    @abstractmethod
    def coerce(self, value: Any, target_type: Any = None) -> Any:
        """Return a value that is parsed already as ``target_type``, unchanged if none is given."""

    def can_reconstruct(self, target_type: Any) -> bool:
        """Tell whether the annotation ``target_type`` is worth passing to `deserialize`.

        A converter claims nothing unless it overrides this, and annotated functions get plain values.
        """
        return False


class JsonDataConverter(DataConverter):
    """Plain JSON, with no mark of Python types in it.

    Besides JSON's own types it writes objects with a ``to_json()`` method, which returns what to write
    instead; enums by value; dataclasses, named tuples and `SimpleNamespace` as objects; date and time types,
    `Decimal` and `UUID` as Django's JSON encoder writes them.

    By type hint all of these come back, as do tuples, sets, the members of a TypedDict, and classes with a
    class method ``from_json(value)`` or ``from_json(value, converter)``; a generic class is rebuilt by its
    arguments. Without a hint, objects come back as dictionaries whose members are attributes too. A payload
    that does not fit its hint comes back as if there were none, never half rebuilt.
    """

    def serialize(self, value: Any) -> str | None:
        """Return ``value`` as JSON text, or None for None.

        Raises:
            TypeError: something in ``value`` has no JSON form; the message names its type and the path to it.
            ValueError: a circular reference or a time with a time zone; the message names the path.
            PayloadError: a NUL or lone surrogate, which databases cannot hold, or nesting too deep to write.
        """
        return None if value is None else encode(value)

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        """Return the value of a JSON text, as ``target_type`` where it fits.

        Raises:
            ValueError: ``data`` is no JSON.
        """
        if data is None or data == "":
            return None
        return self.coerce(decode(data), target_type)

    def coerce(self, value: Any, target_type: Any = None) -> Any:
        """Return a parsed JSON value as ``target_type`` where it fits, unchanged where not."""
        if target_type is None or value is None:
            return value
        try:
            return rebuild(value, target_type, self)
        except Exception as error:  # noqa: BLE001 - constructors and hooks of users raise what they like
            logger.debug("Payload left as plain JSON, for it is no %s: %s", target_type, error)
            return value

    def can_reconstruct(self, target_type: Any) -> bool:
        """Tell whether ``target_type`` is, or wraps, a type that JSON does not give back by itself."""
        return is_rebuilt(target_type) or any(map(self.can_reconstruct, wrapped_hints(target_type)))


DEFAULT_DATA_CONVERTER: DataConverter = JsonDataConverter()
"""The converter of clients and workers that are given none."""


@dataclass(frozen=True, slots=True)
class PayloadCodec:
    """Writes payloads that the database is sure to take: storable text within ``max_bytes`` of UTF-8."""

    converter: DataConverter = DEFAULT_DATA_CONVERTER
    max_bytes: int | None = None

    def dumps(self, value: Any, what: str, name: str | None = None) -> str | None:
        """Return ``value`` as text to store.

        Errors call it ``what``, with the ``name`` of whose it is: "the input of activity 'a'".

        Raises:
            TypeError: the converter cannot write ``value``, or returned something else than text.
            PayloadError: the text is too long, or no database holds it.
        """
        try:
            text: object = self.converter.serialize(value)
        except Exception as error:
            error.add_note(f"This was met while writing {_subject(what, name)}.")
            raise
        if text is None:
            return None
        if not isinstance(text, str):
            raise TypeError(
                f"{_name(self.converter)}.serialize() gave {_subject(what, name)} as {_name(text)}, "
                "not as str or None"
            )
        self.check(text, what, name)
        return text

    def check(self, text: str, what: str, name: str | None = None) -> None:
        """Make sure that a text that is written already can be stored; errors call it as `dumps` does.

        Raises:
            PayloadError: the text is too long, or no database holds it.
        """
        if scrub(text) != text:
            raise PayloadError(
                f"Cannot store {_subject(what, name)}: it has a NUL character or a lone surrogate"
            )
        if self.max_bytes is None or len(text) * 4 <= self.max_bytes:
            return
        size = len(text) if text.isascii() else len(text.encode())
        if size > self.max_bytes:
            error = PayloadError(
                f"Cannot store {_subject(what, name)}: it takes {size} bytes, and MAX_PAYLOAD_BYTES allows "
                f"{self.max_bytes}"
            )
            error.is_too_large = True
            raise error

    def loads(self, text: str | None, target_type: Any = None) -> Any:
        """Return the value of a stored text, as ``target_type`` where the converter can."""
        return self.converter.deserialize(text, target_type)


def _subject(what: str, name: str | None) -> str:
    return what if name is None else f"{what} {name!r}"


def _name(value: object) -> str:
    return type(value).__name__
