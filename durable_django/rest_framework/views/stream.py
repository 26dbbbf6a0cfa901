"""The stream: an instance's life as server-sent events or, where a thread answers, by long polling."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.contrib import auth
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import APIException
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.models import Instance
from durable_django.rest_framework.serializers import (
    ChangesSerializer,
    InstanceSerializer,
    StreamEventSerializer,
)
from durable_django.rest_framework.views.base import DurableView, described, responses
from durable_django.rest_framework.views.instances import (
    AFTER,
    EXECUTION,
    SEQUENCE,
    as_json,
    execution_of,
    number,
)
from durable_django.rest_framework.views.orchestrations import WAIT, seconds
from durable_django.store import families, monitoring

_LOOK_SECONDS = 0.25
_BEAT_SECONDS = 15.0
_PAGE = 200
_CONTENT_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_LAST_EVENT = re.compile("([0-9a-f]{1,32}):([0-9]{1,9})")


class EventStreamRenderer(BaseRenderer):
    """Stands for server-sent events where a request asks for nothing else, as browsers' EventSource does."""

    media_type = "text/event-stream"
    format = "sse"
    charset = "utf-8"

    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        """Return a single answer as one event."""
        return _frame("changes", data).encode()


class InstanceStream(DurableView):
    """What happens to an instance, as it happens."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    parameters = frozenset({AFTER, EXECUTION, WAIT})
    serializer_class = ChangesSerializer

    def get_renderers(self) -> list[BaseRenderer]:
        """Return the project's renderers, and that of server-sent events."""
        return [*super().get_renderers(), EventStreamRenderer()]

    @described(
        operation_id="stream_instance",
        parameters=[
            OpenApiParameter(AFTER, SEQUENCE, description="Only what follows."),
            OpenApiParameter(
                EXECUTION,
                {"type": "string", "pattern": "^[0-9a-f]{1,32}$"},
                description="The execution that `after` belongs to; by default the present one.",
            ),
            OpenApiParameter(
                WAIT,
                {"type": "number", "minimum": 0},
                description="Long polling: wait so many seconds for a change.",
            ),
        ],
        responses=responses(
            {(200, "application/json"): ChangesSerializer, (200, "text/event-stream"): StreamEventSerializer},
            404,
        ),
    )
    def get(self, request: Request, instance_id: str) -> HttpResponseBase:
        """Follow an instance: `state` at each change of its state, `history` for each event, then `end`.

        Under ASGI these are server-sent events. Under WSGI, or with `wait`, it answers once, as soon as there
        is something that comes after `after`; ask again from the `after` and the `execution_id` that it
        returns: an instance that starts over begins a new history.

        A stream ends as well, within some seconds, when whoever reads it may no longer do so.
        """
        after, execution = number(request, AFTER), execution_of(request)
        seen = _LAST_EVENT.fullmatch(request.headers.get("Last-Event-ID", ""))
        if seen is not None:  # A browser that comes back after its connection was lost.
            execution, after = seen[1], int(seen[2])
        look = Look(self, instance_id, execution, after)
        wait = seconds(request)
        first = look.changes()
        if not isinstance(request._request, ASGIRequest) or WAIT in request.query_params:
            return self._poll(look, first, wait)
        if request.method == "HEAD":
            return HttpResponse(content_type=_CONTENT_TYPE)
        return StreamingHttpResponse(_stream(look, first), content_type=_CONTENT_TYPE, headers=_HEADERS)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """Return the request for this view; remember it as it came, before it is given a user here."""
        self._as_it_came = _copy(request)
        return super().initialize_request(request, *args, **kwargs)

    def admit_again(self) -> None:
        """Let the request in once more, with its session, its user and their permissions as they are now.

        Raises:
            APIException, Http404, PermissionDenied: It would not be let in now.
        """
        self.request = self.initialize_request(as_if_new(self._as_it_came), *self.args, **self.kwargs)
        self.perform_authentication(self.request)
        self.check_permissions(self.request)

    def _poll(self, look: Look, first: dict[str, Any], wait: float) -> Response:
        until, found = time.monotonic() + wait, first
        while not (found["events"] or look.has_ended) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            found = look.changes()
        return Response(found)


class Look:
    """Looks at an instance again and again."""

    def __init__(self, view: InstanceStream, instance_id: str, execution: str | None, after: int) -> None:
        self._view = view
        self._instance_id = instance_id
        self.execution = execution
        self.after = after
        self.has_ended = False
        """Whether nothing will happen any more."""

    def changes(self) -> dict[str, Any]:
        """Return the instance as it is, and the events since the last look.

        Raises:
            NotFound: It is gone, or the request may not see it any more.
        """
        found: Instance = self._view.find(self._instance_id)
        if self.execution is None:
            self.execution = found.execution_id
        events = self._read(found)
        if not events and self.execution != found.execution_id:
            # It has started over, and of the history before nothing is left to tell.
            self.execution, self.after = found.execution_id, -1
            events = self._read(found)
        if events:
            self.after = events[-1].sequence
        is_over = found.status in families.TERMINAL and self.execution == found.execution_id
        self.has_ended = is_over and len(events) < _PAGE
        return {
            "instance": InstanceSerializer(found, context={"payloads": True}).data,
            "events": [as_json(recorded) for recorded in events],
            "execution_id": self.execution,
            "after": self.after,
        }

    def changes_and_close(self, *, is_to_ask: bool) -> dict[str, Any]:
        """Do what `changes` does, and keep no connection until the next look.

        ``is_to_ask`` asks first whether the request may still look; see `InstanceStream.admit_again`.
        """
        try:
            if is_to_ask:
                self._view.admit_again()
            return self.changes()
        finally:
            for connection in connections.all(initialized_only=True):
                if not connection.in_atomic_block:
                    connection.close()

    def _read(self, found: Instance) -> list[monitoring.Recorded]:
        assert self.execution is not None
        return monitoring.history(self._view.using, found.pk, self.execution, after=self.after, limit=_PAGE)


async def _stream(look: Look, first: dict[str, Any]) -> AsyncIterator[str]:
    found, beat_at = first, time.monotonic() + _BEAT_SECONDS
    state: dict[str, Any] = {}
    while True:
        for event in found["events"]:
            yield _frame("history", event, f"{found['execution_id']}:{event['sequence']}")
        if found["instance"] != state:
            state = found["instance"]
            yield _frame("state", state)
        if look.has_ended:
            yield _frame("end", {"status": state["status"]})
            return
        if not found["events"]:
            await asyncio.sleep(_LOOK_SECONDS)
        if is_due := time.monotonic() > beat_at:
            beat_at = time.monotonic() + _BEAT_SECONDS
            yield ": still here\n\n"  # So that a client that has gone is noticed.
        try:
            found = await sync_to_async(look.changes_and_close)(is_to_ask=is_due)
        except (APIException, Http404, PermissionDenied):
            yield _frame("end", {"status": None})
            return


def as_if_new(request: HttpRequest) -> HttpRequest:
    """Return a request as if it came in now, with its session and its user read again.

    What REST framework's own authentication reads, such as tokens, it reads again by itself.
    """
    fresh, user = _copy(request), getattr(request, "user", None)
    if auth.SESSION_KEY in getattr(request, "session", ()):
        fresh.session = type(request.session)(request.session.session_key)
        fresh.user = auth.get_user(fresh)
    elif isinstance(user, Model):  # A middleware of the project's has set it.
        known: Any = user.__class__._base_manager.filter(pk=user.pk).first()
        fresh.user = known or AnonymousUser()
    return fresh


def _copy(request: HttpRequest) -> HttpRequest:
    copied = copy.copy(request)
    copied.__dict__ |= request.__dict__  # What cannot be pickled is not copied.
    return copied


def _frame(name: str, data: Any, identity: str | None = None) -> str:
    identity = "" if identity is None else f"id: {identity}\n"
    return f"{identity}event: {name}\ndata: {json.dumps(data)}\n\n"
