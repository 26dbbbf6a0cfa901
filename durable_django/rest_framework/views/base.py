"""What all views of the API have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle, ScopedRateThrottle

from durable_django.client import DurableTaskClient
from durable_django.core.errors import PayloadError, scrub
from durable_django.core.ids import MAX_ID_LENGTH, MAX_NAME_LENGTH
from durable_django.models import Entity, Instance
from durable_django.rest_framework import problems
from durable_django.rest_framework.fields import NAME
from durable_django.rest_framework.parsers import StrictJSONParser
from durable_django.rest_framework.permissions import permission
from durable_django.rest_framework.problems import CONTENT_TYPE, LengthRequiredError, TooLargeError, invalid
from durable_django.rest_framework.scoping import Scope, scope
from durable_django.rest_framework.serializers import ProblemSerializer, ReasonSerializer
from durable_django.store import families
from durable_django.store.audit import leave_trail

_INSTANCE_ID = OpenApiParameter(
    "instance_id", str, OpenApiParameter.PATH, examples=[OpenApiExample("An order", value="order-42")]
)
FLAGS = {"true": True, "false": False}


class ScopeThrottle(ScopedRateThrottle):
    """Throttles a view by its scope, where ``DEFAULT_THROTTLE_RATES`` has a rate for it."""

    def get_rate(self) -> str | None:
        """Return the rate, such as "100/min"; None does not throttle."""
        rate: str | None = self.THROTTLE_RATES.get(str(self.scope))
        return rate


class DurableView(GenericAPIView[Any]):
    """A view of the API.

    ``required_permissions`` has the codename of a permission for each HTTP method, None where it is enough to
    be logged in. ``parameters`` are the query parameters that it takes.
    """

    schema = AutoSchema()
    parser_classes = [StrictJSONParser]
    filter_backends: Sequence[Any] = ()
    required_permissions: ClassVar[dict[str, str | None]] = {}
    parameters: ClassVar[frozenset[str] | None] = frozenset()
    """None where a filter backend knows them."""

    throttle_scope = "durable-read"
    write_throttle_scope = "durable-write"

    def get_permissions(self) -> Sequence[BasePermission]:
        """Return what ``REST_PERMISSION`` names."""
        return [permission()]

    def get_throttles(self) -> list[BaseThrottle]:
        """Return the project's own throttles, and that of the view's scope."""
        if self.request.method not in ("GET", "HEAD", "OPTIONS"):
            self.throttle_scope = self.write_throttle_scope
        others = [
            throttle for throttle in super().get_throttles() if not isinstance(throttle, ScopedRateThrottle)
        ]
        return [*others, ScopeThrottle()]

    def get_exception_handler(self) -> Callable[..., Response | None]:
        """Return the one that gives problem details, whatever the project's other views have."""
        return problems.handle

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse who may not, and query parameters that nobody reads."""
        super().initial(request, *args, **kwargs)
        if "CONTENT_LENGTH" not in request.META and "chunked" in request.META.get(
            "HTTP_TRANSFER_ENCODING", ""
        ):
            raise LengthRequiredError
        if self.parameters is None:
            return
        unknown = sorted(set(request.query_params) - self.parameters - {"format"})
        if unknown:
            raise ValidationError(
                {name: ["There is no such query parameter."] for name in unknown}, "unknown"
            )

    # ---------------------------------------------------------------- what it works on

    def get_queryset(self) -> QuerySet[Any]:
        """Return nothing: for lists, and for the browsable API, which asks every view."""
        return Instance.objects.none()

    @property
    def client(self) -> DurableTaskClient:
        """The client that does what is asked for."""
        return DurableTaskClient()

    @property
    def using(self) -> str:
        """The alias of the database."""
        return self.client.using

    @property
    def scope(self) -> Scope:
        """What the request may see."""
        return scope(self.request)

    def instances(self) -> QuerySet[Instance]:
        """Return the instances that the request may see, each with ``parent_instance_id``."""
        visible = self.scope.instances(Instance.objects.using(self.using))
        return visible.annotate(parent_instance_id=self._name_of("parent_id"))

    def entities(self) -> QuerySet[Entity]:
        """Return the entities that the request may see, each with ``locked_by``."""
        visible = self.scope.entities(Entity.objects.using(self.using))
        return visible.annotate(locked_by=self._name_of("lock_instance_id"))

    def _name_of(self, key: str) -> Subquery:
        """Return the instance id of another instance, if the request may see that one."""
        visible = self.scope.instances(Instance.objects.using(self.using))
        return Subquery(visible.filter(pk=OuterRef(key)).values("instance_id")[:1])

    def find(self, instance_id: str, *, lock: bool = False) -> Instance:
        """Return an instance, locked if the transaction is to change it.

        Raises:
            NotFound: There is none that the request may see.
        """
        found = None
        if scrub(instance_id) == instance_id and len(instance_id) <= MAX_ID_LENGTH:
            found = self._find_instance(instance_id, lock=lock)
        if found is None:
            raise NotFound(f"There is no orchestration instance {instance_id!r}.")
        return found

    def _find_instance(self, instance_id: str, *, lock: bool) -> Instance | None:
        query = self.instances().filter(instance_id=instance_id)
        if lock:
            # On its own: what a scope joins is not to be locked.
            families.lock(self.using, list(query.values_list("pk", flat=True)))
        return query.first()

    def body(self) -> dict[str, Any]:
        """Return the validated body.

        Raises:
            ValidationError: It is not valid.
        """
        serializer = self.get_serializer(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def reason(self) -> str:
        """Return the query parameter that says why.

        Raises:
            ValidationError: It is too long, or no database holds it.
        """
        given = self.request.query_params.get("reason", "")
        serializer = ReasonSerializer(data={"reason": given})
        serializer.is_valid(raise_exception=True)
        return str(serializer.validated_data["reason"])

    def demand(self, codename: str) -> None:
        """Ask for another permission.

        Raises:
            PermissionDenied, NotAuthenticated: The request has it not.
        """
        self.required_permissions = {self.request.method or "": codename}  # type: ignore[misc]  # this request's
        self.check_permissions(self.request)

    def flag(self, name: str, default: bool) -> bool:
        """Return a query parameter that is true or false.

        Raises:
            ValidationError: It is neither.
        """
        given = self.request.query_params.get(name)
        if given is None:
            return default
        if given not in FLAGS:
            raise invalid(name, "This must be true or false.")
        return FLAGS[given]

    # ---------------------------------------------------------------- what it does

    def change(
        self, done: str, subject: Instance | Entity, name: str, reason: str, change: Callable[[], Any]
    ) -> Any:
        """Make a change and record it, both or neither, and return what the change returns.

        Raises:
            ValidationError, TooLargeError: A payload cannot be stored.
        """
        with transaction.atomic(self.using):
            result = checked(change)
            leave_trail(self.request.user, type(subject), done, [(subject.pk, name)], reason)
        return result


def checked(call: Callable[[], Any]) -> Any:
    """Call, and give what the client refuses in a payload or an argument as the request's fault."""
    try:
        return call()
    except PayloadError as error:
        if error.is_too_large:
            raise TooLargeError(str(error)) from error
        raise ValidationError([str(error)]) from error
    except (OverflowError, TypeError, ValueError) as error:  # what the client says of an argument
        raise ValidationError([str(error)]) from error
    except RecursionError as error:
        raise ValidationError(["The payload is too deep."]) from error


def described(**description: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Describe a view's method as ``extend_schema`` does.

    That one builds upon the project's ``DEFAULT_SCHEMA_CLASS``, which may know nothing of OpenAPI 3.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        if "instance_id" in inspect.signature(method).parameters:
            description["parameters"] = [_INSTANCE_ID, *description.get("parameters", ())]
        method.kwargs = {"schema": AutoSchema}  # type: ignore[attr-defined]  # spectacular's
        decorated: Callable[..., Any] = extend_schema(**description)(method)
        return decorated

    return decorate


def path_parameter(name: str, pattern: str = NAME) -> OpenApiParameter:
    """Describe a part of the path that is a name."""
    schema = {"type": "string", "pattern": pattern, "maxLength": MAX_NAME_LENGTH}
    return OpenApiParameter(name, schema, OpenApiParameter.PATH)


def responses(success: Mapping[Any, Any], *errors: int) -> dict[Any, Any]:
    """Return the responses of an operation, for the schema: errors are problem details."""
    common = (400, 401, 403, 406, 429, *errors)
    return {**success, **dict.fromkeys(((code, CONTENT_TYPE) for code in sorted(common)), ProblemSerializer)}
