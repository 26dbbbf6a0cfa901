"""What a bulk action takes and returns."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from durable_django.client import steering
from durable_django.rest_framework import cursors
from durable_django.rest_framework.fields import STORABLE, FlagField, NumberField, TextField
from durable_django.rest_framework.filters import LONGEST, SUBJECT
from durable_django.rest_framework.problems import NoSuchPageError
from durable_django.rest_framework.serializers import STATUSES, ReasonSerializer

ACTIONS = tuple(steering.ACTIONS)
MAX_BULK = 10_000

_TAG = {"type": "string", "pattern": STORABLE, "minLength": 1}
_TEXT = {**_TAG, "maxLength": LONGEST}
_TIME = {"type": "string", "format": "date-time"}
_STATUS = {"type": "string", "enum": STATUSES}


@extend_schema_field(
    {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            "status": {"anyOf": [_STATUS, {"type": "array", "items": _STATUS, "minItems": 1}]},
            **dict.fromkeys(("name", "id_prefix", "parent", "queue", "version"), _TEXT),
            **dict.fromkeys(
                ("created_after", "created_before", "completed_after", "completed_before"), _TIME
            ),
            "subject": SUBJECT,
        },
        "patternProperties": {r"^tag\.[^\x00]+$": _TAG},
    }
)
class FiltersField(serializers.DictField):
    """The list's filters, by their names."""


@extend_schema_field({"type": "string", "pattern": cursors.PATTERN})
class BulkCursorField(serializers.Field[Any, Any, Any, Any]):
    """Where a bulk action goes on: after one primary key, up to another one."""

    def to_internal_value(self, data: Any) -> tuple[int, int]:
        """Return the two keys."""
        try:
            if not isinstance(data, str):
                raise ValueError("it is no text")
            after, until = map(cursors.key, cursors.read(data))
        except ValueError as error:
            raise NoSuchPageError(
                "cursor", "This is no cursor of a bulk action. Begin without one."
            ) from error
        return after, until


class BulkSerializer(ReasonSerializer):
    """One action over many instances: those of ``ids``, or those that ``filters`` find."""

    schema_extra: ClassVar = {"oneOf": [{"required": ["ids"]}, {"required": ["filters"]}]}

    action = serializers.ChoiceField(ACTIONS)
    ids = serializers.ListField(
        child=TextField(), required=False, min_length=1, max_length=MAX_BULK, help_text="Instance ids."
    )
    filters = FiltersField(
        required=False, help_text="The list's filters, by their names; several values as an array."
    )
    dry_run = FlagField(required=False, default=False, help_text="Only count.")
    limit = NumberField(
        required=False, default=1000, min_value=1, max_value=MAX_BULK, help_text="How many at most."
    )
    recursive = FlagField(required=False, default=True, help_text="For terminate and purge.")
    cursor = BulkCursorField(required=False, help_text="The `next` of the call before, to go on after it.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse what names nobody, and what names everybody by mistake."""
        if ("ids" in attrs) == ("filters" in attrs):
            raise serializers.ValidationError({"ids": ["Give either ids or filters."]})
        if "filters" in attrs and not attrs["filters"]:
            raise serializers.ValidationError({"filters": ["Give at least one filter."]})
        return attrs


class SkippedSerializer(serializers.Serializer[Any]):
    """An instance that was left alone, and why."""

    instance_id = serializers.CharField()
    detail = serializers.CharField()


class BulkResultSerializer(serializers.Serializer[Any]):
    """What a bulk action has done, or would do."""

    action = serializers.ChoiceField(ACTIONS)
    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="How many can be acted upon; of a dry run, all of them.")
    done = serializers.IntegerField()
    skipped = SkippedSerializer(many=True)
    is_complete = serializers.BooleanField(help_text="Whether nothing is left beyond the limit.")
    next = serializers.CharField(allow_null=True, help_text="The `cursor` to go on with; null at the end.")
