"""Entities: their states, who holds them, and what waits for them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, F, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from durable_django.admin import words
from durable_django.admin.base import ReadOnlyAdmin
from durable_django.models import Entity, EntityOperation


@admin.register(Entity)
class EntityAdmin(ReadOnlyAdmin):
    """The entities."""

    list_display = ("name", "key", "locked_by", "backlog", "last_modified_at")
    list_display_links = ("name", "key")
    list_filter = ("name",)
    search_fields = ("=key", "=name")
    ordering = ("-last_modified_at",)
    fields = readonly_fields = ("name", "key", "pretty_state", "locked_by", "backlog", "last_modified_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the entities, each with its holder and how many operations wait for it."""
        waiting = (
            EntityOperation.objects.filter(name=OuterRef("name"), key=OuterRef("key"))
            .order_by()
            .values("name")
            .annotate(count=Count("pk"))
            .values("count")
        )
        found: QuerySet[Any] = (
            super()
            .get_queryset(request)
            .annotate(
                _holder=F("lock_instance__instance_id"),
                _backlog=Coalesce(Subquery(waiting, output_field=IntegerField()), 0),
            )
        )
        return found

    @admin.display(description=_("locked by"))
    def locked_by(self, entity: Any) -> str | None:
        """Return the instance that holds it."""
        holder: str | None = entity._holder
        return holder

    @admin.display(description=_("backlog"))
    def backlog(self, entity: Any) -> int:
        """Return how many operations wait for it."""
        return int(entity._backlog)

    @admin.display(description=_("state"))
    def pretty_state(self, entity: Entity) -> str | None:
        """Return its state, readable."""
        return words.pretty(entity.state)
