"""Orchestrations: what can be started here, and starting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import transaction
from django.urls import reverse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.client import OrchestrationIdReusePolicy, OrchestrationStatus
from durable_django.client.steering import ACTIONS
from durable_django.conf import settings
from durable_django.core.annotations import input_hint
from durable_django.core.json_schema import json_schema
from durable_django.core.registry import default_registry
from durable_django.models import Instance, InstanceStatus
from durable_django.rest_framework.fields import check_reachable
from durable_django.rest_framework.problems import ConflictError, invalid
from durable_django.rest_framework.serializers import (
    OrchestratorSerializer,
    StartedSerializer,
    StartSerializer,
    SteeredInstanceSerializer,
)
from durable_django.rest_framework.views.base import VIEW, DurableView, checked, described, responses
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
        responses=responses({200: SteeredInstanceSerializer, 202: StartedSerializer}, 404, 409),
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
        self._check_id(options)
        instance_id = self._start(name, options)
        if wait:
            try:
                self.client.wait_for_orchestration_completion(instance_id, fetch_payloads=False, timeout=wait)
            except TimeoutError:
                pass
            else:
                may_view = self.allows(VIEW)
                found = self.find(instance_id, payloads=may_view)
                context = {"payloads": may_view, "may_view": may_view}
                return Response(SteeredInstanceSerializer(found, context=context).data)
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
        with transaction.atomic(self.using):
            # Without a holder there is nothing to replace: whoever comes meanwhile has not been asked about.
            if (
                policy is not None
                and "instance_id" in given
                and self._may_replace(given["instance_id"], policy)
            ):
                statuses = (OrchestrationStatus[one] for one in policy)
                given["reuse_id_policy"] = OrchestrationIdReusePolicy(statuses)
            started: str = checked(lambda: self.client.schedule_new_orchestration(name, **given))
            key = Instance.objects.using(self.using).values_list("pk", flat=True).get(instance_id=started)
            leave_trail(self.author, Instance, "started", [(key, started)], "")
        return started

    def _check_id(self, options: dict[str, Any]) -> None:
        """Check an id that a scope has made, as one that came with the request."""
        try:
            check_reachable(str(options.get("instance_id") or ""))
        except ValidationError as error:
            raise ValidationError({"instance_id": error.detail}) from error

    def _may_replace(self, instance_id: str, policy: Sequence[str]) -> bool:
        """Tell whether somebody holds an id, and refuse a request that may not end and delete them.

        Raises:
            ConflictError: The request may not even see them.
            PermissionDenied: The policy is about to replace them.
        """
        holders = families.lock_all(self.using, [instance_id])
        for holder in holders:
            if not self.instances().filter(pk=holder.pk).exists():
                raise ConflictError(f"There is an orchestration instance {instance_id!r} already.")
            if InstanceStatus(holder.status).name in policy:
                for action in ("purge",) if holder.status in families.TERMINAL else ("terminate", "purge"):
                    self.demand(ACTIONS[action].permission)
                leave_trail(self.author, Instance, "purged", [(holder.pk, instance_id)], "replaced")
        return bool(holders)


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
