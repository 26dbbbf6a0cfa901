"""The OpenAPI schema of the API, apart from the project's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.urls import include, path
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction
from drf_spectacular.views import SpectacularAPIView
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

import durable_django
from durable_django.rest_framework import problems
from durable_django.rest_framework.permissions import permission
from durable_django.rest_framework.views.base import refuse_unknown

SETTINGS: dict[str, Any] = {
    "TITLE": "durable_django",
    "DESCRIPTION": "Start, watch and steer durable orchestrations and entities.",
    "VERSION": durable_django.__version__,
    "OAS_VERSION": "3.1.0",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "InstanceStatusEnum": "durable_django.rest_framework.serializers.STATUSES",
        "BulkActionEnum": "durable_django.rest_framework.bulk.ACTIONS",
        "HealthEnum": "durable_django.rest_framework.serializers.HEALTH",
        "WorkerStateEnum": "durable_django.rest_framework.serializers.WORKER_STATES",
    },
}


class StrictSchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]  # its registry's
    """Says that what a strict serializer does not know is refused."""

    target_class = "durable_django.rest_framework.fields.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        """Return the schema of the serializer, closed."""
        describe: Any = auto_schema._map_basic_serializer
        more = getattr(self.target, "schema_extra", {})
        return {**describe(self.target, direction), "additionalProperties": False, **more}


class Schema(SpectacularAPIView):
    """The schema, for whoever is let in."""

    schema = None  # It does not describe itself.
    custom_settings = SETTINGS
    required_permissions: dict[str, str | None] = {"GET": None}
    versioning_class = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse query parameters that nobody reads."""
        super().initial(request, *args, **kwargs)
        refuse_unknown(request, frozenset())

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the schema; `?format=json` for JSON. Its paths begin where the project has put them."""
        root = request.path.removesuffix("schema/").removeprefix("/")
        self.patterns = [path(root, include("durable_django.rest_framework.urls"))]
        response: Response = super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call]  # no types
        return response

    def get_exception_handler(self) -> Callable[..., Response | None]:
        """Return the one that gives problem details."""
        return problems.handle

    def get_permissions(self) -> Sequence[BasePermission]:
        """Return what ``REST_PERMISSION`` names."""
        return [permission()]
