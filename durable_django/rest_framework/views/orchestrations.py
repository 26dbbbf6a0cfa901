"""Orchestrations: what can be started here, and starting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import transaction
from django.urls import reverse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.client import OrchestrationIdReusePolicy, OrchestrationStatus
from durable_django.client.steering import ACTIONS
from durable_django.conf import settings
from durable_django.core.annotations import input_hint
from durable_django.core.json_schema import json_schema
from durable_django.core.registry import default_registry
from durable_django.models import Instance, InstanceStatus
from durable_django.rest_framework.problems import ConflictError, invalid
from durable_django.rest_framework.serializers import (
    InstanceSerializer,
    OrchestratorSerializer,
    StartedSerializer,
    StartSerializer,
)
from durable_django.rest_framework.views.base import DurableView, checked, described, responses
from durable_django.store import families
from durable_django.store.audit import leave_trail

WAIT = "wait"
app_name = "durable_django_rest"


class OrchestrationList(DurableView):
    """The orchestrators that are registered in this process."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    serializer_class = OrchestratorSerializer
    pagination_class = None

    @described(
        operation_id="list_orchestrations",
        responses=responses({200: OrchestratorSerializer(many=True)}),
        examples=[
            OpenApiExample(
                "One", value={"name": "approve_order", "input_schema": {"type": "object"}}, response_only=True
            )
        ],
    )
    def get(self, request: Request) -> Response:
        """List the orchestrators that can be started, each with the JSON Schema of its input."""
        return Response(
            [
                {"name": name, "input_schema": _input_schema(registered.fn)}
                for name, registered in sorted(default_registry.startable.items())
            ]
        )


class Start(DurableView):
    """The start of an orchestration."""

    required_permissions: ClassVar = {"POST": "start_orchestration"}
    serializer_class = StartSerializer
    parameters = frozenset({WAIT})
    write_throttle_scope = "durable-start"

    @described(
        operation_id="start_orchestration",
        parameters=[
            OpenApiParameter(
                WAIT,
                {"type": "number", "minimum": 0},
                description="Wait so many seconds for the end; no longer than the server allows.",
            )
        ],
        responses=responses({200: InstanceSerializer, 202: StartedSerializer}, 404, 409, 413),
        examples=[
            OpenApiExample(
                "An order",
                value={"instance_id": "order-42", "input": {"order": 42}, "tags": {"customer": "7"}},
                request_only=True,
            )
        ],
    )
    def post(self, request: Request, name: str) -> Response:
        """Start an orchestration by its name.

        Answers 202 with the `Location` of its status; or, with `wait`, 200 and the instance if it ends in
        time.
        """
        if name not in default_registry.startable:
            raise NotFound(f"There is no orchestrator {name!r} here.")
        wait = seconds(request)
        options = self.scope.start(self.body())
        instance_id = self._start(name, options)
        if wait:
            try:
                self.client.wait_for_orchestration_completion(instance_id, fetch_payloads=False, timeout=wait)
            except TimeoutError:
                pass
            else:
                serializer = InstanceSerializer(self.find(instance_id), context={"payloads": True})
                return Response(serializer.data)
        namespace = request.resolver_match.namespace if request.resolver_match else app_name
        urls = {
            f"{part}_url": request.build_absolute_uri(
                reverse(f"{namespace}:instance{suffix}", args=[instance_id])
            )
            for part, suffix in (("status", "-status"), ("instance", ""), ("stream", "-stream"))
        }
        headers = {"Location": urls["status_url"], "Retry-After": "1"}
        return Response({"instance_id": instance_id, **urls}, status.HTTP_202_ACCEPTED, headers=headers)

    def _start(self, name: str, options: dict[str, Any]) -> str:
        given = {**options}
        policy = given.pop("reuse_id_policy", None)
        if policy is not None:
            given["reuse_id_policy"] = OrchestrationIdReusePolicy(OrchestrationStatus[one] for one in policy)
        with transaction.atomic(self.using):
            if policy is not None and "instance_id" in given:
                self._replace(given["instance_id"], policy)
            started: str = checked(lambda: self.client.schedule_new_orchestration(name, **given))
            key = Instance.objects.using(self.using).values_list("pk", flat=True).get(instance_id=started)
            leave_trail(self.request.user, Instance, "started", [(key, started)], "")
        return started

    def _replace(self, instance_id: str, policy: Sequence[str]) -> None:
        """See that the request may end and delete the holder of an id, if the policy is about to."""
        for holder in families.lock_all(self.using, [instance_id]):
            if not self.instances().filter(pk=holder.pk).exists():
                raise ConflictError(f"There is an orchestration instance {instance_id!r} already.")
            if InstanceStatus(holder.status).name in policy:
                for action in ("purge",) if holder.status in families.TERMINAL else ("terminate", "purge"):
                    self.demand(ACTIONS[action].permission)
                leave_trail(self.request.user, Instance, "purged", [(holder.pk, instance_id)], "replaced")


def seconds(request: Request) -> float:
    """Return how long to wait, in seconds; not at all by default, and no longer than the server allows.

    Raises:
        ValidationError: It is no such number.
    """
    given = request.query_params.get(WAIT)
    if given is None:
        return 0.0
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise invalid(WAIT, "This must be a number of seconds, 0 or more.")
    return min(found, settings.REST_MAX_WAIT_SECONDS)


def _input_schema(fn: Any) -> dict[str, Any] | None:
    hint = input_hint(fn)
    return None if hint is None else json_schema(hint)
