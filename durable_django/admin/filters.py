"""Filters of the list of instances that ask no table for their choices."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from durable_django.conf import settings
from durable_django.core.registry import default_registry
from durable_django.models import Instance


class _Known(admin.SimpleListFilter):
    """Those of one name, out of the names that this process knows; and whatever the address asks for."""

    field: str

    def queryset(self, request: HttpRequest, queryset: QuerySet[Instance]) -> QuerySet[Instance]:
        """Keep those of the chosen name."""
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset

    def has_output(self) -> bool:
        """Tell whether there is a choice."""
        return True

    def _with_chosen(self, names: set[str]) -> list[tuple[str, str]]:
        # What the address names is shown even if nobody here knows it.
        chosen: Any = self.used_parameters.get(self.field)
        if isinstance(chosen, list):
            chosen = chosen[-1]
        return [(name, name) for name in sorted(names | ({chosen} if chosen else set()))]


class NameFilter(_Known):
    """By the orchestrator's name."""

    title = _("name")
    parameter_name = field = "name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the registered orchestrators."""
        return self._with_chosen(set(default_registry.orchestrators))


class QueueFilter(_Known):
    """By queue."""

    title = _("queue")
    parameter_name = field = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the queues of registered orchestrators, and the default one."""
        queues = {known.queue for known in default_registry.orchestrators.values() if known.queue}
        return self._with_chosen(queues | {settings.DEFAULT_QUEUE})
