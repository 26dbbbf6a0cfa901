"""Control: events, and what operators do to one instance or to many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.client import DurableTaskError, OrchestrationStatus
from durable_django.client.steering import ACTIONS, Action
from durable_django.core.ids import check_name
from durable_django.models import Instance, InstanceStatus
from durable_django.rest_framework import cursors, filters
from durable_django.rest_framework.bulk import BulkResultSerializer, BulkSerializer
from durable_django.rest_framework.problems import ConflictError, invalid
from durable_django.rest_framework.serializers import (
    EventSerializer,
    ReasonSerializer,
    RestartedSerializer,
    RestartSerializer,
    SteeredInstanceSerializer,
    TerminateSerializer,
)
from durable_django.rest_framework.views.base import (
    VIEW,
    DurableView,
    described,
    light,
    path_parameter,
    responses,
)
from durable_django.store import families

_PAGE = 200


class _ActionView(DurableView):
    action: ClassVar[str]

    def perform(self, instance_id: str) -> Any:
        """Do it, and return what comes of it."""
        action, options = ACTIONS[self.action], self.body()
        with transaction.atomic(self.using):
            found = self.find(instance_id, lock=True, payloads=False)
            check(action, found)
            return self.change(
                action.done,
                found,
                instance_id,
                options.get("reason", ""),
                lambda: action.act(self.client, instance_id, options),
            )

    def state(self, instance_id: str) -> Response:
        """Return the instance as it is now, as far as the request may view it."""
        found = self.find(instance_id, payloads=False)
        context = {"may_view": self.allows(VIEW)}
        return Response(SteeredInstanceSerializer(found, context=context).data)


class Terminate(_ActionView):
    """The end of an instance by force."""

    action = "terminate"
    required_permissions: ClassVar = {"POST": "terminate"}
    serializer_class = TerminateSerializer

    @described(
        operation_id="terminate_instance", responses=responses({200: SteeredInstanceSerializer}, 404, 409)
    )
    def post(self, request: Request, instance_id: str) -> Response:
        """End an instance at once, and what it has started."""
        self.perform(instance_id)
        return self.state(instance_id)


class Suspend(_ActionView):
    """A pause."""

    action = "suspend"
    required_permissions: ClassVar = {"POST": "suspend"}
    serializer_class = ReasonSerializer

    @described(
        operation_id="suspend_instance", responses=responses({200: SteeredInstanceSerializer}, 404, 409)
    )
    def post(self, request: Request, instance_id: str) -> Response:
        """Make an instance take in nothing until it is resumed."""
        self.perform(instance_id)
        return self.state(instance_id)


class Resume(_ActionView):
    """The end of a pause."""

    action = "resume"
    required_permissions: ClassVar = {"POST": "suspend"}
    serializer_class = ReasonSerializer

    @described(
        operation_id="resume_instance", responses=responses({200: SteeredInstanceSerializer}, 404, 409)
    )
    def post(self, request: Request, instance_id: str) -> Response:
        """Let a suspended instance go on."""
        self.perform(instance_id)
        return self.state(instance_id)


class Rewind(_ActionView):
    """Another try."""

    action = "rewind"
    required_permissions: ClassVar = {"POST": "rewind"}
    serializer_class = ReasonSerializer

    @described(
        operation_id="rewind_instance", responses=responses({200: SteeredInstanceSerializer}, 404, 409)
    )
    def post(self, request: Request, instance_id: str) -> Response:
        """Take a failed instance back to before its failure, and let it go on."""
        self.perform(instance_id)
        return self.state(instance_id)


class Restart(_ActionView):
    """A start from the beginning."""

    action = "restart"
    required_permissions: ClassVar = {"POST": "restart"}
    serializer_class = RestartSerializer

    @described(operation_id="restart_instance", responses=responses({200: RestartedSerializer}, 404, 409))
    def post(self, request: Request, instance_id: str) -> Response:
        """Start an instance that has ended from the beginning, with its last input."""
        return Response({"instance_id": self.perform(instance_id)})


class RaiseEvent(DurableView):
    """An external event."""

    required_permissions: ClassVar = {"POST": "raise_event"}
    serializer_class = EventSerializer

    @described(
        operation_id="raise_event",
        parameters=[path_parameter("event")],
        responses=responses({202: None}, 404, 409),
        examples=[OpenApiExample("An approval", value={"data": {"approved": True}}, request_only=True)],
    )
    def post(self, request: Request, instance_id: str, event: str) -> Response:
        """Send an instance an external event; it takes it in when it waits for it."""
        try:
            name = check_name("event", event)
        except ValueError as error:
            raise invalid("event", str(error)) from error
        data = self.body()["data"]
        with transaction.atomic(self.using):
            found = self.find(instance_id, payloads=False)
            if found.status in families.TERMINAL:
                raise ConflictError(
                    f"Orchestration instance {instance_id!r} has ended: it is "
                    f"{InstanceStatus(found.status).name}, and takes no event."
                )
            self.change(
                f"sent event {name!r}",
                found,
                instance_id,
                "",
                lambda: self.client.raise_orchestration_event(instance_id, name, data=data),
            )
        return Response(status=status.HTTP_202_ACCEPTED)


class Bulk(DurableView):
    """One action over many instances."""

    required_permissions: ClassVar = {"POST": None}
    serializer_class = BulkSerializer

    @described(
        operation_id="act_on_instances",
        responses=responses({200: BulkResultSerializer}, 404),
        examples=[
            OpenApiExample(
                "Rewind what failed last night",
                value={
                    "action": "rewind",
                    "filters": {"status": ["FAILED"], "created_after": "2030-01-30T22:00:00Z"},
                    "reason": "The payment provider is back.",
                    "dry_run": True,
                },
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Do one thing to many instances, each in a transaction of its own.

        Instances are given by `ids`, or by the list's `filters`. What cannot be acted upon is left alone; a
        call ends after `limit` instances, and says whether that were all. With its `next` as `cursor`,
        another call goes on after them, up to those that there were at the first one.
        """
        options = self.body()
        action = ACTIONS[options["action"]]
        self.demand(action.permission)
        chosen = self._chosen(options)
        after, until = options.get("cursor") or (0, self._latest())
        able = chosen.filter(status__in=[status.value for status in action.statuses], pk__lte=until)
        result: dict[str, Any] = {"action": options["action"], "dry_run": options["dry_run"]}
        if options["dry_run"]:
            matched = able.filter(pk__gt=after).count()
            return Response(
                {**result, "matched": matched, "done": 0, "skipped": [], "is_complete": True, "next": None}
            )
        unable = self._unable(chosen, action, options.get("ids", ()), after)
        last, tried, refused = self._act(action, able, chosen, options, after)
        is_complete = not able.filter(pk__gt=last).exists()
        skipped = [one for key, one in unable if is_complete or key <= last]
        result |= {"matched": tried, "done": tried - len(refused), "skipped": [*skipped, *refused]}
        following = None if is_complete else cursors.write(last, until)
        return Response({**result, "is_complete": is_complete, "next": following})

    def _chosen(self, options: dict[str, Any]) -> QuerySet[Instance]:
        visible = light(self.instances())
        if "ids" in options:
            return visible.filter(instance_id__in=set(options["ids"]))
        return filters.from_body(options["filters"], visible)

    def _latest(self) -> int:
        """Return the key beyond which everything is new: what keeps coming never ends."""
        everything = Instance.objects.using(self.using)
        return everything.order_by("-pk").values_list("pk", flat=True).first() or 0

    def _act(
        self,
        action: Action,
        able: QuerySet[Instance],
        chosen: QuerySet[Instance],
        options: dict[str, Any],
        after: int,
    ) -> tuple[int, int, list[dict[str, str]]]:
        """Act page by page; return the last key, how many were tried, and which of these were refused."""
        refused: list[dict[str, str]] = []
        tried, last = 0, after
        while tried < options["limit"]:
            size = min(_PAGE, options["limit"] - tried)
            page = list(able.filter(pk__gt=last).order_by("pk").values_list("pk", "instance_id")[:size])
            for key, instance_id in page:
                last = key
                if (refusal := self._act_on(action, chosen, key, options)) is not None:
                    refused.append({"instance_id": instance_id, "detail": refusal})
            tried += len(page)
            if len(page) < size:
                break
        return last, tried, refused

    def _act_on(
        self, action: Action, chosen: QuerySet[Instance], key: int, options: dict[str, Any]
    ) -> str | None:
        try:
            with transaction.atomic(self.using):
                families.lock(self.using, [key])
                # Again, now that it stays as it is.
                found = chosen.filter(pk=key).first()
                if found is None:
                    return "It is gone, or not among these any more."
                check(action, found)
                name = found.instance_id
                act = partial(action.act, self.client, name, options)
                self.change(action.done, found, name, options["reason"], act)
        except (APIException, DurableTaskError) as error:
            return str(error)
        return None

    def _unable(
        self, chosen: QuerySet[Instance], action: Action, ids: Sequence[str], after: int
    ) -> list[tuple[int, dict[str, str]]]:
        """Return which of the ids that come after a key cannot be acted upon, and why, each with its key.

        What is missing has the first one.
        """
        if not ids:
            return []
        found = {
            name: (key, status) for name, key, status in chosen.values_list("instance_id", "pk", "status")
        }
        unable = []
        for instance_id in dict.fromkeys(ids):
            key, status = found.get(instance_id, (0, None))
            if status is None:
                detail = "There is no such instance."
            elif (present := OrchestrationStatus(status)) not in action.statuses:
                detail = f"It is {present}."
            else:
                continue
            if key > after or not after:
                unable.append((key, {"instance_id": instance_id, "detail": detail}))
        return unable


def check(action: Action, instance: Instance) -> None:
    """Do nothing if an instance's status allows an action; see `Action.check`."""
    action.check(instance.instance_id, OrchestrationStatus(instance.status))
