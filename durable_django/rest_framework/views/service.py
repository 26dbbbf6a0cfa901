"""The service itself: figures, and whether it works."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from django.db import DatabaseError
from django.db.models import QuerySet
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.models import Instance
from durable_django.rest_framework.serializers import HealthSerializer, StatsSerializer, WorkerSerializer
from durable_django.rest_framework.views.base import DurableView, described, responses
from durable_django.store import clock, monitoring
from durable_django.store.monitoring import Backlog, WorkerState


class Stats(DurableView):
    """Figures."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    serializer_class = StatsSerializer

    @described(operation_id="get_stats", responses=responses({200: StatsSerializer}))
    def get(self, request: Request) -> Response:
        """Return how many instances there are, what waits for a worker, and which workers there are.

        Instances are those that the request may see; the rest is everybody's.
        """
        visible: QuerySet[Instance] = self.scope.instances(Instance.objects.using(self.using))
        backlogs = monitoring.backlogs(self.using)
        return Response(
            {
                "instances": [
                    {"name": name, "status": status.name, "count": count}
                    for name, status, count in monitoring.counts(visible)
                ],
                "pending": _backlog(backlogs.pending),
                "activities": _backlog(backlogs.activities),
                "entity_operations": _backlog(backlogs.entity_operations),
                "timers_due": _backlog(backlogs.timers_due),
                "workers": [WorkerSerializer(worker).data for worker, _ in monitoring.workers(self.using)],
            }
        )


class Health(DurableView):
    """Whether work is done."""

    required_permissions: ClassVar = {"GET": None}
    serializer_class = HealthSerializer

    @described(operation_id="get_health", responses=responses({200: HealthSerializer, 503: HealthSerializer}))
    def get(self, request: Request) -> Response:
        """Return 200 if the database answers and a worker is alive, 503 if not, or if none takes on work."""
        try:
            states = [state for _, state in monitoring.workers(self.using)]
        except DatabaseError as error:
            return _unavailable(f"The database does not answer: {type(error).__name__}.", None)
        alive = states.count(WorkerState.ALIVE)
        if not alive and any(state is not WorkerState.SILENT for state in states):
            return _unavailable("All workers are drained: nothing new is begun.", 0)
        if not alive:
            return _unavailable("No worker has shown a sign of life lately.", 0)
        return Response({"status": "ok", "detail": "Workers are alive.", "workers": alive})


class Nowhere(DurableView):
    """Where nothing is."""

    schema = None  # type: ignore[assignment]  # what DRF asks for where there is none
    parameters = None

    def http_method_not_allowed(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Say so, whatever is asked."""
        raise NotFound("There is nothing here.")


def _unavailable(detail: str, workers: int | None) -> Response:
    body = {"status": "unavailable", "detail": detail, "workers": workers}
    return Response(body, status.HTTP_503_SERVICE_UNAVAILABLE)


def _backlog(backlog: Backlog) -> dict[str, Any]:
    oldest = backlog.oldest
    seconds = None if oldest is None else max(0.0, (clock.now() - oldest).total_seconds())
    return {"count": backlog.count, "oldest_seconds": seconds}
