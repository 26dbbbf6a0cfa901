"""Instances: the list, and the page of one, where people understand and steer it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import quote as quote_key
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
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
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from durable_django.admin import timeline, words
from durable_django.admin.base import APP, FAULTS, ReadOnlyAdmin, may, tried
from durable_django.admin.filters import NameFilter, QueueFilter
from durable_django.admin.forms import FORMS, EventForm, ReasonForm, StartForm, skeleton
from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.client.steering import ACTIONS
from durable_django.conf import settings
from durable_django.core.payloads import PAYLOADS, payload
from durable_django.core.registry import default_registry
from durable_django.models import Instance, InstanceStatus
from durable_django.store import clock, families, monitoring
from durable_django.store.audit import leave_trail

_DRAWN = 2000
"""How many of the latest events the timeline is drawn from."""

_EVENTS = 100
_LABELS = {
    "terminate": gettext_lazy("Terminate"),
    "suspend": gettext_lazy("Suspend"),
    "resume": gettext_lazy("Resume"),
    "rewind": gettext_lazy("Rewind"),
    "restart": gettext_lazy("Restart"),
    "purge": gettext_lazy("Purge"),
}


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    """The orchestration instances."""

    list_display = ("instance_id", "badge", "name", "version", "age", "took", "waits", "custom")
    list_filter = ("status", NameFilter, QueueFilter, "created_at")
    search_fields = ("instance_id",)
    search_help_text = gettext_lazy("The beginning of an instance id, or a tag as key=value")
    ordering = ("-created_at", "-pk")
    actions = [f"{name}_selected" for name in ACTIONS]
    change_list_template = "admin/durable_django/instance/list.html"

    class Media:
        css: ClassVar = {"all": ["durable_django/admin.css"]}

    # ---------------------------------------------------------------- the list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the instances without their payloads."""
        return super().get_queryset(request).defer("input", "output", "failure")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find by the beginning of an id or, with an equals sign, by a tag."""
        term = search_term.strip().replace("\x00", "")
        key, equals, value = term.partition("=")
        if not term:
            return queryset, False
        if equals and key:
            has_tag = Q(monitoring.tagged(queryset.db, key, value))
            return queryset.filter(Q(instance_id__startswith=term) | has_tag), False
        return queryset.filter(instance_id__startswith=term), False

    @admin.display(description=gettext_lazy("status"), ordering="status")
    def badge(self, instance: Instance) -> str:
        """Return the status, coloured."""
        status = InstanceStatus(instance.status)
        return format_html(
            '<span class="durable-badge durable-{}">{}</span>', status.name.lower(), status.label
        )

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

    def get_actions(self, request: HttpRequest) -> Any:
        """Return the actions that the user may do."""
        return {
            f"{name}_selected": (partial(_act_on_selected, name), f"{name}_selected", _LABELS[name])
            for name, action in ACTIONS.items()
            if may(request, action.permission)
        }

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
        using = settings.DATABASE_ALIAS
        now = clock.now()
        is_live = instance.status not in families.TERMINAL
        pending = monitoring.pending(using, instance)
        recent = monitoring.history(
            using, instance.pk, instance.execution_id, after=instance.next_sequence - _DRAWN - 1
        )
        after = _number(request.GET.get("after"))
        page = monitoring.history(using, instance.pk, instance.execution_id, after=after, limit=_EVENTS)
        found = timeline.spans(one.event for one in recent)
        since = clock.from_orm(instance.last_updated_at)
        found += [timeline.Span("event", name, since) for name in instance.waiting_for if is_live]
        context = {
            **self.admin_site.each_context(request),
            "title": instance.instance_id,
            "opts": self.opts,
            "media": self.media,
            "instance": instance,
            "status": InstanceStatus(instance.status),
            "badge": self.badge(instance),
            "is_live": is_live,
            "age": self.age(instance),
            "took": self.took(instance),
            "waiting": words.waiting(pending, now),
            "failure": None if instance.failure is None else json.loads(instance.failure),
            "payloads": [
                _payload(_("Input"), "input", instance.input),
                _payload(_("Output"), "output", instance.output),
                _payload(_("Custom status"), "custom_status", instance.custom_status),
            ],
            "chart": timeline.chart(found, now, is_live=is_live),
            "children": self._children(using, instance),
            "events": [_row(one) for one in page],
            "next_after": page[-1].sequence
            if page and page[-1].sequence < instance.next_sequence - 1
            else None,
            "event_count": instance.next_sequence,
            "buttons": self._buttons(request, instance),
            "may_raise": is_live and may(request, "raise_event"),
            "key": quote_key(instance.pk),
        }
        return TemplateResponse(request, "admin/durable_django/instance/detail.html", context)

    def act_view(self, request: HttpRequest, object_id: str, action: str) -> HttpResponseBase:
        """Ask for confirmation, then act."""
        instance = self._find(request, object_id)
        if action not in ACTIONS:
            raise Http404
        self._demand(request, ACTIONS[action].permission)
        form = FORMS[action](request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            result = tried(form, lambda: _act(request, action, instance.instance_id, form.cleaned_data))
            if not form.errors:
                self.message_user(request, _done(action, 1), messages.SUCCESS)
                return HttpResponseRedirect(self._after(action, instance, result))
        return self._confirm(request, instance, str(_LABELS[action]), form)

    def event_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask for an event, and send it."""
        instance = self._find(request, object_id)
        self._demand(request, "raise_event")
        waited_for = next(iter(instance.waiting_for), "")
        form = EventForm(request.POST if request.method == "POST" else None, initial={"name": waited_for})
        if request.method == "POST" and form.is_valid():
            tried(form, lambda: _raise_event(request, instance, form.cleaned_data))
            if not form.errors:
                self.message_user(request, _("The event has been sent."), messages.SUCCESS)
                return HttpResponseRedirect(_url("change", instance.pk))
        return self._confirm(request, instance, _("Send an event"), form)

    def start_view(self, request: HttpRequest) -> HttpResponseBase:
        """Let people choose what to start."""
        self._demand(request, "start_orchestration")
        names = sorted(default_registry.orchestrators)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Start an orchestration"),
            "opts": self.opts,
            "media": self.media,
            "names": [(name, reverse(f"admin:{APP}_instance_start_one", args=[name])) for name in names],
        }
        return TemplateResponse(request, "admin/durable_django/instance/start.html", context)

    def start_one_view(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """Ask for an input, and start."""
        self._demand(request, "start_orchestration")
        if name not in default_registry.orchestrators:
            raise Http404
        form = StartForm(
            request.POST if request.method == "POST" else None, initial={"input": skeleton(name)}
        )
        if request.method == "POST" and form.is_valid():
            key = tried(form, lambda: _start(request, name, form.cleaned_data))
            if key is not None:
                self.message_user(request, _("The orchestration has been started."), messages.SUCCESS)
                return HttpResponseRedirect(_url("change", key))
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
        # As plain text: whatever it holds is shown, not run.
        headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "inline"}
        return HttpResponse(text, content_type="text/plain; charset=utf-8", headers=headers)

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

    @staticmethod
    def _demand(request: HttpRequest, permission: str) -> None:
        if not may(request, permission):
            raise PermissionDenied

    def _confirm(
        self, request: HttpRequest, instance: Instance | None, title: str, form: ReasonForm
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "media": self.media + form.media,
            "instance": instance,
            "form": form,
            "key": None if instance is None else quote_key(instance.pk),
        }
        return TemplateResponse(request, "admin/durable_django/instance/confirm.html", context)

    @staticmethod
    def _buttons(request: HttpRequest, instance: Instance) -> list[tuple[str, Any]]:
        status = OrchestrationStatus(instance.status)
        return [
            (reverse(f"admin:{APP}_instance_act", args=[quote_key(instance.pk), name]), _LABELS[name])
            for name, action in ACTIONS.items()
            if status in action.statuses and may(request, action.permission)
        ]

    def _children(self, using: str, instance: Instance) -> list[dict[str, Any]]:
        query = Instance.objects.using(using).filter(parent=instance).order_by("-pk")
        return [
            {
                "url": _url("change", child.pk),
                "id": child.instance_id,
                "name": child.name,
                "badge": self.badge(child),
            }
            for child in query.only("instance_id", "name", "status")[:20]
        ]

    @staticmethod
    def _after(action: str, instance: Instance, result: Any) -> str:
        if action == "purge":
            return reverse(f"admin:{APP}_instance_changelist")
        if action == "restart" and result != instance.instance_id:
            copy = Instance.objects.using(settings.DATABASE_ALIAS).only("pk").get(instance_id=result)
            return _url("change", copy.pk)
        return _url("change", instance.pk)


# ------------------------------------------------------------------------------------- what is done


def _act(request: HttpRequest, name: str, instance_id: str, options: dict[str, Any]) -> Any:
    """Act, and record it, both or neither."""
    action, client = ACTIONS[name], DurableTaskClient()
    with transaction.atomic(client.using):
        instance = families.lock_one_or_raise(client.using, instance_id)
        action.check(instance_id, OrchestrationStatus(instance.status))
        result = action.act(client, instance_id, options)
        subjects = [(instance.pk, instance_id)]
        leave_trail(request.user, Instance, action.done, subjects, options.get("reason", ""))
    return result


def _raise_event(request: HttpRequest, instance: Instance, options: dict[str, Any]) -> None:
    client = DurableTaskClient()
    with transaction.atomic(client.using):
        client.raise_orchestration_event(instance.instance_id, options["name"], data=options["data"])
        done = f"sent event {options['name']!r}"
        leave_trail(request.user, Instance, done, [(instance.pk, instance.instance_id)], options["reason"])


def _start(request: HttpRequest, name: str, options: dict[str, Any]) -> int:
    client = DurableTaskClient()
    with transaction.atomic(client.using):
        started = client.schedule_new_orchestration(
            name, input=options["input"], instance_id=options["instance_id"]
        )
        key = Instance.objects.using(client.using).values_list("pk", flat=True).get(instance_id=started)
        leave_trail(request.user, Instance, "started", [(key, started)], options["reason"])
    return key


def _act_on_selected(
    name: str, modeladmin: InstanceAdmin, request: HttpRequest, queryset: QuerySet[Instance]
) -> HttpResponseBase | None:
    """Ask for confirmation, then act on each of the chosen instances, in a transaction of its own."""
    chosen = list(queryset.order_by("pk").only("pk", "instance_id", "status"))
    form = FORMS[name](request.POST if "confirmed" in request.POST else None)
    if "confirmed" not in request.POST or not form.is_valid():
        able = [one for one in chosen if OrchestrationStatus(one.status) in ACTIONS[name].statuses]
        context = {
            **modeladmin.admin_site.each_context(request),
            "title": _LABELS[name],
            "opts": modeladmin.opts,
            "media": modeladmin.media + form.media,
            "form": form,
            "action": f"{name}_selected",
            "able": able,
            "unable": len(chosen) - len(able),
            "chosen": chosen,
        }
        return TemplateResponse(request, "admin/durable_django/instance/confirm_selected.html", context)
    done = 0
    for instance in chosen:
        try:
            _act(request, name, instance.instance_id, form.cleaned_data)
        except FAULTS as error:
            modeladmin.message_user(request, str(error), messages.WARNING)
        else:
            done += 1
    modeladmin.message_user(request, _done(name, done), messages.SUCCESS if done else messages.ERROR)
    return None


def _done(name: str, count: int) -> str:
    return _("%(action)s: %(count)s done.") % {"action": _LABELS[name], "count": count}


# ------------------------------------------------------------------------------------- small things


def _url(page: str, key: int) -> str:
    return reverse(f"admin:{APP}_instance_{page}", args=[quote_key(key)])


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else -1


def _payload(title: str, field: str, text: str | None) -> dict[str, Any]:
    shown = text
    if text is not None and len(text) <= words.LONGEST:
        shown = words.pretty(text)
    is_cut = shown is not None and len(shown) > words.LONGEST
    return {"title": title, "field": field, "text": shown and shown[: words.LONGEST], "is_cut": is_cut}


def _row(recorded: monitoring.Recorded) -> dict[str, Any]:
    fields = recorded.event.to_dict()
    shown = {
        name: value
        for name, value in fields.items()
        if value is not None and name != "timestamp" and not (name == "event_id" and value == -1)
    }
    for name in PAYLOADS & shown.keys():
        shown[name] = payload(shown[name])
    text = json.dumps(shown, ensure_ascii=False)
    return {
        "sequence": recorded.sequence,
        "turn": recorded.turn,
        "at": recorded.event.timestamp,
        "type": type(recorded.event).__name__.removesuffix("Event"),
        "details": text if len(text) <= 300 else f"{text[:300]}…",
    }
