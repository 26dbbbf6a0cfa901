"""Filters of the lists of instances and entities. Their choices never ask for all that is in the table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from durable_django.conf import settings
from durable_django.core.registry import default_registry
from durable_django.models import Instance
from durable_django.store import monitoring
from durable_django.store.subjects import Subject

_LATEST = 200
"""Of how many instances the versions and tags are offered."""

_MOST_TAGS = 10


class _Chosen(admin.SimpleListFilter):
    """Some choices, and whatever the address asks for beside them."""

    def choices_of(self, request: HttpRequest) -> set[str]:
        """Return what to offer."""
        return set()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        chosen: Any = self.used_parameters.get(str(self.parameter_name))
        if isinstance(chosen, list):
            chosen = chosen[-1]
        names = self.choices_of(request) | ({chosen} if chosen else set())
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Instance]) -> QuerySet[Instance]:
        """Keep those of the chosen value."""
        value = self.value()
        return self.keep(queryset, value.replace("\x00", "")) if value else queryset

    def keep(self, queryset: QuerySet[Instance], value: str) -> QuerySet[Instance]:
        """Return those of one value."""
        return queryset.filter(**{str(self.parameter_name): value})


class NameFilter(_Chosen):
    """By the orchestrator's name."""

    title = _("name")
    parameter_name = "name"

    def choices_of(self, request: HttpRequest) -> set[str]:
        """Return the registered orchestrators."""
        return set(default_registry.orchestrators)


class EntityFilter(_Chosen):
    """By the entity's name."""

    title = _("name")
    parameter_name = "name"

    def choices_of(self, request: HttpRequest) -> set[str]:
        """Return the registered entities."""
        return {name.lower() for name in default_registry.entities}


class QueueFilter(_Chosen):
    """By queue."""

    title = _("queue")
    parameter_name = "queue"

    def choices_of(self, request: HttpRequest) -> set[str]:
        """Return the queues of registered orchestrators, and the default one."""
        queues = {known.queue for known in default_registry.orchestrators.values() if known.queue}
        return queues | {settings.DEFAULT_QUEUE}


class VersionFilter(_Chosen):
    """By version, out of those of the latest instances."""

    title = _("version")
    parameter_name = "version"

    def choices_of(self, request: HttpRequest) -> set[str]:
        """Return the versions of the latest instances."""
        return {version for version, _tags in _latest(request) if version}


class TagFilter(_Chosen):
    """By a tag, as ``key=value``, out of the most frequent ones of the latest instances."""

    title = _("tag")
    parameter_name = "tag"

    def choices_of(self, request: HttpRequest) -> set[str]:
        """Return the most frequent tags of the latest instances."""
        counts = Counter(
            f"{key}={value}" for _version, tags in _latest(request) for key, value in tags.items()
        )
        return {tag for tag, _count in counts.most_common(_MOST_TAGS)}

    def keep(self, queryset: QuerySet[Instance], value: str) -> QuerySet[Instance]:
        """Return those that have the tag."""
        if "=" not in value:
            return queryset.none()
        return queryset.filter(monitoring.tagged_as(queryset.db, value))


class SubjectFilter(_Chosen):
    """By what they are about, as ``app_label.model:key``. There are too many to be offered."""

    title = _("about")
    parameter_name = "subject"

    def keep(self, queryset: QuerySet[Instance], value: str) -> QuerySet[Instance]:
        """Return those that are about it."""
        try:
            return queryset.filter(Subject.parse(value).condition)
        except ValueError:
            return queryset.none()


def _latest(request: Any) -> list[tuple[str | None, dict[str, str]]]:
    """Return versions and tags of the latest instances, read once for a request."""
    if not hasattr(request, "_durable_latest"):
        query = Instance.objects.using(settings.DATABASE_ALIAS).order_by("-created_at", "-pk")
        found = query.values_list("version", "tags")[:_LATEST]
        request._durable_latest = [(version, tags or {}) for version, tags in found]
    latest: list[tuple[str | None, dict[str, str]]] = request._durable_latest
    return latest
