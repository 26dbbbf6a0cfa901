"""Lists, states, histories and what is waited for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from durable_django.core import events
from durable_django.core.events import TaskScheduledEvent
from durable_django.entities import EntityInstanceId
from durable_django.models import EntityOperation, EntityOperationKind, InstanceStatus
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

LIST = "/durable/instances/"


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [one["instance_id"] for one in response.json()["results"]]


@pytest.fixture
def many() -> None:
    """Make a few instances that differ in everything."""
    parent = factories.make_instance("a-parent", name="family", at=NOW)
    factories.make_child(parent, "a-child", 1, at=NOW + timedelta(hours=1), name="family")
    factories.make_instance(
        "b-failed", InstanceStatus.FAILED, at=NOW + timedelta(hours=2), queue="slow", tags={"customer": "7"}
    )
    factories.make_instance(
        "c-done",
        InstanceStatus.COMPLETED,
        at=NOW + timedelta(hours=3),
        completed_at=clock.aware(NOW + timedelta(days=1)),
        version="2",
        tags={"customer": "8", "region": "north"},
        subject_type="auth.user",
        subject_id="4711",
        input="1",
        output='{"x": 1}',
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "c-done b-failed a-child a-parent"),
        ("ordering=created_at", "a-parent a-child b-failed c-done"),
        ("ordering=-completed_at", "c-done b-failed"),
        ("ordering=completed_at", "b-failed c-done"),
        ("status=FAILED", "b-failed"),
        ("status=FAILED&status=RUNNING", "b-failed a-child a-parent"),
        ("name=family", "a-child a-parent"),
        ("id_prefix=a-", "a-child a-parent"),
        ("id_prefix=%25", ""),
        ("created_after=2026-01-02T05:04:05Z", "c-done b-failed"),
        ("created_before=2026-01-02T05:04:05%2B01:00", "a-parent"),
        ("completed_after=2026-01-03T00:00:00Z", "c-done"),
        ("completed_before=2026-01-03T00:00:00Z", "b-failed"),
        ("completed_after=2026-01-01T00:00:00Z&ordering=created_at", "b-failed c-done"),
        ("tag.customer=7", "b-failed"),
        ("tag.customer=8&tag.region=north", "c-done"),
        ("tag.customer=8&tag.region=south", ""),
        ("tag.a__b=1", ""),
        ("parent=a-parent", "a-child"),
        ("queue=slow", "b-failed"),
        ("subject=auth.user:4711", "c-done"),
        ("subject=Auth.User:4711", "c-done"),
        ("subject=auth.user:4712", ""),
        ("subject=auth.group:4711", ""),
        ("subject=no.such:4711", ""),
        ("version=2", "c-done"),
        ("status=FAILED&queue=default", ""),
    ],
)
def test_filters_and_orders(api: APIClient, many: None, query: str, expected: str) -> None:
    assert " ".join(ids(api.get(f"{LIST}?{query}"))) == expected


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_times_are_found_without_time_zones_in_the_database(api: APIClient, settings: Any, zone: str) -> None:
    settings.USE_TZ, settings.TIME_ZONE = False, zone
    for number in range(4):
        factories.make_instance(f"i{number}", at=NOW + timedelta(hours=number))
    query = "created_after=2026-01-02T04:04:05Z&created_before=2026-01-02T06:04:05Z&page_size=1"
    first = api.get(f"{LIST}?{query}")
    assert ids(first) == ["i2"]
    assert first.json()["results"][0]["created_at"] == "2026-01-02T05:04:05Z"
    assert ids(api.get(first.json()["next"])) == ["i1"]


@pytest.mark.parametrize("ordering", ["-created_at", "created_at", "completed_at", "-completed_at"])
def test_pages_follow_each_other_without_a_gap(api: APIClient, ordering: str) -> None:
    for number in range(11):  # Some share a time.
        factories.make_instance(
            f"i{number:02}", InstanceStatus.COMPLETED, at=NOW + timedelta(seconds=number // 3)
        )
    whole = ids(api.get(f"{LIST}?ordering={ordering}"))
    assert len(whole) == 11

    seen: list[str] = []
    url: Any = f"{LIST}?ordering={ordering}&page_size=2&status=COMPLETED"
    while url is not None:
        response = api.get(url)
        seen += ids(response)
        url = response.json()["next"]
    assert seen == whole


def test_payloads_come_only_when_they_are_asked_for(api: APIClient, many: None) -> None:
    with CaptureQueriesContext(connection) as queries:
        light = api.get(f"{LIST}?name=flow").json()["results"][0]
    assert "input" not in light
    assert '"output"' not in queries[-1]["sql"]

    full = api.get(f"{LIST}?name=flow&payloads=true").json()["results"][0]
    assert (full["input"], full["output"]) == (1, {"x": 1})


def test_a_failure_and_a_parent_are_shown(api: APIClient, many: None) -> None:
    assert api.get(f"{LIST}b-failed/").json()["failure"]["message"] == "it broke"
    assert api.get(f"{LIST}a-child/").json()["parent"] == "a-parent"


@pytest.mark.parametrize(("status", "code"), [(InstanceStatus.RUNNING, 202), (InstanceStatus.FAILED, 200)])
def test_the_status_tells_by_its_code_whether_to_ask_again(
    api: APIClient, status: InstanceStatus, code: int
) -> None:
    factories.make_instance("i", status)
    response = api.get(f"{LIST}i/status/")
    assert (response.status_code, response.has_header("Retry-After")) == (code, code == 202)
    assert response.json()["status"] == status.name


def test_the_history_is_paged_by_sequence(api: APIClient) -> None:
    instance = factories.make_instance("i", input='{"a": 1}')
    factories.add_history(instance, TaskScheduledEvent(1, NOW, "act", input="[2]"))
    factories.add_history(instance, events.TaskCompletedEvent(-1, NOW, 1, '"done"', started_at=NOW))

    first = api.get(f"{LIST}i/history/?page_size=2").json()
    assert [event["type"] for event in first] == ["ExecutionStartedEvent", "TaskScheduledEvent"]
    assert first[0]["input"] == {"a": 1}
    assert (first[1]["event_id"], first[1]["name"], first[1]["input"]) == (1, "act", [2])
    (second,) = api.get(f"{LIST}i/history/?page_size=2&after={first[-1]['sequence']}").json()
    assert second == {
        "sequence": 2,
        "turn": 3,
        "type": "TaskCompletedEvent",
        "timestamp": "2026-01-02T03:04:05Z",
        "task_scheduled_id": 1,
        "result": "done",
        "started_at": "2026-01-02T03:04:05Z",
    }
    assert api.get(f"{LIST}i/history/?execution_id=abc").json() == []


def test_pending_shows_what_is_waited_for(api: APIClient) -> None:
    instance = factories.make_instance("i", waiting_for=["approval"])
    for _ in range(2):  # The second is a retry.
        factories.add_history(instance, TaskScheduledEvent(1, NOW, "act"))
    leased_until = clock.aware(NOW + timedelta(minutes=1))
    factories.make_activity(instance, 1, lease_token=5, worker="w", visible_at=leased_until, deliveries=1)
    factories.make_activity(instance, 2)
    factories.make_timer(instance, 3)
    factories.make_child(instance, "child", 4)
    factories.make_child(instance, "ended", 5, InstanceStatus.COMPLETED)
    EntityOperation.objects.create(
        name="account",
        key="7",
        kind=EntityOperationKind.CALL,
        operation="get",
        instance=instance,
        execution_id=instance.execution_id,
        task_id=6,
        created_at=clock.aware(NOW),
        visible_at=clock.aware(NOW),
    )

    pending = api.get(f"{LIST}i/pending/").json()

    first, second = pending["activities"]
    assert (first["attempt"], first["deliveries"], first["is_leased"], first["worker"]) == (2, 1, True, "w")
    assert first["lease_expires_at"] == "2026-01-02T03:05:05Z"
    assert (second["attempt"], second["is_leased"], second["lease_expires_at"]) == (1, False, None)
    assert pending["timers"] == [{"task_id": 3, "fire_at": "2026-01-02T04:04:05Z"}]
    assert pending["events"] == ["approval"]
    assert pending["children"] == [
        {"task_id": 4, "instance_id": "child", "name": "flow", "status": "RUNNING"}
    ]
    entity = str(EntityInstanceId("account", "7"))
    assert pending["entity_calls"] == [{"task_id": 6, "entity": entity, "kind": "call", "operation": "get"}]


def test_what_has_ended_waits_for_nothing(api: APIClient) -> None:
    instance = factories.make_instance("i", InstanceStatus.TERMINATED)
    factories.make_timer(instance, 3)
    assert set(map(len, api.get(f"{LIST}i/pending/").json().values())) == {0}


def test_children_are_listed_oldest_first(api: APIClient, many: None) -> None:
    assert ids(api.get(f"{LIST}a-parent/children/")) == ["a-child"]
    assert ids(api.get(f"{LIST}a-parent/children/?status=FAILED")) == []


@pytest.mark.parametrize(
    ("url", "queries"),
    [
        ("", 1),
        ("?status=FAILED&status=RUNNING&tag.a=b&parent=x", 1),
        ("i0/", 1),
        ("i0/status/", 1),
        ("i0/history/", 2),
        ("i0/pending/", 7),
        ("i0/children/", 2),
        ("i0/stream/?wait=0", 2),
    ],
)
def test_no_endpoint_asks_more_for_more_rows(
    api: APIClient, django_assert_num_queries: Any, url: str, queries: int
) -> None:
    instance = factories.make_instance("i0")
    factories.make_activity(instance, 1)
    for number in range(1, 30):
        factories.make_child(instance, f"i{number}", number)
    with django_assert_num_queries(queries):
        assert api.get(f"{LIST}{url}").status_code in (200, 202)


@pytest.mark.parametrize("part", ["", "status/", "history/", "pending/", "children/", "stream/"])
@pytest.mark.parametrize("name", ["nobody", "a%00b", "%ED%A0%80", "x" * 300, "a/b", "a%2Fb", "@entity"])
def test_the_missing_are_not_found(api: APIClient, part: str, name: str) -> None:
    response = api.get(f"{LIST}{name}/{part}")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["a/b/c", "ä ö", "100%", "a?b#c", "🦆"])
def test_an_id_may_have_anything_in_it(api: APIClient, name: str) -> None:
    from urllib.parse import quote

    factories.make_instance(name)
    assert api.get(f"{LIST}{quote(name)}/").json()["instance_id"] == name
    assert api.get(f"{LIST}{quote(name, safe='')}/history/").status_code == 200
