"""What all views of the API have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404
from django.utils.functional import cached_property
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.exceptions import APIException, NotFound, ValidationError
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
from durable_django.rest_framework.problems import (
    CONTENT_TYPE,
    LengthRequiredError,
    TooLargeError,
    invalid,
    unknown,
)
from durable_django.rest_framework.scoping import Scope, scope
from durable_django.rest_framework.serializers import ProblemSerializer, ReasonSerializer
from durable_django.store import families
from durable_django.store.audit import Author, leave_trail

_INSTANCE_ID = OpenApiParameter(
    "instance_id", str, OpenApiParameter.PATH, examples=[OpenApiExample("An order", value="order-42")]
)
VIEW = "view_instance"
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
    # The project's versions are those of its own views, and none of this API's URLs has one.
    versioning_class = None
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
        refuse_unknown(request, self.parameters)

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

    @cached_property
    def author(self) -> Author:
        """Who the audit trail says has done it."""
        return Author.of(self.request.user)

    def instances(self) -> QuerySet[Instance]:
        """Return the instances that the request may see, each with ``parent_instance_id``."""
        visible = self.scope.instances(Instance.objects.using(self.using))
        return visible.annotate(parent_instance_id=self._name_of("parent_id"))

    def entities(self) -> QuerySet[Entity]:
        """Return the entities that the request may see, each with ``locked_by``.

        One that has neither a state nor a lock is none, as for `DurableTaskClient.get_entity`.
        """
        real = Entity.objects.using(self.using).exclude(state__isnull=True, lock_instance__isnull=True)
        visible = self.scope.entities(real)
        return visible.annotate(locked_by=self._name_of("lock_instance_id"))

    def _name_of(self, key: str) -> Subquery:
        """Return the instance id of another instance, if the request may see that one."""
        visible = self.scope.instances(Instance.objects.using(self.using))
        return Subquery(visible.filter(pk=OuterRef(key)).values("instance_id")[:1])

    def find(self, instance_id: str, *, lock: bool = False, payloads: bool = True) -> Instance:
        """Return an instance, locked if the transaction is to change it, and read without its payloads if
        nobody is to see them.

        Raises:
            NotFound: There is none that the request may see.
        """
        found = None
        if scrub(instance_id) == instance_id and len(instance_id) <= MAX_ID_LENGTH:
            query = self.instances().filter(instance_id=instance_id)
            found = self._first(query if payloads else light(query), lock=lock)
        if found is None:
            raise NotFound(f"There is no orchestration instance {instance_id!r}.")
        return found

    def _first(self, query: QuerySet[Instance], *, lock: bool) -> Instance | None:
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

    def allows(self, codename: str) -> bool:
        """Tell whether the request has another permission."""
        before = self.required_permissions
        try:
            self.demand(codename)
        except (APIException, Http404, PermissionDenied):
            return False
        finally:
            self.required_permissions = before  # type: ignore[misc]  # as above
        return True

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
            leave_trail(self.author, type(subject), done, [(subject.pk, name)], reason)
        return result


def light(query: QuerySet[Instance]) -> QuerySet[Instance]:
    """Return a query that does not read input and output, which may be large."""
    return query.defer("input", "output")


def refuse_unknown(request: Request, parameters: frozenset[str]) -> None:
    """Do nothing if a request has no other query parameters than these.

    Raises:
        ValidationError: It has; the error names them.
    """
    if names := set(request.query_params) - parameters - {"format"}:
        raise unknown(names, "There is no such query parameter.")


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
        if method.__name__ == "post":
            description["responses"] |= _problems(411, 413, 415)
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
    """Return the responses of an operation, for the schema: errors are problem details.

    All keys have the same form: by the smallest, drf-spectacular tells whether the view gives a list.
    """
    found = {
        code if isinstance(code, tuple) else (code, "application/json"): serializer
        for code, serializer in success.items()
    }
    return {**found, **_problems(400, 401, 403, 406, 429, 503, *errors)}


def _problems(*codes: int) -> dict[Any, Any]:
    return dict.fromkeys(((code, CONTENT_TYPE) for code in sorted(codes)), ProblemSerializer)
