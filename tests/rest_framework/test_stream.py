"""The stream of an instance's life."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar, cast

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient
from rest_framework.test import APIClient

from durable_django.core.events import TaskScheduledEvent
from durable_django.models import Instance, InstanceStatus
from tests import factories
from tests.factories import NOW

T = TypeVar("T")
URL = "/durable/instances/i/stream/"


def run(following: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and close the connections of the thread that has done its queries."""

    async def run_and_close() -> T:
        try:
            return await asyncio.wait_for(following, 30)
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(run_and_close())


def chunks(response: Any) -> AsyncIterator[bytes]:
    """Return what a streaming response is made of."""
    return cast("AsyncIterator[bytes]", aiter(response))


def frames(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream, each with its data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.mark.django_db
class TestLongPolling:
    def test_what_is_there_is_answered_at_once(self, api: APIClient) -> None:
        factories.make_instance("i")
        found = api.get(URL).json()
        assert [event["type"] for event in found["events"]] == ["ExecutionStartedEvent"]
        assert (found["after"], found["instance"]["status"]) == (0, "RUNNING")

    def test_without_a_change_it_waits_no_longer_than_it_is_told(self, api: APIClient) -> None:
        factories.make_instance("i")
        assert api.get(f"{URL}?after=0&wait=0.01").json()["events"] == []

    def test_what_has_ended_is_not_waited_for(self, api: APIClient) -> None:
        factories.make_instance("i", InstanceStatus.COMPLETED)
        assert api.get(f"{URL}?after=0&wait=100").json()["instance"]["status"] == "COMPLETED"


@pytest.mark.django_db(transaction=True)
class TestServerSentEvents:
    def test_an_instance_is_followed_to_its_end(self) -> None:
        user = User.objects.create_superuser("root")
        instance = factories.make_instance("i")

        async def follow() -> list[tuple[str, Any]]:
            client = AsyncClient()
            await client.aforce_login(user)
            response = await client.get(URL)
            assert response["Content-Type"] == "text/event-stream"
            text = ""
            async for chunk in chunks(response):
                text += chunk.decode()
                if "event: state" in text and "TaskScheduled" not in text:
                    event = TaskScheduledEvent(1, NOW, "act")
                    await sync_to_async(factories.add_history)(instance, event)
                elif "TaskScheduled" in text and "COMPLETED" not in text:
                    done = Instance.objects.filter(pk=instance.pk)
                    await done.aupdate(status=InstanceStatus.COMPLETED)
            return frames(text)

        found = run(follow())

        kinds = [kind for kind, _ in found]
        assert kinds[0] == "history"
        assert kinds[-1] == "end"
        history = [data["type"] for kind, data in found if kind == "history"]
        assert history == ["ExecutionStartedEvent", "TaskScheduledEvent"]
        assert found[-1][1] == {"status": "COMPLETED"}

    def test_what_has_ended_ends_at_once(self) -> None:
        user = User.objects.create_superuser("root")
        factories.make_instance("i", InstanceStatus.FAILED)

        async def follow() -> list[tuple[str, Any]]:
            client = AsyncClient()
            await client.aforce_login(user)
            response = await client.get(URL)
            return frames("".join([chunk.decode() async for chunk in chunks(response)]))

        assert [kind for kind, _ in run(follow())] == ["history", "state", "end"]

    def test_the_missing_are_not_found(self) -> None:
        user = User.objects.create_superuser("root")

        async def ask() -> int:
            client = AsyncClient()
            await client.aforce_login(user)
            return (await client.get(URL)).status_code

        assert run(ask()) == 404
