"""Where the API was broken once: filters that find too much, replaced instances, streams that start over."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient
from django.urls import resolve
from rest_framework.test import APIClient

from durable_django import task
from durable_django.core import events
from durable_django.core.ids import new_execution_id
from durable_django.core.json_schema import json_schema
from durable_django.models import Entity, Instance, InstanceStatus
from durable_django.rest_framework.views import control
from durable_django.rest_framework.views.stream import Look
from durable_django.store import clock
from tests import factories
from tests.factories import NOW
from tests.rest_framework.test_stream import run

pytestmark = pytest.mark.django_db

ROOT = "/durable/instances/"
BULK = f"{ROOT}bulk/"
SURROGATE = "\ud800"


def plain(ctx: task.OrchestrationContext, _: Any) -> None:
    return None


class TestFilters:
    @pytest.mark.parametrize(
        "filters",
        [
            {"name": " "},
            {"id_prefix": "\t"},
            {"queue": " "},
            {"name": ["flow", "other"]},
            {"tag.a": ["1", "2"]},
            {"id_prefix": "ORDER"},
            {"name": SURROGATE},
            {"status": [SURROGATE]},
            {SURROGATE: "x"},
            {"tag.-1": "x"},
            {"tag.0": "x"},
        ],
    )
    def test_what_is_not_meant_finds_nothing(self, api: APIClient, filters: dict[str, Any]) -> None:
        factories.make_instance("order-1", InstanceStatus.COMPLETED, tags={"a": "1", "b": "2"})
        body = {"action": "purge", "filters": filters}
        response = api.post(BULK, json.dumps(body), content_type="application/json")
        assert response.status_code in (200, 400), response.content
        assert Instance.objects.exists()

    @pytest.mark.parametrize("key", ["0", "-1", "a.b", 'a"b', "a'b", "$", "ä", "%s"])
    def test_a_tag_may_be_called_anything(self, api: APIClient, key: str) -> None:
        factories.make_instance("i", tags={key: "x"})
        assert len(api.get(ROOT, {f"tag.{key}": "x"}).json()["results"]) == 1
        assert api.get(ROOT, {f"tag.{key}": "y"}).json()["results"] == []

    @pytest.mark.parametrize("value", ["yes", "1", "bogus"])
    def test_locked_is_true_or_false(self, api: APIClient, value: str) -> None:
        assert api.get("/durable/entities/", {"locked": value}).status_code == 400

    def test_prefixes_tell_cases_apart(self, api: APIClient) -> None:
        factories.make_instance("order-1")
        Entity.objects.create(name="a", key="ADA/7", last_modified_at=clock.aware(NOW))
        assert api.get(ROOT, {"id_prefix": "ORDER"}).json()["results"] == []
        assert len(api.get(ROOT, {"id_prefix": "order"}).json()["results"]) == 1
        assert api.get("/durable/entities/", {"key_prefix": "ada"}).json()["results"] == []


class TestReplacing:
    @pytest.fixture(autouse=True)
    def plain_is_registered(self, registered: Callable[..., None]) -> None:
        registered(plain)

    @pytest.mark.parametrize(
        ("status", "permissions", "code"),
        [
            (InstanceStatus.RUNNING, ["start_orchestration"], 403),
            (InstanceStatus.RUNNING, ["start_orchestration", "purge"], 403),
            (InstanceStatus.RUNNING, ["start_orchestration", "purge", "terminate"], 202),
            (InstanceStatus.COMPLETED, ["start_orchestration"], 403),
            (InstanceStatus.COMPLETED, ["start_orchestration", "purge"], 202),
        ],
    )
    def test_it_takes_the_permission_to_end_and_to_delete(
        self, as_user: Callable[..., APIClient], status: InstanceStatus, permissions: list[str], code: int
    ) -> None:
        before = factories.make_instance("i", status)
        body = {"instance_id": "i", "reuse_id_policy": [status.name]}
        response = as_user(*permissions).post("/durable/orchestrations/plain/", body, format="json")
        assert response.status_code == code, response.content
        assert (Instance.objects.get().pk == before.pk) == (code == 403)
        trail = [entry.change_message for entry in LogEntry.objects.order_by("pk")]
        assert trail == ([] if code == 403 else ["Purged: replaced", "Started"])

    def test_a_policy_that_does_not_apply_conflicts_as_ever(self, as_user: Callable[..., APIClient]) -> None:
        factories.make_instance("i", InstanceStatus.RUNNING)
        body = {"instance_id": "i", "reuse_id_policy": ["FAILED"]}
        user = as_user("start_orchestration")
        assert user.post("/durable/orchestrations/plain/", body, format="json").status_code == 409


def test_the_api_may_lie_within_another_namespace(
    api: APIClient, registered: Callable[..., None], settings: Any
) -> None:
    registered(plain)
    settings.ROOT_URLCONF = "tests.rest_framework.nested_urls"
    response = api.post("/api/durable/orchestrations/plain/", {"instance_id": "i"}, format="json")
    assert response.status_code == 202
    assert response["Location"].endswith("/api/durable/instances/i/status/")
    assert api.get(response["Location"]).status_code == 202
    assert "/api/durable/instances/" in api.get("/api/durable/schema/?format=json").json()["paths"]


def test_what_waits_is_outside_the_transactions_of_requests_on_every_database() -> None:
    for url in ("/durable/orchestrations/plain/", "/durable/instances/bulk/", "/durable/instances/i/stream/"):
        assert resolve(url).func._non_atomic_requests == set(connections)  # type: ignore[attr-defined]


class TestBulk:
    def test_a_family_is_purged_though_its_children_go_with_their_parent(self, api: APIClient) -> None:
        parent = factories.make_instance("p", InstanceStatus.COMPLETED)
        factories.make_child(parent, "c", 1, InstanceStatus.COMPLETED)
        factories.make_instance("q", InstanceStatus.COMPLETED)
        result = api.post(
            BULK, {"action": "purge", "filters": {"status": ["COMPLETED"]}}, format="json"
        ).json()
        assert not Instance.objects.exists()
        assert [one["instance_id"] for one in result["skipped"]] == ["c"]

    def test_what_no_longer_fits_the_filters_is_left_alone(
        self, api: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factories.make_instance("i", InstanceStatus.FAILED)
        act_on = control.Bulk._act_on

        def change_first(*arguments: Any) -> Any:
            Instance.objects.update(status=InstanceStatus.COMPLETED)
            return act_on(*arguments)

        monkeypatch.setattr(control.Bulk, "_act_on", change_first)
        body = {"action": "purge", "filters": {"status": ["FAILED"]}}
        assert api.post(BULK, body, format="json").json()["done"] == 0
        assert Instance.objects.exists()


class TestErrors:
    @pytest.mark.parametrize("accept", ["image/png", "text/event-stream"])
    def test_what_nobody_can_render_is_not_acceptable(self, api: APIClient, accept: str) -> None:
        response: Any = api.get("/durable/stats/", HTTP_ACCEPT=accept)
        assert (response.status_code, response["Content-Type"]) == (406, "application/problem+json")

    @pytest.mark.parametrize(
        "body",
        [
            {"action": SURROGATE, "ids": ["a"]},
            {SURROGATE: 1},
            {"action": "purge", "ids": [SURROGATE]},
        ],
    )
    def test_half_a_character_is_refused(self, api: APIClient, body: dict[str, Any]) -> None:
        response = api.post(BULK, json.dumps(body), content_type="application/json")
        assert response.status_code == 400

    @pytest.mark.parametrize("reason", ["%00", "x" * 1001])
    def test_a_reason_in_the_query_is_checked(self, api: APIClient, reason: str) -> None:
        factories.make_instance("i", InstanceStatus.COMPLETED)
        Entity.objects.create(name="a", key="1", last_modified_at=clock.aware(NOW))
        for url in (f"{ROOT}i/", "/durable/entities/a/1/"):
            response = api.delete(f"{url}?reason={reason}")
            assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "reason")

    @pytest.mark.parametrize("text", ['"\\ud800"', "1e999", '{"a": NaN}', "no json", '"\\ud83e\\udd86"'])
    def test_whatever_a_converter_has_stored_is_shown(self, api: APIClient, text: str) -> None:
        factories.make_instance("i", InstanceStatus.COMPLETED, output=text)
        assert api.get(f"{ROOT}i/").status_code == 200

    def test_a_body_in_chunks_is_not_dropped_in_silence(self, api: APIClient) -> None:
        factories.make_instance("i")
        response: Any = api.generic(
            "POST", f"{ROOT}i/terminate/", HTTP_TRANSFER_ENCODING="chunked", CONTENT_TYPE="application/json"
        )
        assert response.status_code == 411

    def test_nobody_may_be_nobody_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rest_framework.settings import api_settings

        monkeypatch.setattr(api_settings, "UNAUTHENTICATED_USER", None)
        assert APIClient().get(ROOT).status_code in (401, 403)


class TestStreams:
    def make_restarted(self) -> tuple[Instance, str]:
        """Return an instance that has started over, after three events, and its former execution."""
        instance = factories.make_instance("i")
        for number in (1, 2):
            factories.add_history(instance, events.TaskScheduledEvent(number, NOW, f"old{number}"))
        former = instance.execution_id
        Instance.objects.update(execution_id=new_execution_id(), next_sequence=0)
        instance.refresh_from_db()
        factories.add_history(instance, events.TaskScheduledEvent(1, NOW, "new"))
        return instance, former

    def test_polling_goes_from_one_execution_to_the_next(self, api: APIClient) -> None:
        instance, former = self.make_restarted()
        query: dict[str, Any] = {"after": 0, "execution_id": former, "wait": 0}
        seen: list[str] = []
        for _ in range(3):
            found = api.get(f"{ROOT}i/stream/", query).json()
            seen += [event["name"] for event in found["events"]]
            query |= {"after": found["after"], "execution_id": found["execution_id"]}
        assert seen == ["old1", "old2", "new"]
        assert query["execution_id"] == instance.execution_id

    def test_a_look_does_too(self, api: APIClient) -> None:
        instance, former = self.make_restarted()
        view: Any = type("View", (), {"using": "default", "find": lambda _, __: instance})()
        instance.parent_instance_id = None  # type: ignore[attr-defined]  # what the view's queries add
        look = Look(view, "i", former, 1)
        assert [event["name"] for event in look.changes()["events"]] == ["old2"]
        assert [event["name"] for event in look.changes()["events"]] == ["new"]
        assert look.changes()["events"] == []

    @pytest.mark.django_db(transaction=True)
    def test_an_event_source_is_served_and_goes_on_where_it_was(self) -> None:
        user = User.objects.create_superuser("root")
        instance = factories.make_instance("i", InstanceStatus.COMPLETED)
        factories.add_history(instance, events.TaskScheduledEvent(1, NOW, "act"))

        async def follow(**headers: str) -> tuple[str, str]:
            client = AsyncClient()
            await client.aforce_login(user)
            response: Any = await client.get(
                f"{ROOT}i/stream/", headers={"accept": "text/event-stream", **headers}
            )
            return response["Content-Type"], "".join([chunk.decode() async for chunk in response])

        kind, whole = run(follow())
        assert kind == "text/event-stream"
        assert whole.count("event: history") == 2
        assert f"id: {instance.execution_id}:1" in whole
        _, rest = run(follow(**{"last-event-id": f"{instance.execution_id}:0"}))
        assert rest.count("event: history") == 1

    @pytest.mark.django_db(transaction=True)
    def test_headers_alone_end(self) -> None:
        user = User.objects.create_superuser("root")
        factories.make_instance("i")

        async def ask() -> Any:
            client = AsyncClient()
            await client.aforce_login(user)
            return await client.head(f"{ROOT}i/stream/")

        assert not run(ask()).streaming


class Colour(enum.Enum):
    RED = "red"


class Odd(enum.Enum):
    A = object()


@dataclass
class Left:
    left: Left
    right: Right


@dataclass
class Right:
    left: Left
    right: Right


def test_no_hint_breaks_the_schema_of_an_input() -> None:
    assert json_schema(Literal[Colour.RED]) == {"enum": ["red"]}
    assert json_schema(Odd) == {"title": "Odd"}
    assert len(str(json_schema(Left))) < 5000
