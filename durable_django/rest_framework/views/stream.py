"""The stream: an instance's life as server-sent events or, where a thread answers, by long polling."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from durable_django.models import Instance
from durable_django.rest_framework.serializers import ChangesSerializer, InstanceSerializer
from durable_django.rest_framework.views.base import DurableView, described, responses
from durable_django.rest_framework.views.instances import AFTER, SEQUENCE, as_json, number
from durable_django.rest_framework.views.orchestrations import WAIT, seconds
from durable_django.store import families, monitoring

_LOOK_SECONDS = 0.25
_BEAT_SECONDS = 15.0
_PAGE = 200


class InstanceStream(DurableView):
    """What happens to an instance, as it happens."""

    required_permissions: ClassVar = {"GET": "view_instance"}
    parameters = frozenset({AFTER, WAIT})
    serializer_class = ChangesSerializer

    @described(
        operation_id="stream_instance",
        parameters=[
            OpenApiParameter(AFTER, SEQUENCE, description="Only what follows."),
            OpenApiParameter(
                WAIT,
                {"type": "number", "minimum": 0},
                description="Long polling: wait so many seconds for a change.",
            ),
        ],
        responses=responses(
            {(200, "application/json"): ChangesSerializer, (200, "text/event-stream"): OpenApiTypes.STR},
            404,
        ),
    )
    def get(self, request: Request, instance_id: str) -> HttpResponseBase:
        """Follow an instance: `state` at each change of its state, `history` for each event, then `end`.

        Under ASGI these are server-sent events. Under WSGI, or with `wait`, it answers once, as soon as there
        is something that comes after `after`; ask again from the `after` that it returns.
        """
        after = number(request, AFTER)
        look = Look(self, instance_id, after)
        first = look.changes()
        if isinstance(request._request, ASGIRequest) and WAIT not in request.query_params:
            return _events(look, first)
        return self._poll(look, first, seconds(request))

    def _poll(self, look: Look, first: dict[str, Any], wait: float) -> Response:
        until, found = time.monotonic() + wait, first
        while not (found["events"] or look.has_ended) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            found = look.changes()
        return Response(found)


class Look:
    """Looks at an instance again and again."""

    def __init__(self, view: InstanceStream, instance_id: str, after: int) -> None:
        self._view = view
        self._instance_id = instance_id
        self._execution: str | None = None
        self.after = after
        self.has_ended = False
        """Whether nothing will happen any more."""

    def changes(self) -> dict[str, Any]:
        """Return the instance as it is, and the events since the last look.

        Raises:
            NotFound: It is gone, or the request may not see it any more.
        """
        found: Instance = self._view.find(self._instance_id)
        if self._execution not in (None, found.execution_id):
            self.after = -1  # It has started over: with a new history.
        self._execution = found.execution_id
        events = monitoring.history(
            self._view.using, found.pk, found.execution_id, after=self.after, limit=_PAGE
        )
        if events:
            self.after = events[-1].sequence
        self.has_ended = found.status in families.TERMINAL and len(events) < _PAGE
        return {
            "instance": InstanceSerializer(found, context={"payloads": True}).data,
            "events": [as_json(recorded) for recorded in events],
            "after": self.after,
        }


def _events(look: Look, first: dict[str, Any]) -> StreamingHttpResponse:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(_stream(look, first), content_type="text/event-stream", headers=headers)


async def _stream(look: Look, first: dict[str, Any]) -> AsyncIterator[str]:
    found, beat_at = first, time.monotonic() + _BEAT_SECONDS
    state: dict[str, Any] = {}
    while True:
        for event in found["events"]:
            yield _frame("history", event, event["sequence"])
        if found["instance"] != state:
            state = found["instance"]
            yield _frame("state", state)
        if look.has_ended:
            yield _frame("end", {"status": state["status"]})
            return
        if not found["events"]:
            await asyncio.sleep(_LOOK_SECONDS)
        if time.monotonic() > beat_at:
            beat_at = time.monotonic() + _BEAT_SECONDS
            yield ": still here\n\n"  # So that a client that has gone is noticed.
        try:
            found = await sync_to_async(look.changes)()
        except NotFound:
            yield _frame("end", {"status": None})
            return


def _frame(name: str, data: Any, number_of_event: int | None = None) -> str:
    identity = "" if number_of_event is None else f"id: {number_of_event}\n"
    return f"{identity}event: {name}\ndata: {json.dumps(data)}\n\n"
