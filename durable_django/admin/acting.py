"""What the pages of instances do: each act and its trail in one transaction, on one instance or on many."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from durable_django.admin.base import FAULTS, ReadOnlyAdmin, author_of
from durable_django.admin.forms import FORMS, EventForm, ReasonForm
from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.client.steering import ACTIONS
from durable_django.core.errors import OrchestrationStateConflictError
from durable_django.core.status import TERMINAL_STATUSES
from durable_django.models import Instance
from durable_django.store import families
from durable_django.store.audit import leave_trail

LABELS = {
    "terminate": gettext_lazy("Terminate"),
    "suspend": gettext_lazy("Suspend"),
    "resume": gettext_lazy("Resume"),
    "rewind": gettext_lazy("Rewind"),
    "restart": gettext_lazy("Restart"),
    "purge": gettext_lazy("Purge"),
    "event": gettext_lazy("Send an event"),
}
"""Of all that can be done to an instance; sending an event is the one that is no `ACTIONS`."""

RAISE_EVENT = "raise_event"
_MOST_REFUSALS = 20
"""How many refusals a page tells one by one."""

LIVE = frozenset(OrchestrationStatus) - TERMINAL_STATUSES


def act(request: HttpRequest, name: str, instance: Instance, options: dict[str, Any]) -> Any:
    """Do one of `ACTIONS` to an instance.

    Raises:
        DurableTaskError: Its status does not allow it, or it is gone.
    """
    action, client, instance_id = ACTIONS[name], DurableTaskClient(), instance.instance_id
    with transaction.atomic(client.using):
        locked = families.lock_one_or_raise(client.using, instance_id)
        action.check(instance_id, OrchestrationStatus(locked.status))
        result = action.act(client, instance_id, options)
        _leave_trail(request, locked, action.done, options)
    return result


def raise_event(request: HttpRequest, instance: Instance, options: dict[str, Any]) -> None:
    """Send an event to an instance.

    Raises:
        DurableTaskError: It has ended, or is gone.
    """
    client = DurableTaskClient()
    with transaction.atomic(client.using):
        # Without a lock, as everywhere: an event never waits for a worker that holds its instance.
        statuses = Instance.objects.using(client.using).filter(pk=instance.pk)
        status = statuses.values_list("status", flat=True).first()
        if status is not None and OrchestrationStatus(status) not in LIVE:
            raise OrchestrationStateConflictError(_("It has ended, and takes in no more events."))
        client.raise_orchestration_event(instance.instance_id, options["name"], data=options["data"])
        _leave_trail(request, instance, f"sent event {options['name']!r}", options)


def start(request: HttpRequest, name: str, options: dict[str, Any]) -> int:
    """Start an orchestration, and return its instance's primary key."""
    client = DurableTaskClient()
    with transaction.atomic(client.using):
        started = client.schedule_new_orchestration(
            name, input=options["input"], instance_id=options["instance_id"]
        )
        instance = Instance.objects.using(client.using).only("pk", "instance_id").get(instance_id=started)
        _leave_trail(request, instance, "started", options)
    return instance.pk


def done(name: str, count: int) -> str:
    """Return that something is done, in words."""
    return _("%(action)s: %(count)s done.") % {"action": LABELS[name], "count": count}


def _bulk_action(name: str, permission: str) -> Callable[..., HttpResponseBase | None]:
    """Return an action of Django's list; Django shows it to those with the permission."""

    @admin.action(description=LABELS[name], permissions=[permission])
    def act_on_selected(
        modeladmin: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Instance]
    ) -> HttpResponseBase | None:
        return _act_on_selected(name, modeladmin, request, queryset)

    act_on_selected.__name__ = f"{name}_selected"
    return act_on_selected


def _act_on_selected(
    name: str, modeladmin: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Instance]
) -> HttpResponseBase | None:
    """Ask for confirmation, then act on each of the chosen instances, in a transaction of its own."""
    chosen = list(queryset.order_by("pk").only("pk", "instance_id", "status"))
    form_class, statuses = _form_and_statuses(name)
    form = form_class(request.POST if "confirmed" in request.POST else None)
    if "confirmed" not in request.POST or not form.is_valid():
        able = [one for one in chosen if OrchestrationStatus(one.status) in statuses]
        context = {
            **modeladmin.admin_site.each_context(request),
            "title": LABELS[name],
            "opts": modeladmin.opts,
            "media": modeladmin.media + form.media,
            "form": form,
            "action": f"{name}_selected",
            "able": able,
            "unable": len(chosen) - len(able),
            "chosen": chosen,
        }
        return TemplateResponse(request, "admin/durable_django/instance/confirm_selected.html", context)
    count, refusals = 0, []
    for instance in chosen:
        try:
            if name == "event":
                raise_event(request, instance, form.cleaned_data)
            else:
                act(request, name, instance, form.cleaned_data)
        except FAULTS as error:
            refusals.append(f"{instance.instance_id}: {error}")
        else:
            count += 1
    for refusal in refusals[:_MOST_REFUSALS]:
        modeladmin.message_user(request, refusal, messages.WARNING)
    if more := len(refusals[_MOST_REFUSALS:]):
        modeladmin.message_user(request, _("And %(count)s more.") % {"count": more}, messages.WARNING)
    modeladmin.message_user(request, done(name, count), messages.SUCCESS if count else messages.ERROR)
    return None


def _form_and_statuses(name: str) -> tuple[type[ReasonForm], Collection[OrchestrationStatus]]:
    if name == "event":
        return EventForm, LIVE
    return FORMS[name], ACTIONS[name].statuses


def _leave_trail(request: HttpRequest, instance: Instance, what: str, options: dict[str, Any]) -> None:
    leave_trail(author_of(request), Instance, what, [(instance.pk, instance.instance_id)], options["reason"])


BULK_ACTIONS = [
    *(_bulk_action(name, action.permission) for name, action in ACTIONS.items()),
    _bulk_action("event", RAISE_EVENT),
]
"""What can be done to many instances."""
