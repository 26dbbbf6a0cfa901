"""Entities: listed, looked at, signalled and deleted."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.core.errors import scrub
from durable_django.core.ids import check_name
from durable_django.entities import EntityInstanceId
from durable_django.models import Entity
from durable_django.rest_framework.fields import ENTITY, REASON
from durable_django.rest_framework.filters import PAYLOADS, EntityFilter, FilterBackend
from durable_django.rest_framework.pagination import MAX_HEAVY_PAGE_SIZE, MAX_PAGE_SIZE, KeysetPagination
from durable_django.rest_framework.problems import ConflictError, invalid
from durable_django.rest_framework.serializers import EntitySerializer, SignalSerializer
from durable_django.rest_framework.views.base import (
    DurableView,
    checked,
    described,
    path_parameter,
    responses,
)
from durable_django.store import entities
from durable_django.store.audit import leave_trail

_STATE = OpenApiParameter(PAYLOADS, bool, description="Whether with the state.")
_EXAMPLE = {
    "name": "account",
    "key": "7",
    "locked_by": None,
    "last_modified_at": "2030-01-31T12:00:00Z",
    "state": 12,
}


class _EntityView(DurableView):
    serializer_class = EntitySerializer
    state_by_default = False

    def get_serializer_context(self) -> dict[str, Any]:
        """Say whether the state is wanted."""
        return {**super().get_serializer_context(), "payloads": self.wants_state}

    @property
    def wants_state(self) -> bool:
        """Whether the state is wanted."""
        return self.flag(PAYLOADS, self.state_by_default)

    @property
    def max_page_size(self) -> int:
        """How many items a page may have."""
        return MAX_HEAVY_PAGE_SIZE if self.wants_state else MAX_PAGE_SIZE


class EntityList(_EntityView):
    """The entities, in the order in which they came into being."""

    required_permissions: ClassVar = {"GET": "view_entity"}
    parameters = None
    filter_backends = (FilterBackend,)
    filterset_class = EntityFilter
    pagination_class = KeysetPagination
    orderings = ("pk",)

    def get_queryset(self) -> QuerySet[Entity]:
        """Return all that the request may see."""
        if getattr(self, "swagger_fake_view", False):
            return Entity.objects.none()
        return self.entities() if self.wants_state else self.entities().defer("state")

    @described(
        operation_id="list_entities",
        parameters=[_STATE],
        responses=responses({200: EntitySerializer(many=True)}, 404),
        examples=[OpenApiExample("An account", value=_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request) -> Response:
        """List entities; filters are combined with "and"."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class EntityDetail(_EntityView):
    """One entity."""

    required_permissions: ClassVar = {"GET": "view_entity", "DELETE": "delete_entity"}
    parameters = frozenset({PAYLOADS, "reason"})
    state_by_default = True

    @described(
        operation_id="get_entity",
        parameters=[_STATE],
        responses=responses({200: EntitySerializer}, 404),
        examples=[OpenApiExample("An account", value=_EXAMPLE, response_only=True)],
    )
    def get(self, request: Request, name: str, key: str) -> Response:
        """Return an entity, with its state unless `payloads=false`."""
        return Response(self.get_serializer(self._find(name, key)).data)

    @described(
        operation_id="delete_entity",
        parameters=[OpenApiParameter("reason", REASON, description="Why, for the audit trail.")],
        responses=responses({204: None}, 404, 409),
    )
    def delete(self, request: Request, name: str, key: str) -> Response:
        """Delete an entity's state; operations that wait for it are performed afterwards, on a new one."""
        reason = self.reason()
        with transaction.atomic(self.using):
            found = self._find(name, key)
            deleted = entities.delete(self.using, (found.name, found.key))
            if deleted is None:
                raise NotFound(f"There is no entity {str(found)!r} any more.")
            if deleted is False:
                raise ConflictError(f"Entity {found} is locked by an orchestration.")
            leave_trail(self.author, Entity, "deleted", [(found.pk, str(found))], reason)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _find(self, name: str, key: str) -> Entity:
        found = None
        if scrub(name + key) == name + key:
            found = self.entities().filter(name=name.lower(), key=key).first()
        if found is None:
            raise NotFound(f"There is no entity {f'@{name}@{key}'!r}.")
        return found


class Signal(DurableView):
    """An operation for an entity."""

    required_permissions: ClassVar = {"POST": "signal_entity"}
    serializer_class = SignalSerializer

    @described(
        operation_id="signal_entity",
        parameters=[
            path_parameter("name", ENTITY),
            path_parameter("key", ENTITY),
            path_parameter("operation"),
        ],
        responses=responses({202: None}, 404),
        examples=[OpenApiExample("A deposit", value={"input": 12}, request_only=True)],
    )
    def post(self, request: Request, name: str, key: str, operation: str) -> Response:
        """Send an entity an operation; it comes into being by it, and performs it when it can."""
        options = self.body()
        try:
            entity_id = EntityInstanceId(name, key)
        except (TypeError, ValueError) as error:
            raise invalid("entity", str(error)) from error
        if not self.scope.may_signal(entity_id):
            raise NotFound(f"There is no entity {str(entity_id)!r}.")
        try:
            check_name("operation", operation)
        except ValueError as error:
            raise invalid("operation", str(error)) from error
        with transaction.atomic(self.using):
            checked(
                lambda: self.client.signal_entity(
                    entity_id, operation, options["input"], options.get("signal_at")
                )
            )
            leave_trail(self.author, Entity, f"signalled {operation!r} to", [(None, str(entity_id))], "")
        return Response(status=status.HTTP_202_ACCEPTED)
