"""Whose instances and entities a request may see: everybody's, unless a project says otherwise."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils.module_loading import import_string
from rest_framework.request import Request

from durable_django.conf import settings
from durable_django.entities import EntityInstanceId
from durable_django.models import Entity, Instance


class Scope:
    """What one request may see and touch. Derive from it, and name the class in ``REST_SCOPE``.

    For tenants that are told apart by a tag::

        class TenantScope(Scope):
            def instances(self, queryset):
                return queryset.filter(tags__tenant=self.request.user.profile.tenant)

            def start(self, options):
                tags = {**(options.get("tags") or {}), "tenant": self.request.user.profile.tenant}
                return {**options, "tags": tags}

    What is out of scope does not exist: 404.
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    def instances(self, queryset: QuerySet[Instance]) -> QuerySet[Instance]:
        """Return which of these instances the request may see and steer."""
        return queryset

    def entities(self, queryset: QuerySet[Entity]) -> QuerySet[Entity]:
        """Return which of these entities the request may see and delete."""
        return queryset

    def may_signal(self, entity_id: EntityInstanceId) -> bool:
        """Tell whether the request may signal an entity, which need not exist yet."""
        return True

    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments with which an orchestration is started, given those asked for."""
        return options


def scope(request: Request) -> Scope:
    """Return the scope of a request, of the class that ``REST_SCOPE`` names."""
    made = import_string(settings.REST_SCOPE)(request)
    assert isinstance(made, Scope)
    return made
