"""Instances: the list, and the page of one, where people understand and steer it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import quote as quote_key
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from durable_django.admin import acting, page, words
from durable_django.admin.base import APP, LONGEST_TERM, ReadOnlyAdmin, may, permitted, plain, tried, url_of
from durable_django.admin.filters import NameFilter, QueueFilter, SubjectFilter, TagFilter, VersionFilter
from durable_django.admin.forms import FORMS, EventForm, ReasonForm, StartForm, skeleton
from durable_django.admin.subjects import subject_link
from durable_django.client import OrchestrationStatus
from durable_django.client.steering import ACTIONS
from durable_django.conf import settings
from durable_django.core.registry import default_registry
from durable_django.models import Instance
from durable_django.store import clock, families, monitoring
from durable_django.store.subjects import Subject


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    """The orchestration instances."""

    list_display = ("instance_id", "badge", "name", "age", "took", "waits", "custom", "version")
    # Not by version: as text it sorts wrongly, and no index has that order.
    sortable_by = ("instance_id", "badge", "name", "age")
    list_filter = (
        "status",
        NameFilter,
        VersionFilter,
        QueueFilter,
        TagFilter,
        SubjectFilter,
        "created_at",
        "completed_at",
    )
    search_fields = ("instance_id",)
    search_help_text = gettext_lazy(
        "The beginning of an instance id, the key of what it is about, or a tag as key=value"
    )
    ordering = ("-created_at", "-pk")
    actions = acting.BULK_ACTIONS
    change_list_template = "admin/durable_django/instance/list.html"

    class Media:
        css: ClassVar = {"all": ["durable_django/admin.css"]}

    # ---------------------------------------------------------------- the list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the instances without their payloads."""
        return super().get_queryset(request).defer("input", "output", "failure")

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Return the latest first; of those that ended within some time, the last to end."""
        if any(name.startswith("completed_at") for name in request.GET):
            # In the order of creation the database would walk through all that ended before or later.
            return ("-completed_at", "-pk")
        return self.ordering

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by the beginning of an id, by what it is about or, with an equals sign, by a tag."""
        term = search_term.strip().replace("\x00", "")
        if not term:
            return queryset, False
        if len(term) > LONGEST_TERM:
            return queryset.none(), False
        found = monitoring.starting(queryset.db, "instance_id", term) | Q(subject_id=term)
        if "=" in term[1:]:
            found |= monitoring.tagged_as(queryset.db, term)
        with suppress(ValueError):
            found |= Subject.parse(term).condition
        return queryset.filter(found), False

    @admin.display(description=gettext_lazy("status"), ordering="status")
    def badge(self, instance: Instance) -> str:
        """Return the status, coloured."""
        return words.badge(instance)

    @admin.display(description=gettext_lazy("age"), ordering="created_at")
    def age(self, instance: Instance) -> str:
        """Return how long ago it was created."""
        return words.duration(clock.now() - clock.from_orm(instance.created_at))

    @admin.display(description=gettext_lazy("duration"))
    def took(self, instance: Instance) -> str | None:
        """Return how long it took, if it has ended."""
        if instance.completed_at is None:
            return None
        return words.duration(instance.completed_at - instance.created_at)

    @admin.display(description=gettext_lazy("waiting for"))
    def waits(self, instance: Instance) -> str:
        """Return the events that it waits for."""
        return ", ".join(instance.waiting_for)

    @admin.display(description=gettext_lazy("custom status"))
    def custom(self, instance: Instance) -> str | None:
        """Return the beginning of its custom status."""
        text = instance.custom_status
        return text if text is None or len(text) <= 60 else f"{text[:60]}…"

    has_terminate_permission = permitted("terminate")
    has_suspend_permission = permitted("suspend")
    has_rewind_permission = permitted("rewind")
    has_restart_permission = permitted("restart")
    has_purge_permission = permitted("purge")
    has_raise_event_permission = permitted(acting.RAISE_EVENT)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list, and where to start another one."""
        context = {"may_start": may(request, "start_orchestration"), **(extra_context or {})}
        response: HttpResponse = super().changelist_view(request, context)
        return response

    # ---------------------------------------------------------------- pages of their own

    def get_urls(self) -> list[URLPattern]:
        """Return the pages of one instance, and the form that starts one, before Django's own."""
        wrap: Callable[..., Any] = self.admin_site.admin_view
        own = [
            path("start/", wrap(self.start_view), name=f"{APP}_instance_start"),
            path("start/<path:name>/", wrap(self.start_one_view), name=f"{APP}_instance_start_one"),
            path("<path:object_id>/event/", wrap(self.event_view), name=f"{APP}_instance_event"),
            path("<path:object_id>/act/<str:action>/", wrap(self.act_view), name=f"{APP}_instance_act"),
            path(
                "<path:object_id>/history.json", wrap(self.download_view), name=f"{APP}_instance_history_json"
            ),
            path(
                "<path:object_id>/payload/<str:field>/",
                wrap(self.payload_view),
                name=f"{APP}_instance_payload",
            ),
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show one instance."""
        instance = self._find(request, object_id)
        using, now = settings.DATABASE_ALIAS, clock.now()
        is_live = instance.status not in families.TERMINAL
        context = {
            **self._context(request, instance.instance_id),
            **page.state(using, instance, now, is_live=is_live),
            **page.history(using, instance, request.GET),
            "instance": instance,
            "badge": self.badge(instance),
            "is_live": is_live,
            "age": self.age(instance),
            "took": self.took(instance),
            "subject": subject_link(self.admin_site, request, instance),
            "children": self._children(using, instance),
            "buttons": self._buttons(request, instance),
            "may_raise": is_live and may(request, acting.RAISE_EVENT),
            "key": quote_key(instance.pk),
        }
        return TemplateResponse(request, "admin/durable_django/instance/detail.html", context)

    def act_view(self, request: HttpRequest, object_id: str, action: str) -> HttpResponseBase:
        """Ask for confirmation, then act."""
        instance = self._find(request, object_id)
        if action not in ACTIONS:
            raise Http404
        self.demand(request, ACTIONS[action].permission)
        form = FORMS[action](request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            result = tried(form, lambda: acting.act(request, action, instance, form.cleaned_data))
            if not form.errors:
                self.message_user(request, acting.done(action, 1), messages.SUCCESS)
                return HttpResponseRedirect(self._after(action, instance, result))
        return self._confirm(request, instance, str(acting.LABELS[action]), form)

    def event_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask for an event, and send it."""
        instance = self._find(request, object_id)
        self.demand(request, acting.RAISE_EVENT)
        waited_for = next(iter(instance.waiting_for), "")
        form = EventForm(request.POST if request.method == "POST" else None, initial={"name": waited_for})
        if request.method == "POST" and form.is_valid():
            tried(form, lambda: acting.raise_event(request, instance, form.cleaned_data))
            if not form.errors:
                self.message_user(request, _("The event has been sent."), messages.SUCCESS)
                return HttpResponseRedirect(self._url("change", instance.pk))
        return self._confirm(request, instance, _("Send an event"), form)

    def start_view(self, request: HttpRequest) -> HttpResponseBase:
        """Let people choose what to start."""
        self.demand(request, "start_orchestration")
        names = sorted(default_registry.startable)
        context = {
            **self._context(request, _("Start an orchestration")),
            "names": [(name, url_of(self.admin_site, "instance_start_one", name)) for name in names],
        }
        return TemplateResponse(request, "admin/durable_django/instance/start.html", context)

    def start_one_view(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """Ask for an input, and start."""
        self.demand(request, "start_orchestration")
        if name not in default_registry.startable:
            raise Http404
        form = StartForm(
            request.POST if request.method == "POST" else None, initial={"input": skeleton(name)}
        )
        if request.method == "POST" and form.is_valid():
            key = tried(form, lambda: acting.start(request, name, form.cleaned_data))
            if key is not None:
                self.message_user(request, _("The orchestration has been started."), messages.SUCCESS)
                return HttpResponseRedirect(self._url("change", key))
        return self._confirm(request, None, _("Start %(name)s") % {"name": name}, form)

    def download_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Give the history as JSON."""
        instance = self._find(request, object_id)
        using = settings.DATABASE_ALIAS
        events = monitoring.history(using, instance.pk, instance.execution_id)
        found = [
            {
                "sequence": one.sequence,
                "turn": one.turn,
                "type": type(one.event).__name__,
                **one.event.to_dict(),
            }
            for one in events
        ]
        headers = {"Content-Disposition": f'attachment; filename="history-{instance.pk}.json"'}
        return JsonResponse(found, safe=False, headers=headers, json_dumps_params={"indent": 1})

    def payload_view(self, request: HttpRequest, object_id: str, field: str) -> HttpResponseBase:
        """Give a payload as it is stored, whole."""
        if field not in ("input", "output", "custom_status"):
            raise Http404
        text = getattr(self._find(request, object_id), field) or ""
        return plain(text)

    # ---------------------------------------------------------------- parts of them

    def _find(self, request: HttpRequest, object_id: str) -> Instance:
        if not self.has_view_permission(request):
            raise PermissionDenied
        key = unquote(object_id)
        query = Instance.objects.using(settings.DATABASE_ALIAS).select_related("parent")
        found = (
            query.filter(pk=int(key)).first() if key.isascii() and key.isdigit() and len(key) < 19 else None
        )
        if found is None:
            raise Http404
        return found

    def _confirm(
        self, request: HttpRequest, instance: Instance | None, title: str, form: ReasonForm
    ) -> TemplateResponse:
        context = {
            **self._context(request, title),
            "media": self.media + form.media,
            "instance": instance,
            "form": form,
            "key": None if instance is None else quote_key(instance.pk),
        }
        return TemplateResponse(request, "admin/durable_django/instance/confirm.html", context)

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        site = self.admin_site.each_context(request)
        return {**site, "title": title, "opts": self.opts, "media": self.media}

    def _buttons(self, request: HttpRequest, instance: Instance) -> list[tuple[str, Any]]:
        status = OrchestrationStatus(instance.status)
        return [
            (self._url("act", instance.pk, name), acting.LABELS[name])
            for name, action in ACTIONS.items()
            if status in action.statuses and may(request, action.permission)
        ]

    def _children(self, using: str, instance: Instance) -> list[dict[str, Any]]:
        query = Instance.objects.using(using).filter(parent=instance).order_by("-pk")
        return [
            {
                "url": self._url("change", child.pk),
                "id": child.instance_id,
                "name": child.name,
                "badge": self.badge(child),
            }
            for child in query.only("instance_id", "name", "status")[:20]
        ]

    def _after(self, action: str, instance: Instance, result: Any) -> str:
        if action == "purge":
            return url_of(self.admin_site, "instance_changelist")
        if action == "restart" and result != instance.instance_id:
            copy = Instance.objects.using(settings.DATABASE_ALIAS).only("pk").get(instance_id=result)
            return self._url("change", copy.pk)
        return self._url("change", instance.pk)

    def _url(self, page: str, key: int, *args: str) -> str:
        return url_of(self.admin_site, f"instance_{page}", quote_key(key), *args)
