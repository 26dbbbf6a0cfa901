"""Instances: listed, looked at, and deleted."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.client import OrchestrationStatus, PurgeInstancesResult
from durable_django.client.steering import ACTIONS
from durable_django.models import Instance
from durable_django.rest_framework import payloads
from durable_django.rest_framework.fields import REASON
from durable_django.rest_framework.filters import PAYLOADS, FilterBackend, InstanceFilter
from durable_django.rest_framework.pagination import (
    MAX_HEAVY_PAGE_SIZE,
    MAX_PAGE_SIZE,
    SIZE,
    KeysetPagination,
    page_size,
)
from durable_django.rest_framework.problems import invalid
from durable_django.rest_framework.serializers import (
    HistoryEventSerializer,
    InstanceSerializer,
    PendingSerializer,
    PurgedSerializer,
)
from durable_django.rest_framework.views.base import DurableView, described, light, responses
from durable_django.store import families, monitoring

AFTER = "after"
SEQUENCE = {"type": "integer", "minimum": -1, "maximum": 2**31 - 1}
EXECUTION = "execution_id"
_RETRY_SECONDS = 1
_EXECUTION_ID = re.compile("[0-9a-f]{1,32}")

_PAYLOADS = OpenApiParameter(PAYLOADS, bool, description="Whether with input and output.")
EXAMPLE = {
    "instance_id": "order-42",
    "execution_id": "2d4c2dd6c5a04f0d9a5d2f7a4b7e9d11",
    "name": "approve_order",
    "version": None,
    "queue": "default",
    "priority": 0,
    "status": "RUNNING",
    "custom_status": {"step": "waiting for a manager"},
    "waiting_for": ["approval_received"],
    "tags": {"customer": "7"},
    "parent": None,
    "subject": "shop.order:42",
    "failure": None,
    "created_at": "2030-01-31T12:00:00Z",
    "start_at": "2030-01-31T12:00:00Z",
    "last_updated_at": "2030-01-31T12:00:01.250000Z",
    "completed_at": None,
}


class _InstanceView(DurableView):
    serializer_class = InstanceSerializer
    payloads_by_default = False

    def get_serializer_context(self) -> dict[str, Any]:
        """Say whether payloads are wanted."""
        return {**super().get_serializer_context(), "payloads": self.wants_payloads}

    @property
    def wants_payloads(self) -> bool:
        """Whether input and output are wanted."""
        return self.flag(PAYLOADS, self.payloads_by_default)

    def without_payloads(self, query: QuerySet[Instance]) -> QuerySet[Instance]:
        """Return a query that reads payloads only where they are wanted."""
        return query if self.wants_payloads else light(query)

    @property
    def max_page_size(self) -> int:
        """How many items a page may have."""
        return MAX_HEAVY_PAGE_SIZE if self.wants_payloads else MAX_PAGE_SIZE


class InstanceList(_InstanceView):
    """The instances, newest first."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    parameters = None
    filter_backends = (FilterBackend,)
    filterset_class = InstanceFilter
    pagination_class = KeysetPagination
    orderings = ("-created_at", "created_at", "-completed_at", "completed_at")

    def get_queryset(self) -> QuerySet[Instance]:
        """Return all that the request may see."""
        if getattr(self, "swagger_fake_view", False):
            return Instance.objects.none()
        return self.without_payloads(self.instances())

    def default_ordering(self) -> str:
        """Return the order that suits the filters: by the time that they are about."""
        by_end = {"completed_after", "completed_before"} & self.request.query_params.keys()
        return "-completed_at" if by_end else "-created_at"

    @described(
        operation_id="list_instances",
        parameters=[_PAYLOADS],
        responses=responses({200: InstanceSerializer(many=True)}, 404),
        examples=[OpenApiExample("One that waits", value=EXAMPLE, response_only=True)],
    )
    def get(self, request: Request) -> Response:
        """List instances; filters are combined with "and".

        Tags are filtered by `tag.<key>=<value>`. Ordered by the end, the list has only what has ended.
        """
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class InstanceDetail(_InstanceView):
    """One instance."""

    required_permissions: ClassVar = {"GET": "view_instance", "DELETE": "purge"}
    parameters = frozenset({PAYLOADS})
    payloads_by_default = True

    @described(
        operation_id="get_instance",
        parameters=[_PAYLOADS],
        responses=responses({200: InstanceSerializer}, 404),
        examples=[OpenApiExample("One that waits", value=EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, instance_id: str) -> Response:
        """Return an instance, with input and output unless `payloads=false`."""
        found = self.find(instance_id, payloads=self.wants_payloads)
        return Response(self.get_serializer(found).data)

    @described(
        operation_id="purge_instance",
        parameters=[
            OpenApiParameter("recursive", bool, description="Whether with what it has started."),
            OpenApiParameter("reason", REASON, description="Why, for the audit trail."),
        ],
        request=None,
        responses=responses({200: PurgedSerializer}, 404, 409),
    )
    def delete(self, request: Request, instance_id: str) -> Response:
        """Delete an instance that has ended, with its history."""
        recursive = self.flag("recursive", True)
        reason = self.reason()
        return Response({"deleted_instance_count": self._purge(instance_id, reason, recursive=recursive)})

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Take the parameters of the method."""
        if request.method == "DELETE":
            self.parameters = frozenset({"recursive", "reason"})  # type: ignore[misc]  # this request's
        super().initial(request, *args, **kwargs)

    def _purge(self, instance_id: str, reason: str, *, recursive: bool) -> int:
        action = ACTIONS["purge"]
        with transaction.atomic(self.using):
            found = self.find(instance_id, lock=True, payloads=False)
            action.check(instance_id, OrchestrationStatus(found.status))
            purged: PurgeInstancesResult = self.change(
                action.done,
                found,
                instance_id,
                reason,
                lambda: action.act(self.client, instance_id, {"recursive": recursive}),
            )
        return purged.deleted_instance_count


class InstanceStatusView(_InstanceView):
    """Whether an instance has ended."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    parameters = frozenset({PAYLOADS})
    payloads_by_default = True

    @described(
        operation_id="get_instance_status",
        parameters=[_PAYLOADS],
        responses=responses({200: InstanceSerializer, 202: InstanceSerializer}, 404),
    )
    def get(self, request: Request, instance_id: str) -> Response:
        """Return an instance: with 202 and `Retry-After` while it lives, with 200 once it has ended."""
        found = self.find(instance_id, payloads=self.wants_payloads)
        data = self.get_serializer(found).data
        if found.status in families.TERMINAL:
            return Response(data)
        return Response(data, status.HTTP_202_ACCEPTED, headers={"Retry-After": str(_RETRY_SECONDS)})


class InstanceHistory(DurableView):
    """What has happened to an instance."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    parameters = frozenset({AFTER, SIZE, EXECUTION})
    serializer_class = HistoryEventSerializer
    pagination_class = None

    @described(
        operation_id="get_instance_history",
        parameters=[
            OpenApiParameter(AFTER, SEQUENCE, description="Only what follows."),
            OpenApiParameter(SIZE, {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE}),
            OpenApiParameter(
                EXECUTION,
                {"type": "string", "pattern": "^[0-9a-f]{1,32}$"},
                description="An earlier execution; by default the present one.",
            ),
        ],
        responses=responses({200: HistoryEventSerializer(many=True)}, 404),
    )
    def get(self, request: Request, instance_id: str) -> Response:
        """Return the events of an execution in order, page by page: `after` is the last one's `sequence`."""
        after, size, execution = number(request, AFTER), page_size(request), execution_of(request)
        found = self.find(instance_id, payloads=False)
        events = monitoring.history(
            self.using, found.pk, execution or found.execution_id, after=after, limit=size
        )
        return Response([as_json(recorded) for recorded in events])


class InstancePending(DurableView):
    """What an instance waits for."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    serializer_class = PendingSerializer

    @described(operation_id="get_instance_pending", responses=responses({200: PendingSerializer}, 404))
    def get(self, request: Request, instance_id: str) -> Response:
        """Return what an instance waits for now: activities, timers, events, children and entities."""
        found = self.find(instance_id, payloads=False)
        return Response(pending_json(monitoring.pending(self.using, found, self.instances())))


class InstanceChildren(_InstanceView):
    """The sub-orchestrations of an instance."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    parameters = None
    filter_backends = (FilterBackend,)
    filterset_class = InstanceFilter
    pagination_class = KeysetPagination
    orderings = ("created_at", "-created_at")

    def get_queryset(self) -> QuerySet[Instance]:
        """Return the children that the request may see."""
        if getattr(self, "swagger_fake_view", False):
            return Instance.objects.none()
        parent = self.find(self.kwargs["instance_id"], payloads=False)
        return self.without_payloads(self.instances()).filter(parent_id=parent.pk)

    @described(
        operation_id="list_instance_children",
        parameters=[_PAYLOADS],
        responses=responses({200: InstanceSerializer(many=True)}, 404),
    )
    def get(self, request: Request, instance_id: str) -> Response:
        """List the sub-orchestrations that an instance has started, oldest first."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


def number(request: Request, name: str, default: int = -1) -> int:
    """Return a query parameter that is an integer from -1.

    Raises:
        ValidationError: It is none.
    """
    given = request.query_params.get(name)
    if given is None:
        return default
    is_number = given.removeprefix("-").isdigit() and given.isascii() and len(given) <= 10
    if not is_number or not -1 <= int(given) < 2**31:
        raise invalid(name, "This must be an integer from -1 to 2147483647.")
    return int(given)


def as_json(recorded: monitoring.Recorded) -> dict[str, Any]:
    """Return a history event as JSON."""
    return payloads.event(recorded.sequence, recorded.turn, recorded.event)


def pending_json(pending: monitoring.Pending) -> dict[str, Any]:
    """Return what an instance waits for as JSON."""
    return {
        "activities": [
            {
                "task_id": activity.task_id,
                "name": activity.name,
                "queue": activity.queue,
                "attempt": activity.attempt,
                "deliveries": activity.deliveries,
                "is_leased": activity.is_leased,
                "worker": activity.worker,
                "lease_expires_at": _utc(activity.lease_expires_at),
                "created_at": _utc(activity.created_at),
            }
            for activity in pending.activities
        ],
        "timers": [{"task_id": one.task_id, "fire_at": _utc(one.fire_at)} for one in pending.timers],
        "events": pending.events,
        "children": [
            {
                "task_id": child.task_id,
                "instance_id": child.instance_id,
                "name": child.name,
                "status": child.status.name,
            }
            for child in pending.children
        ],
        "entity_calls": [
            {
                "task_id": one.task_id,
                "entity": one.entity,
                "kind": one.kind.name.lower(),
                "operation": one.operation,
            }
            for one in pending.entity_calls
        ],
    }


def _utc(value: Any) -> str | None:
    return None if value is None else payloads.utc(value)


def execution_of(request: Request) -> str | None:
    """Return the query parameter that names an execution.

    Raises:
        ValidationError: It can name none.
    """
    given = request.query_params.get(EXECUTION)
    if given is not None and not _EXECUTION_ID.fullmatch(given):
        raise invalid(EXECUTION, "An execution id is up to 32 hexadecimal digits.")
    return given
