"""Starting orchestrations, and what can be started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from rest_framework.test import APIClient

from durable_django import orchestrator, task
from durable_django.client import DurableTaskClient
from durable_django.core.registry import Registry
from durable_django.models import Instance, InstanceStatus
from durable_django.worker import DurableTaskWorker
from tests import factories

pytestmark = pytest.mark.django_db

START = "/durable/orchestrations/plain/"


def plain(ctx: task.OrchestrationContext, number: int) -> int:
    return number + 1


@pytest.fixture(autouse=True)
def plain_is_registered(registered: Callable[..., None]) -> None:
    registered(plain)


def test_registered_orchestrators_are_listed_with_the_schema_of_their_input(api: APIClient) -> None:
    listed = {one["name"]: one["input_schema"] for one in api.get("/durable/orchestrations/").json()}

    assert listed["plain"] == {"type": "integer"}
    assert listed["approve_order"]["properties"]["amount"] == {"type": "string", "format": "decimal"}
    assert listed["approve_order"]["required"] == ["number", "customer", "amount"]


def test_a_start_answers_where_its_status_is(api: APIClient) -> None:
    response = api.post(START, {"instance_id": "order 1/ä", "input": 1, "tags": {"a": "b"}}, format="json")

    assert response.status_code == 202
    assert response["Retry-After"] == "1"
    assert response["Location"] == response.json()["status_url"]
    assert api.get(response["Location"]).json()["instance_id"] == "order 1/ä"
    found = Instance.objects.get(instance_id="order 1/ä")
    assert (found.status, found.input, found.tags) == (InstanceStatus.PENDING, "1", {"a": "b"})


def test_all_options_arrive(api: APIClient) -> None:
    options = {
        "instance_id": "i",
        "input": None,
        "start_at": "2030-01-31T12:00:00+02:00",
        "version": "2.0",
        "queue": "slow",
        "priority": 7,
    }
    assert api.post(START, options, format="json").status_code == 202

    found = Instance.objects.get()
    assert (found.version, found.queue, found.priority, found.input) == ("2.0", "slow", 7, None)
    assert found.start_at.isoformat() == "2030-01-31T10:00:00+00:00"


def test_without_a_body_the_id_is_random(api: APIClient) -> None:
    assert api.post(START).status_code == 202
    assert len(Instance.objects.get().instance_id) == 32


def test_a_name_that_nobody_has_registered_is_not_found(api: APIClient) -> None:
    response = api.post("/durable/orchestrations/nobody/", {}, format="json")
    assert response.status_code == 404
    assert "nobody" in response.json()["detail"]
    assert not Instance.objects.exists()


def test_an_id_that_is_taken_conflicts_unless_the_policy_replaces_its_holder(api: APIClient) -> None:
    factories.make_instance("i", InstanceStatus.COMPLETED)

    response = api.post(START, {"instance_id": "i"}, format="json")
    assert (response.status_code, response["Content-Type"]) == (409, "application/problem+json")
    assert response.json()["code"] == "conflict"

    body = {"instance_id": "i", "reuse_id_policy": ["COMPLETED"]}
    assert api.post(START, body, format="json").status_code == 202
    assert Instance.objects.get().status == InstanceStatus.PENDING


def test_a_start_is_in_the_audit_trail(api: APIClient) -> None:
    api.post(START, {"instance_id": "i"}, format="json")
    entry = LogEntry.objects.get()
    assert (entry.object_repr, entry.object_id) == ("i", str(Instance.objects.get().pk))
    assert entry.user.username == "root"
    assert entry.is_addition()


@pytest.mark.django_db(transaction=True)
class TestWaiting:
    def test_what_ends_in_time_is_answered_with_its_output(self, api: APIClient) -> None:
        worker = DurableTaskWorker()
        worker.add_orchestrator(plain)
        with worker:
            worker.start()
            response = api.post(f"{START}?wait=20", {"input": 41}, format="json")

        assert response.status_code == 200
        assert (response.json()["status"], response.json()["output"]) == ("COMPLETED", 42)

    def test_what_does_not_is_accepted(self, api: APIClient) -> None:
        response = api.post(f"{START}?wait=0.01", {"input": 41}, format="json")
        assert response.status_code == 202
        assert "status_url" in response.json()

    def test_the_start_is_committed_before_the_wait_even_with_atomic_requests(
        self, api: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.db import connection

        monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
        waited: list[bool] = []

        def wait(_: Any, instance_id: str, **__: Any) -> None:
            waited.append(connection.in_atomic_block)
            raise TimeoutError

        monkeypatch.setattr(DurableTaskClient, "wait_for_orchestration_completion", wait)
        assert api.post(f"{START}?wait=1", {}, format="json").status_code == 202
        assert waited == [False]


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "inf", ""])
def test_a_wait_is_a_number_of_seconds(api: APIClient, wait: str) -> None:
    response = api.post(f"{START}?wait={wait}", {}, format="json")
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "wait"
    assert not Instance.objects.exists()


def test_what_is_the_packages_own_is_nobodys_to_start(
    api: APIClient, registered: Callable[..., None]
) -> None:
    @orchestrator(name="durable_django.inner", registry=Registry())
    def inner(ctx: Any, _: Any) -> None: ...

    registered(inner)
    assert "durable_django.inner" not in {one["name"] for one in api.get("/durable/orchestrations/").json()}
    assert api.post("/durable/orchestrations/durable_django.inner/", {}, format="json").status_code == 404
    assert not Instance.objects.exists()
