"""Fields that take what the schema says, and nothing that could be meant."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from durable_django.core.errors import scrub
from durable_django.rest_framework.problems import unknown

_ZONE = "Give the time with its zone: 2030-01-31T12:00:00Z."
_UNPRINTABLE = r"\x00-\x1f\x7f-\x9f"
NAME = rf"^[^{_UNPRINTABLE}]+$"
"""What names of orchestrators, queues, versions and events look like."""

ENTITY = rf"^[^@{_UNPRINTABLE}]+$"
"""What the names and keys of entities look like."""

PARTS = (
    "status",
    "history",
    "pending",
    "children",
    "stream",
    "terminate",
    "suspend",
    "resume",
    "rewind",
    "restart",
    "events/[^/]+",
)
"""What may follow an instance id in a URL, and therefore not end it."""

_MISLEADING = rf"(?:.*/)?\.\.?(?:/.*)?$|bulk$|.+/(?:{'|'.join(PARTS)})$"
INSTANCE_ID = rf"^(?!{_MISLEADING})[^@{_UNPRINTABLE}][^{_UNPRINTABLE}]*$"
"""What instance ids look like: entities are those that begin with an @, and URLs are to lead there."""


def aware_datetime(text: object) -> dt.datetime:
    """Return the moment that an ISO 8601 text with a zone names.

    Raises:
        ValueError: It names none, or one that a database does not hold.
    """
    found = None
    if isinstance(text, str):
        try:
            found = parse_datetime(text)
        except ValueError:  # well formed, and no date: February 30th
            found = None
    if found is None:
        raise ValueError(f"This is no ISO 8601 date and time. {_ZONE}")
    if found.tzinfo is None:
        raise ValueError(f"The time has no zone. {_ZONE}")
    try:
        return found.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError("In UTC, its year is not between 1 and 9999.") from error


LINE = rf"^[^{_UNPRINTABLE}]*$"
"""Texts without line breaks and other control characters."""

_LINE = re.compile(LINE)

STORABLE = r"^[^\x00]*$"
"""Texts that every database holds."""


class TextField(serializers.RegexField):
    """A JSON string, as it is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(STORABLE, **({"trim_whitespace": False, "max_length": 255} | kwargs))

    def to_internal_value(self, data: Any) -> str:
        """Return the text; numbers are none."""
        if not isinstance(data, str):
            self.fail("invalid")
        if scrub(data) != data:
            raise serializers.ValidationError("No database holds NUL characters or lone surrogates.")
        return data


class NameField(serializers.RegexField):
    """A JSON string without control characters."""

    def __init__(self, regex: str = NAME, **kwargs: Any) -> None:
        super().__init__(regex, **({"trim_whitespace": False, "max_length": 255} | kwargs))

    def to_internal_value(self, data: Any) -> str:
        """Return the text; numbers are none."""
        # The end of Python's expressions lies before a last line break, too.
        if not isinstance(data, str) or data.endswith("\n"):
            self.fail("invalid")
        return data


class InstanceIdField(NameField):
    """The id of a new instance, whose URLs lead to it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(INSTANCE_ID, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the id."""
        instance_id = super().to_internal_value(data)
        check_reachable(instance_id)
        return instance_id


REASON = {"type": "string", "pattern": LINE, "maxLength": 1000}


@extend_schema_field(REASON)
class ReasonField(serializers.Field[str, Any, str, Any]):
    """A JSON string of one line, which may be empty."""

    # As a CharField that may be blank it would have two alternatives in the schema, both for an empty text.
    default_error_messages = {"invalid": "Give one line of text, of 1000 characters at most."}

    def to_internal_value(self, data: Any) -> str:
        """Return the text; numbers are none."""
        if not isinstance(data, str) or len(data) > 1000 or scrub(data) != data or not _LINE.fullmatch(data):
            self.fail("invalid")
        return data


class NumberField(serializers.IntegerField):
    """A JSON integer."""

    def to_internal_value(self, data: Any) -> int:
        """Return the number; texts and booleans are none, 2.0 is."""
        if isinstance(data, float) and data.is_integer():
            return int(data)
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return data


class FlagField(serializers.BooleanField):
    """A JSON boolean."""

    def to_internal_value(self, data: Any) -> bool:
        """Return the value; texts and numbers are none."""
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class MomentField(serializers.DateTimeField):
    """A time in ISO 8601, with its zone."""

    def to_internal_value(self, value: Any) -> dt.datetime:
        """Return the moment in UTC."""
        try:
            return aware_datetime(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error), code="invalid") from error


@extend_schema_field(
    {
        "type": "object",
        "propertyNames": {"pattern": STORABLE},
        "additionalProperties": {"type": "string", "pattern": STORABLE},
    }
)
class TagsField(serializers.DictField):
    """An object of strings."""

    child = TextField(max_length=None, allow_blank=True)

    def to_internal_value(self, data: Any) -> dict[str, str]:
        """Return the tags."""
        if isinstance(data, dict) and any(scrub(str(key)) != key for key in data):
            raise serializers.ValidationError("No database holds NUL characters or lone surrogates.")
        tags: dict[str, str] = super().to_internal_value(data)
        return tags


def check_reachable(instance_id: str) -> None:
    """Do nothing if the URLs of an instance lead to it.

    Raises:
        ValidationError: They lead elsewhere.
    """
    if re.match(_MISLEADING, instance_id):
        raise serializers.ValidationError(
            "Its URLs would lead elsewhere: an instance id is not 'bulk', has no path segment '.' or '..', "
            "and does not end in '/history' or the like.",
            code="invalid",
        )


class StrictSerializer(serializers.Serializer[Any]):
    """A body whose every member is known."""

    def to_internal_value(self, data: Any) -> Any:
        """Return what is valid.

        Raises:
            ValidationError: Something is missing, wrong or unknown; the error names it.
        """
        if isinstance(data, dict) and (names := set(data) - set(self.fields)):
            known = ", ".join(self.fields) or "none"
            raise unknown(names, f"There is no such field. Those that there are: {known}.")
        return super().to_internal_value(data)
