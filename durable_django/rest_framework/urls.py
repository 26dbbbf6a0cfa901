"""The URLs of the API: ``path("durable/", include("durable_django.rest_framework.urls"))``.

An instance id or an entity's key may contain slashes. What comes after it decides: an id that itself ends in
``/history`` and the like cannot be looked at here.
"""

from __future__ import annotations

from typing import Any

from django.db import connections, transaction
from django.urls import path, re_path

from durable_django.rest_framework.schema import Schema
from durable_django.rest_framework.views import (
    control,
    entities,
    instances,
    orchestrations,
    service,
    stream,
    workers,
)

app_name = orchestrations.app_name


def _outside(view: Any) -> Any:
    """Keep a view out of the transactions of ``ATOMIC_REQUESTS``, on every database.

    It waits for what is committed, or commits one by one.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


_instance = "instances/<path:instance_id>/"

urlpatterns = [
    path("orchestrations/", orchestrations.OrchestrationList.as_view(), name="orchestrations"),
    path("orchestrations/<path:name>/", _outside(orchestrations.Start.as_view()), name="start"),
    path("instances/", instances.InstanceList.as_view(), name="instances"),
    path("instances/bulk/", _outside(control.Bulk.as_view()), name="bulk"),
    path(f"{_instance}status/", instances.InstanceStatusView.as_view(), name="instance-status"),
    path(f"{_instance}history/", instances.InstanceHistory.as_view(), name="instance-history"),
    path(f"{_instance}pending/", instances.InstancePending.as_view(), name="instance-pending"),
    path(f"{_instance}children/", instances.InstanceChildren.as_view(), name="instance-children"),
    path(f"{_instance}stream/", _outside(stream.InstanceStream.as_view()), name="instance-stream"),
    path(f"{_instance}events/<str:event>/", control.RaiseEvent.as_view(), name="instance-event"),
    path(f"{_instance}terminate/", control.Terminate.as_view(), name="instance-terminate"),
    path(f"{_instance}suspend/", control.Suspend.as_view(), name="instance-suspend"),
    path(f"{_instance}resume/", control.Resume.as_view(), name="instance-resume"),
    path(f"{_instance}rewind/", control.Rewind.as_view(), name="instance-rewind"),
    path(f"{_instance}restart/", control.Restart.as_view(), name="instance-restart"),
    path(_instance, instances.InstanceDetail.as_view(), name="instance"),
    path("entities/", entities.EntityList.as_view(), name="entities"),
    path("entities/<str:name>/<path:key>/signal/<str:operation>/", entities.Signal.as_view(), name="signal"),
    path("entities/<str:name>/<path:key>/", entities.EntityDetail.as_view(), name="entity"),
    path("workers/", workers.WorkerList.as_view(), name="workers"),
    path("workers/<str:identity>/", workers.WorkerDetail.as_view(), name="worker"),
    path("workers/<str:identity>/drain/", workers.Drain.as_view(), name="worker-drain"),
    path("workers/<str:identity>/undrain/", workers.Undrain.as_view(), name="worker-undrain"),
    path("stats/", service.Stats.as_view(), name="stats"),
    path("health/", service.Health.as_view(), name="health"),
    path("schema/", Schema.as_view(), name="schema"),
    # With the slash at its end: Django adds one where somebody has forgotten it.
    re_path(r"^[\s\S]*/$", service.Nowhere.as_view()),
]
