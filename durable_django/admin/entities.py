"""Entities: their states, who holds them, and what waits for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from durable_django.admin import words
from durable_django.admin.base import (
    APP,
    LONGEST_TERM,
    ReadOnlyAdmin,
    author_of,
    may,
    plain,
    tried,
    url_if_there,
    url_of,
)
from durable_django.admin.filters import EntityFilter
from durable_django.admin.forms import ReasonForm, SignalForm
from durable_django.client import DurableTaskClient
from durable_django.conf import settings
from durable_django.entities import EntityInstanceId
from durable_django.models import Entity, EntityOperation
from durable_django.store import entities
from durable_django.store.audit import leave_trail


@admin.register(Entity)
class EntityAdmin(ReadOnlyAdmin):
    """The entities."""

    list_display = ("name", "key", "locked_by", "backlog", "last_modified_at")
    list_display_links = ("name", "key")
    list_filter = (EntityFilter,)
    search_fields = ("key", "name")
    ordering = ("-last_modified_at",)
    fields = readonly_fields = ("name", "key", "pretty_state", "locked_by", "backlog", "last_modified_at")
    change_form_template = "admin/durable_django/entity/detail.html"

    def get_urls(self) -> list[URLPattern]:
        """Return the pages that signal, delete and show a whole state, before Django's own."""
        wrap: Callable[..., Any] = self.admin_site.admin_view
        own = [
            path("<int:key>/signal/", wrap(self.signal_view), name=f"{APP}_entity_signal"),
            path("<int:key>/state/", wrap(self.state_view), name=f"{APP}_entity_state"),
            path("<int:key>/clear/", wrap(self.clear_view), name=f"{APP}_entity_clear"),
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show one entity, and what may be done to it."""
        context = {
            "may_signal": may(request, "signal_entity"),
            "may_clear": may(request, "delete_entity"),
            **(extra_context or {}),
        }
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    def signal_view(self, request: HttpRequest, key: int) -> HttpResponseBase:
        """Ask for an operation, and send it."""
        entity = self._find(request, key, "signal_entity")
        form = SignalForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            tried(form, lambda: _signal(request, entity, form.cleaned_data))
            if not form.errors:
                self.message_user(request, _("The operation has been sent."), messages.SUCCESS)
                return HttpResponseRedirect(url_of(self.admin_site, "entity_change", entity.pk))
        return self._confirm(request, entity, gettext("Send an operation"), form)

    def state_view(self, request: HttpRequest, key: int) -> HttpResponseBase:
        """Give the state as it is stored, whole."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = Entity.objects.using(settings.DATABASE_ALIAS).filter(pk=key).first()
        if found is None:
            raise Http404
        return plain(found.state or "")

    def clear_view(self, request: HttpRequest, key: int) -> HttpResponseBase:
        """Ask for confirmation, and delete."""
        entity = self._find(request, key, "delete_entity")
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            if _clear(request, entity, form.cleaned_data["reason"]):
                self.message_user(request, _("The entity has been deleted."), messages.SUCCESS)
                return HttpResponseRedirect(url_of(self.admin_site, "entity_changelist"))
            form.add_error(None, gettext("An orchestration holds it, or it is gone."))
        return self._confirm(request, entity, gettext("Delete"), form)

    def _find(self, request: HttpRequest, key: int, permission: str) -> Entity:
        self.demand(request, permission)
        found = Entity.objects.using(settings.DATABASE_ALIAS).filter(pk=key).first()
        if found is None:
            raise Http404
        return found

    def _confirm(
        self, request: HttpRequest, entity: Entity, title: str, form: ReasonForm
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "subtitle": str(entity),
            "opts": self.opts,
            "media": self.media + form.media,
            "form": form,
            "entity": entity,
        }
        return TemplateResponse(request, "admin/durable_django/entity/confirm.html", context)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the entities without states, each with its holder and how many operations wait for it."""
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
            .defer("state")
            .annotate(
                _holder=F("lock_instance__instance_id"),
                _backlog=Coalesce(Subquery(waiting, output_field=IntegerField()), 0),
            )
        )
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by a whole key or name, which may have spaces and quotes, or by both as ``@name@key``."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if len(term) > LONGEST_TERM:
            return queryset.none(), False
        found = Q(key__iexact=term) | Q(name__iexact=term)
        with suppress(ValueError):
            both = EntityInstanceId.parse(term)
            found |= Q(name=both.entity, key=both.key)
        return queryset.filter(found), False

    @admin.display(description=_("locked by"))
    def locked_by(self, entity: Any) -> str | None:
        """Return the instance that holds it, and where it is."""
        if entity._holder is None:
            return None
        url = url_if_there(self.admin_site, "instance_change", entity.lock_instance_id)
        if url is None:
            return str(entity._holder)
        return format_html('<a href="{}">{}</a>', url, entity._holder)

    @admin.display(description=_("backlog"))
    def backlog(self, entity: Any) -> int:
        """Return how many operations wait for it."""
        return int(entity._backlog)

    @admin.display(description=_("state"))
    def pretty_state(self, entity: Entity) -> str | None:
        """Return its state, readable."""
        text, is_cut = words.excerpt(entity.state)
        if text is None:
            return None
        payload = format_html('<pre class="durable-payload">{}{}</pre>', text, "…" if is_cut else "")
        if not is_cut:
            return payload
        url = url_of(self.admin_site, "entity_state", entity.pk)
        return format_html('<div>{}<p><a href="{}">{}</a></p></div>', payload, url, gettext("All of it"))


def _signal(request: HttpRequest, entity: Entity, options: dict[str, Any]) -> None:
    client = DurableTaskClient()
    with transaction.atomic(client.using):
        target = EntityInstanceId(entity.name, entity.key)
        client.signal_entity(target, options["operation"], options["input"])
        done = f"signalled {options['operation']!r} to"
        leave_trail(author_of(request), Entity, done, [(entity.pk, str(entity))], options["reason"])


def _clear(request: HttpRequest, entity: Entity, reason: str) -> bool:
    with transaction.atomic(settings.DATABASE_ALIAS):
        deleted = entities.delete(settings.DATABASE_ALIAS, (entity.name, entity.key))
        if deleted:
            leave_trail(author_of(request), Entity, "deleted", [(entity.pk, str(entity))], reason)
    return bool(deleted)
