"""Workers: who is there, what each serves and does, and who is to take on nothing new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from durable_django.admin import words
from durable_django.admin.base import APP, ReadOnlyAdmin, author_of, may, permitted, url_of
from durable_django.admin.forms import ReasonForm
from durable_django.conf import settings
from durable_django.models import Worker
from durable_django.store import clock, workers
from durable_django.store.audit import leave_trail

_PERMISSION = "drain_worker"
_LABELS = {True: _("Drain"), False: _("Undrain")}
_EXPLANATIONS = {
    True: _("It takes on nothing new. What it runs now ends and is recorded; the rest goes to others."),
    False: _("It works again."),
}


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """The worker processes."""

    list_display = (
        "name_or_identity",
        "state",
        "versions",
        "queues_served",
        "load_in_short",
        "host",
        "pid",
        "started_at",
        "heartbeat",
    )
    ordering = ("-started_at",)
    actions = ("drain_selected", "undrain_selected")
    fields = readonly_fields = (
        "name_or_identity",
        "identity",
        "state",
        "draining_since",
        "drained_at",
        "heartbeat",
        "started_at",
        "host",
        "pid",
        "queues_served",
        "versions",
        "orchestrations",
        "activities",
        "entities",
        "load_in_full",
        "suspect",
        "suspect_operations",
    )
    change_form_template = "admin/durable_django/worker/detail.html"

    class Media:
        css: ClassVar = {"all": ["durable_django/admin.css"]}

    # ---------------------------------------------------------------- columns and fields

    @admin.display(description=_("worker"))
    def name_or_identity(self, worker: Worker) -> str:
        """Return what to call it."""
        return str(worker)

    @admin.display(description=_("last heartbeat"))
    def heartbeat(self, worker: Worker) -> str:
        """Return how long ago it has shown that it is alive."""
        return words.duration(max(clock.now() - clock.from_orm(worker.last_heartbeat_at), words.NO_TIME))

    @admin.display(description=_("state"))
    def state(self, worker: Worker) -> str:
        """Return whether it is alive and works, coloured."""
        return words.worker_badge(worker)

    @admin.display(description=_("queues"))
    def queues_served(self, worker: Worker) -> str:
        """Return its queues."""
        return words.served(worker.queues)

    @admin.display(description=_("versions"))
    def versions(self, worker: Worker) -> str:
        """Return which versions of orchestrations it takes."""
        return words.versions(worker)

    @admin.display(description=_("orchestrations"))
    def orchestrations(self, worker: Worker) -> str:
        """Return which orchestrations it takes."""
        return words.served(worker.names and worker.names["orchestrations"])

    @admin.display(description=_("activities"))
    def activities(self, worker: Worker) -> str:
        """Return which activities it takes."""
        return words.served(worker.names and worker.names["activities"])

    @admin.display(description=_("entities"))
    def entities(self, worker: Worker) -> str:
        """Return which entities it takes."""
        return words.served(worker.names and worker.names["entities"])

    @admin.display(description=_("load"))
    def load_in_short(self, worker: Worker) -> str | None:
        """Return how much it has to do, for a list."""
        return words.load(worker)

    @admin.display(description=_("load"))
    def load_in_full(self, worker: Worker) -> str | None:
        """Return how much it has to do, for its own page."""
        return words.load(worker, full=True)

    # ---------------------------------------------------------------- marks

    has_drain_permission = permitted(_PERMISSION)

    @admin.action(description=_LABELS[True], permissions=["drain"])
    def drain_selected(self, request: HttpRequest, queryset: QuerySet[Worker]) -> HttpResponseBase | None:
        """Drain many of them."""
        return _mark_selected("drain_selected", True, self, request, queryset)

    @admin.action(description=_LABELS[False], permissions=["drain"])
    def undrain_selected(self, request: HttpRequest, queryset: QuerySet[Worker]) -> HttpResponseBase | None:
        """Undrain many of them."""
        return _mark_selected("undrain_selected", False, self, request, queryset)

    def get_urls(self) -> list[URLPattern]:
        """Return the pages that ask for confirmation, before Django's own."""
        wrap: Callable[..., Any] = self.admin_site.admin_view
        own = [
            path(
                f"<int:key>/{name}/",
                wrap(self.mark_view),
                {"is_draining": is_draining},
                name=f"{APP}_worker_{name}",
            )
            for name, is_draining in (("drain", True), ("undrain", False))
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show one worker, and what may be done to it."""
        context = {"may_drain": may(request, _PERMISSION), **(extra_context or {})}
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    def mark_view(self, request: HttpRequest, key: int, is_draining: bool) -> HttpResponseBase:
        """Ask for confirmation, then drain a worker, or let it work again."""
        self.demand(request, _PERMISSION)
        worker = Worker.objects.using(settings.DATABASE_ALIAS).filter(pk=key).first()
        if worker is None:
            raise Http404
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            if _mark(request, worker, is_draining, form.cleaned_data["reason"]):
                self.message_user(request, _done(is_draining, 1), messages.SUCCESS)
                return HttpResponseRedirect(url_of(self.admin_site, "worker_change", worker.pk))
            form.add_error(None, gettext("It is gone."))
        return self.confirm(request, is_draining, form, {"worker": worker})

    def confirm(
        self, request: HttpRequest, is_draining: bool, form: ReasonForm, context: dict[str, Any]
    ) -> TemplateResponse:
        """Return the page that asks for confirmation."""
        context = {
            **self.admin_site.each_context(request),
            "title": _LABELS[is_draining],
            "explanation": _EXPLANATIONS[is_draining],
            "opts": self.opts,
            "media": self.media + form.media,
            "form": form,
            **context,
        }
        return TemplateResponse(request, "admin/durable_django/worker/confirm.html", context)


def _mark_selected(
    name: str, is_draining: bool, modeladmin: WorkerAdmin, request: HttpRequest, queryset: QuerySet[Worker]
) -> HttpResponseBase | None:
    """Ask for confirmation, then mark each of the chosen workers, in a transaction of its own."""
    chosen = list(queryset.order_by("pk"))
    form = ReasonForm(request.POST if "confirmed" in request.POST else None)
    if "confirmed" not in request.POST or not form.is_valid():
        return modeladmin.confirm(request, is_draining, form, {"chosen": chosen, "action": name})
    count = sum(_mark(request, worker, is_draining, form.cleaned_data["reason"]) for worker in chosen)
    level = messages.SUCCESS if count else messages.ERROR
    modeladmin.message_user(request, _done(is_draining, count), level)
    return None


def _mark(request: HttpRequest, worker: Worker, is_draining: bool, reason: str) -> bool:
    """Mark a worker and record it; False if it is gone."""
    using = settings.DATABASE_ALIAS
    with transaction.atomic(using):
        is_there = workers.mark(using, worker.identity, is_draining=is_draining)
        if is_there:
            done = "drained" if is_draining else "undrained"
            leave_trail(author_of(request), Worker, done, [(worker.pk, str(worker))], reason)
    return is_there


def _done(is_draining: bool, count: int) -> str:
    return gettext("%(action)s: %(count)s done.") % {"action": _LABELS[is_draining], "count": count}
