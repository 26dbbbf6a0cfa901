"""Workers: listed, looked at, drained and let work again."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.core.errors import scrub
from durable_django.models import Worker
from durable_django.rest_framework.pagination import CURSOR, SIZE, KeysetPagination
from durable_django.rest_framework.serializers import ReasonSerializer, WorkerSerializer
from durable_django.rest_framework.views.base import DurableView, described, path_parameter, responses
from durable_django.store import workers
from durable_django.store.audit import leave_trail

_IDENTITY = path_parameter("identity")
_EXAMPLE = {
    "identity": "5f0d7a1c9b7e4c0f8a51d1d9c1f7e2b3",
    "name": "mail",
    "host": "worker-2",
    "pid": 4711,
    "queues": ["mail"],
    "versioning": {"version": "2.1", "match": "current_or_older", "others": "reject"},
    "names": {"orchestrations": {"send_letters": []}, "activities": {"send": ["2.1"]}, "entities": []},
    "load": {
        "activities_running": 3,
        "activities_waiting": 0,
        "threads": 16,
        "async_slots": 0,
        "instances": 240,
        "entities": 0,
        "turns_per_minute": 180,
    },
    "state": "draining",
    "is_alive": True,
    "draining_since": "2030-01-31T12:00:00Z",
    "drained_at": None,
    "started_at": "2030-01-31T08:00:00Z",
    "last_heartbeat_at": "2030-01-31T12:00:07Z",
}


class _WorkerView(DurableView):
    serializer_class: Any = WorkerSerializer

    def get_queryset(self) -> QuerySet[Worker]:
        """Return the workers: they are everybody's."""
        return Worker.objects.using(self.using)

    def worker(self, identity: str) -> Worker:
        """Return a worker.

        Raises:
            NotFound: There is none.
        """
        found = None
        if scrub(identity) == identity:
            found = self.get_queryset().filter(identity=identity).first()
        if found is None:
            raise NotFound(f"There is no worker {identity!r}.")
        return found


class WorkerList(_WorkerView):
    """The worker processes, in the order in which they came."""

    required_permissions: ClassVar = {"GET": "view_worker"}
    parameters = frozenset({CURSOR, SIZE})
    pagination_class = KeysetPagination
    orderings = ("pk",)

    @described(
        operation_id="list_workers",
        responses=responses({200: WorkerSerializer(many=True)}, 404),
        examples=[OpenApiExample("One that drains", value=_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request) -> Response:
        """List the worker processes, those that have been silent for long included."""
        page = self.paginate_queryset(self.get_queryset())
        assert page is not None
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class WorkerDetail(_WorkerView):
    """One worker process."""

    required_permissions: ClassVar = {"GET": "view_worker"}

    @described(
        operation_id="get_worker",
        parameters=[_IDENTITY],
        responses=responses({200: WorkerSerializer}, 404),
        examples=[OpenApiExample("One that drains", value=_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, identity: str) -> Response:
        """Return what a worker serves, how much it has to do, and whether it is alive."""
        return Response(self.get_serializer(self.worker(identity)).data)


class _MarkView(_WorkerView):
    required_permissions: ClassVar = {"POST": "drain_worker"}
    serializer_class = ReasonSerializer
    is_draining: ClassVar[bool]
    done: ClassVar[str]

    def mark(self, identity: str) -> Response:
        """Set the mark or take it away, and return the worker."""
        reason = self.body()["reason"]
        with transaction.atomic(self.using):
            found = self.worker(identity)
            if not workers.mark(self.using, identity, is_draining=self.is_draining):
                raise NotFound(f"There is no worker {identity!r} any more.")
            leave_trail(self.author, Worker, self.done, [(found.pk, str(found))], reason)
        return Response(WorkerSerializer(self.worker(identity)).data)


class Drain(_MarkView):
    """The end of new work."""

    is_draining = True
    done = "drained"

    @described(
        operation_id="drain_worker",
        parameters=[_IDENTITY],
        responses=responses({200: WorkerSerializer}, 404),
        examples=[OpenApiExample("Why", value={"reason": "The host goes."}, request_only=True)],
    )
    def post(self, request: Request, identity: str) -> Response:
        """Have a worker take on nothing new; its state is `drained` once nothing is left.

        It follows at its next heartbeat at the latest. Once more does nothing.
        """
        return self.mark(identity)


class Undrain(_MarkView):
    """The return to work."""

    is_draining = False
    done = "undrained"

    @described(
        operation_id="undrain_worker",
        parameters=[_IDENTITY],
        responses=responses({200: WorkerSerializer}, 404),
    )
    def post(self, request: Request, identity: str) -> Response:
        """Let a worker work again. Once more does nothing."""
        return self.mark(identity)
