"""Filters of the lists, from query parameters or, in bulk, from the body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import django_filters
from django import forms
from django.db.models import QuerySet
from django.http import QueryDict
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

from durable_django.core.errors import scrub
from durable_django.models import Entity, Instance, InstanceStatus
from durable_django.rest_framework.fields import STORABLE, aware_datetime
from durable_django.rest_framework.pagination import CURSOR, ORDERING, SIZE
from durable_django.rest_framework.problems import invalid, unknown
from durable_django.store import clock, monitoring
from durable_django.store.subjects import Subject

TAG = "tag."
PAYLOADS = "payloads"
LONGEST = 255
"""How long a text to compare with may be: what it is compared with is not longer."""

MOST_TAGS = 20
_ELSEWHERE = frozenset({CURSOR, ORDERING, SIZE, PAYLOADS, "format"})


class _Moment(forms.CharField):
    def clean(self, value: Any) -> Any:
        if not value:
            return None
        try:
            return clock.aware(clock.naive(aware_datetime(value)))  # as the ORM wants it, with USE_TZ or not
        except (OverflowError, ValueError) as error:
            raise forms.ValidationError(str(error), code="invalid") from error


@extend_schema_field({"type": "string", "format": "date-time"})
class MomentFilter(django_filters.Filter):  # type: ignore[misc]  # published without types, as the next ones
    """Compares with a time that has a zone."""

    field_class = _Moment


@extend_schema_field({"type": "string", "pattern": STORABLE, "minLength": 1, "maxLength": LONGEST})
class TextFilter(django_filters.CharFilter):  # type: ignore[misc]  # as above
    """Compares with a text, blanks and all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, strip=False, max_length=LONGEST, **kwargs)


@extend_schema_field({"type": "string", "pattern": STORABLE, "minLength": 1, "maxLength": LONGEST})
class PrefixFilter(TextFilter):
    """Compares with the beginning of a text."""

    def filter(self, queryset: QuerySet[Any], value: Any) -> QuerySet[Any]:
        """Keep what begins so."""
        if not value:
            return queryset
        return queryset.filter(monitoring.starting(queryset.db, self.field_name, value))


class _Reference(forms.CharField):
    def clean(self, value: Any) -> Any:
        if not value:
            return None
        self.run_validators(value)
        try:
            return Subject.parse(value).condition
        except ValueError as error:
            raise forms.ValidationError(str(error), code="invalid") from error


SUBJECT = {"type": "string", "pattern": r"^[^.:\x00]+\.[^:\x00]+:[^\x00]+$", "maxLength": 2 * LONGEST}
"""What subjects look like, for the schema."""


@extend_schema_field(SUBJECT)
class SubjectFilter(django_filters.Filter):  # type: ignore[misc]  # as above
    """Compares with the object that instances are about."""

    field_class = _Reference

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, max_length=SUBJECT["maxLength"], **kwargs)

    def filter(self, queryset: QuerySet[Any], value: Any) -> QuerySet[Any]:
        """Keep what is about it."""
        return queryset.filter(value) if value else queryset


class _Strict(django_filters.FilterSet):  # type: ignore[misc]  # as above
    """Filters, every one of which is known."""

    def __init__(self, data: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(data, *args, **kwargs)
        dynamic = {name for name in data or () if self.is_dynamic(name)}
        if names := set(data or ()) - dynamic - self.filters.keys() - _ELSEWHERE:
            raise unknown(names, "There is no such filter.")
        if len(dynamic) > MOST_TAGS:
            raise invalid(f"{TAG}*", f"Give {MOST_TAGS} tags at most.")
        _check_texts(data or QueryDict())
        # The form of the browsable API sends what nobody has filled in. Elsewhere, an empty filter that finds
        # everything is a mistake.
        if not _is_browsed(self.request) and (empty := sorted(name for name in data or () if not data[name])):
            raise ValidationError({name: ["Give a value, or leave this filter out."] for name in empty})

    def is_dynamic(self, name: str) -> bool:
        """Tell whether ``name`` is one of endlessly many."""
        return False


class InstanceFilter(_Strict):
    """Which instances: all conditions hold; of several statuses, one."""

    status = django_filters.MultipleChoiceFilter(
        choices=[(status.name, status.label) for status in InstanceStatus],
        method="filter_status",
        help_text="One of these statuses; may be given several times.",
    )
    name = TextFilter(help_text="The orchestrator's name.")
    id_prefix = PrefixFilter("instance_id", help_text="How the instance id begins.")
    created_after = MomentFilter("created_at", lookup_expr="gte", help_text="Created then or later.")
    created_before = MomentFilter("created_at", lookup_expr="lt", help_text="Created before.")
    completed_after = MomentFilter("completed_at", lookup_expr="gte", help_text="Ended then or later.")
    completed_before = MomentFilter("completed_at", lookup_expr="lt", help_text="Ended before.")
    parent = TextFilter("parent__instance_id", help_text="The instance id of the parent.")
    subject = SubjectFilter(help_text="The object that they are about, as app_label.model:primary key.")
    queue = TextFilter(help_text="The queue.")
    version = TextFilter(help_text="The orchestration's version.")

    class Meta:
        model = Instance
        fields: tuple[str, ...] = ()

    def is_dynamic(self, name: str) -> bool:
        """Tell whether ``name`` is a tag's: ``tag.<key>``."""
        return name.startswith(TAG) and len(name) > len(TAG)

    def filter_status(self, queryset: QuerySet[Instance], _: str, names: list[str]) -> QuerySet[Instance]:
        """Keep those in one of the statuses."""
        return queryset.filter(status__in=[InstanceStatus[name] for name in names]) if names else queryset

    def filter_queryset(self, queryset: QuerySet[Instance]) -> QuerySet[Instance]:
        """Keep what all filters keep, those of tags among them."""
        queryset = super().filter_queryset(queryset)
        for name, value in self.tags():
            queryset = queryset.filter(monitoring.tagged(queryset.db, name, value))
        return queryset

    def tags(self) -> Iterable[tuple[str, str]]:
        """Yield the tags that are asked for."""
        for name in self.data or ():
            if self.is_dynamic(name):
                yield name.removeprefix(TAG), self.data[name]


class EntityFilter(_Strict):
    """Which entities: all conditions hold."""

    name = TextFilter(method="filter_name", help_text="The entity's name.")
    key_prefix = PrefixFilter("key", help_text="How the key begins.")
    modified_after = MomentFilter("last_modified_at", lookup_expr="gte", help_text="Modified then or later.")
    modified_before = MomentFilter("last_modified_at", lookup_expr="lt", help_text="Modified before.")
    locked = django_filters.ChoiceFilter(
        choices=[("true", "true"), ("false", "false")],
        method="filter_locked",
        help_text="Whether an orchestration holds it.",
    )

    class Meta:
        model = Entity
        fields: tuple[str, ...] = ()

    def filter_name(self, queryset: QuerySet[Entity], _: str, name: str) -> QuerySet[Entity]:
        """Keep those of a name, in whatever case."""
        return queryset.filter(name=name.lower())

    def filter_locked(self, queryset: QuerySet[Entity], _: str, locked: str) -> QuerySet[Entity]:
        """Keep those that are held, or those that are not."""
        return queryset.filter(lock_instance__isnull=locked == "false")


class FilterBackend(DjangoFilterBackend):  # type: ignore[misc]  # as above
    """Filters a list by its view's ``filterset_class``."""

    def get_filterset_kwargs(self, request: Request, queryset: QuerySet[Any], view: APIView) -> Any:
        """Return what the filters are made of."""
        return super().get_filterset_kwargs(request, queryset, view) | {"request": request}


def from_body(filters: Mapping[str, Any], queryset: QuerySet[Instance]) -> QuerySet[Instance]:
    """Apply filters that are given as a JSON object, by the names of the query parameters.

    Raises:
        ValidationError: One is unknown or wrong; the error names it.
    """
    data = QueryDict(mutable=True)
    for name, value in filters.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values):
            raise ValidationError({"filters": {name: ["This must be a text, or a list of texts."]}})
        data.setlist(name, values)
    try:
        if unused := data.keys() & _ELSEWHERE:
            raise unknown(unused, "There is no such filter.")
        found = InstanceFilter(data, queryset)
        if not found.is_valid():
            raise ValidationError(found.errors)
        return cast("QuerySet[Instance]", found.qs)
    except ValidationError as error:
        raise ValidationError({"filters": error.detail}) from error


def _is_browsed(request: Any) -> bool:
    return getattr(getattr(request, "accepted_renderer", None), "format", None) == "api"


def _check_texts(data: QueryDict) -> None:
    """Refuse what no database holds, and values of which only the last would count."""
    for name, values in data.lists():
        if any(scrub(text) != text for text in (name, *map(str, values))):
            raise invalid(name, "No database holds NUL characters or lone surrogates.")
        if len(values) > 1 and name != "status":
            raise invalid(name, "Give this filter once.")
