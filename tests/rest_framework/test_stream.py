"""The stream of an instance's life."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.db import connections
from django.http import HttpRequest
from django.test import AsyncClient
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.test import APIClient

from durable_django.core.events import TaskScheduledEvent
from durable_django.models import Instance, InstanceStatus
from durable_django.rest_framework.views import stream
from durable_django.rest_framework.views.stream import as_if_new
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


@pytest.mark.django_db(transaction=True)
class TestThoseWhoMayNoLongerRead:
    @pytest.fixture(autouse=True)
    def beats_are_quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "_BEAT_SECONDS", 0.0)
        monkeypatch.setattr(stream, "_LOOK_SECONDS", 0.001)

    def follow(self, user: User, change: Callable[[], Any]) -> list[tuple[str, Any]]:
        """Follow an instance to the end of the stream, and make a change after the third heartbeat."""

        async def follow() -> list[tuple[str, Any]]:
            client = AsyncClient()
            await client.aforce_login(user)
            response = await client.get(URL)
            text, beats = "", 0
            async for chunk in chunks(response):
                text += chunk.decode()
                beats += chunk.startswith(b":")
                if beats == 3:
                    beats += 1
                    await sync_to_async(change)()
            return frames(text)

        return run(follow())

    @pytest.fixture
    def user(self) -> User:
        user = User.objects.create_user("staff", password="x")
        user.user_permissions.set(Permission.objects.filter(codename="view_instance"))
        factories.make_instance("i")
        return user

    @pytest.mark.parametrize(
        "change",
        [
            lambda user: user.user_permissions.clear(),
            lambda user: User.objects.update(is_active=False),
            lambda user: user.delete(),
            lambda user: Session.objects.all().delete(),
            lambda user: User.objects.update(password="another"),
        ],
        ids=["permission", "inactive", "deleted", "session", "password"],
    )
    def test_read_no_more(self, user: User, change: Callable[[User], Any]) -> None:
        assert self.follow(user, lambda: change(user))[-1] == ("end", {"status": None})

    def test_others_read_on(self, user: User) -> None:
        found = self.follow(user, lambda: Instance.objects.update(status=InstanceStatus.COMPLETED))
        assert found[-1] == ("end", {"status": "COMPLETED"})

    def test_a_token_that_is_taken_back_is_known_no_more(
        self, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = {"secret"}

        class TokenAuthentication(BaseAuthentication):
            def authenticate(self, request: Any) -> tuple[User, None] | None:
                return (user, None) if request.headers.get("X-Token") in tokens else None

        monkeypatch.setattr(
            stream.InstanceStream, "authentication_classes", [TokenAuthentication, SessionAuthentication]
        )

        async def follow() -> list[tuple[str, Any]]:
            response = await AsyncClient().get(URL, headers={"X-Token": "secret"})
            text = ""
            async for chunk in chunks(response):
                text += chunk.decode()
                if chunk.startswith(b":") and text.count("still") > 2:
                    tokens.clear()
            return frames(text)

        assert run(follow())[-1] == ("end", {"status": None})


@pytest.mark.django_db
def test_a_user_whom_a_middleware_has_set_is_read_again() -> None:
    request = HttpRequest()
    request.user = user = User.objects.create_user("proxy")
    assert as_if_new(request).user == user
    assert as_if_new(request).user is not user
    User.objects.all().delete()
    assert as_if_new(request).user.is_anonymous
    assert request.user is user
