"""The overview on the app's index page, entities and workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from durable_django.admin.overview import HOURS, overview
from durable_django.core import events
from durable_django.models import Entity, EntityOperation, InstanceStatus
from durable_django.store import clock, monitoring
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

INDEX = reverse("admin:app_list", args=["durable_django"])


def test_it_shows_how_the_service_does(root: Client, django_assert_max_num_queries: Any) -> None:
    running = factories.make_instance("running")
    factories.make_instance("late", InstanceStatus.PENDING)
    factories.make_activity(running, 1, name="slow_one", lease_token=1, visible_at=clock.aware(clock.now()))
    for number in range(3):
        at = clock.now() - timedelta(hours=number)
        factories.make_instance(f"done{number}", InstanceStatus.COMPLETED, completed_at=clock.aware(at))
    factories.make_instance("failed", InstanceStatus.FAILED, completed_at=clock.aware(clock.now()))
    factories.make_instance("old", InstanceStatus.FAILED, at=NOW)
    factories.make_worker("alive", 1)
    factories.make_worker("dead", 1000)

    with django_assert_max_num_queries(15):
        shown = root.get(INDEX).content.decode()

    for part in ("slow_one", "running", ">alive</span>", "silent for 16 min", "<strong>4</strong> ended"):
        assert part in shown
    found = overview()
    assert (found["ended"], found["failed"], len(found["columns"])) == (4, 1, HOURS)
    assert found["columns"][-1].failed == 1
    assert {one["name"]: one["count"] for one in found["counts"]}["running"] == 1
    assert found["backlogs"][0]["count"] == 1


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("use_tz", [True, False])
def test_hours_are_those_of_utc(settings: Any, zone: str, use_tz: bool) -> None:
    settings.USE_TZ, settings.TIME_ZONE = use_tz, zone
    factories.make_instance("i", InstanceStatus.COMPLETED, completed_at=clock.aware(clock.now()))
    assert overview()["ended"] == 1


def test_it_is_for_those_who_may_see_instances(staff: Callable[..., Client]) -> None:
    assert "No worker is running" not in staff("view_entity").get(INDEX).content.decode()
    assert "No worker is running" in staff("view_instance").get(INDEX).content.decode()


def test_entities_and_workers_are_listed(root: Client, django_assert_max_num_queries: Any) -> None:
    holder = factories.make_instance("holder")
    at = clock.aware(NOW)
    for number in range(20):
        Entity.objects.create(
            name="account",
            key=str(number),
            state=json.dumps({"x": number}),
            lock_instance=holder,
            last_modified_at=at,
        )
    EntityOperation.objects.create(
        name="account", key="19", kind=1, operation="add", created_at=at, visible_at=at
    )
    factories.make_worker("alive", 1)
    with django_assert_max_num_queries(10):
        listed = root.get(reverse("admin:durable_django_entity_changelist")).content.decode()
    assert "holder" in listed
    page = root.get(
        reverse("admin:durable_django_entity_change", args=[Entity.objects.get(key="19").pk])
    ).content.decode()
    assert "&quot;x&quot;: 19" in page
    assert "alive" in root.get(reverse("admin:durable_django_worker_changelist")).content.decode()


class TestEntities:
    def make(self, **fields: Any) -> Entity:
        return Entity.objects.create(
            name="account", key="<7>", state="1", last_modified_at=clock.aware(NOW), **fields
        )

    def url(self, page: str, entity: Entity) -> str:
        return reverse(f"admin:durable_django_entity_{page}", args=[entity.pk])

    def test_an_operation_is_sent(self, root: Client) -> None:
        entity = self.make()
        assert self.url("signal", entity) in root.get(self.url("change", entity)).content.decode()
        assert (
            b"This is no JSON"
            in root.post(self.url("signal", entity), {"operation": "add", "input": "{"}).content
        )
        body = {"operation": "add", "input": "5", "reason": "by hand"}
        assert root.post(self.url("signal", entity), body).status_code == 302
        operation = EntityOperation.objects.get()
        assert (operation.key, operation.operation, operation.input) == ("<7>", "add", "5")
        assert "by hand" in LogEntry.objects.get().change_message

    @pytest.mark.parametrize(
        ("term", "is_found"),
        [
            ("a b", True),
            ("A B", True),
            ("my account", True),
            ("@my account@a b", True),
            ("a", False),
            ("b", False),
            ("@my account@a", False),
            ("@", False),
            ("", True),
        ],
    )
    def test_it_is_found_by_a_whole_key_or_name(self, root: Client, term: str, is_found: bool) -> None:
        Entity.objects.create(name="my account", key="a b", last_modified_at=clock.aware(NOW))
        found = root.get(reverse("admin:durable_django_entity_changelist"), {"q": term})
        assert len(found.context["cl"].result_list) == is_found

    @pytest.mark.parametrize(
        ("name", "is_found"), [("account", True), ("other", False), ("a%00ccount", True)]
    )
    def test_it_is_filtered_by_its_name(self, root: Client, name: str, is_found: bool) -> None:
        self.make()
        with CaptureQueriesContext(connection) as queries:
            found = root.get(f"{reverse('admin:durable_django_entity_changelist')}?name={name}")
        assert len(found.context["cl"].result_list) == is_found
        assert not any("DISTINCT" in query["sql"] for query in queries)  # They are too many for that.

    def test_of_a_long_state_the_beginning_is_shown(self, root: Client, staff: Callable[..., Client]) -> None:
        entity = self.make()
        assert self.url("state", entity) not in root.get(self.url("change", entity)).content.decode()
        state = json.dumps("<b>" + "x" * 1_000_000)
        Entity.objects.update(state=state)
        shown = root.get(self.url("change", entity)).content.decode()
        assert len(shown) < 100_000
        assert self.url("state", entity) in shown
        with CaptureQueriesContext(connection) as queries:
            root.get(reverse("admin:durable_django_entity_changelist"))
        assert not any('"state"' in query["sql"] for query in queries)
        whole = root.get(self.url("state", entity))
        assert whole["Content-Type"].startswith("text/plain")
        assert whole.content.decode() == state
        assert staff("signal_entity").get(self.url("state", entity)).status_code == 403
        entity.pk += 1
        assert root.get(self.url("state", entity)).status_code == 404

    def test_one_that_is_held_is_not_deleted(self, root: Client) -> None:
        holder = factories.make_instance("holder")
        entity = self.make(lock_instance=holder)
        assert b"An orchestration holds it" in root.post(self.url("clear", entity)).content
        Entity.objects.update(lock_instance=None)
        assert root.post(self.url("clear", entity), {"reason": "gone"}).status_code == 302
        assert not Entity.objects.exists()
        assert "gone" in LogEntry.objects.get().change_message

    def test_each_takes_its_permission(self, staff: Callable[..., Client]) -> None:
        entity = self.make()
        onlooker = staff("view_entity")
        shown = onlooker.get(self.url("change", entity)).content.decode()
        for page in ("signal", "clear"):
            assert self.url(page, entity) not in shown
            assert onlooker.get(self.url(page, entity)).status_code == 403
            assert onlooker.post(self.url(page, entity)).status_code == 403
        assert Entity.objects.exists()


def test_it_tells_which_activities_are_slow(root: Client) -> None:
    instance = factories.make_instance("i")
    for task, (name, seconds) in enumerate([("slow", 60), ("quick", 1), ("slow", 30), ("slow", 300)]):
        factories.add_history(
            instance,
            events.TaskScheduledEvent(task, NOW, name=name),
            events.TaskCompletedEvent(
                -1,
                NOW,
                task_scheduled_id=task,
                started_at=NOW + timedelta(seconds=5),
                finished_at=NOW + timedelta(seconds=5 + seconds),
            ),
        )
    # Neither of these tells how long it took.
    factories.add_history(
        instance,
        events.TaskScheduledEvent(7, NOW, name="unfinished"),
        events.TaskFailedEvent(-1, NOW, task_scheduled_id=8, failure_details=factories.FAILURE),
    )

    assert overview()["slowest"] == [
        {"name": "slow", "count": 3, "median": "1 min", "longest": "5 min"},
        {"name": "quick", "count": 1, "median": "1 s", "longest": "1 s"},
    ]
    assert "Slowest activities lately" in root.get(INDEX).content.decode()


def test_it_knows_how_long_activities_took_from_a_part_of_the_histories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitoring, "_LATELY", 6)
    statuses = {"ended": InstanceStatus.COMPLETED, "running": InstanceStatus.RUNNING}
    for which, status in statuses.items():
        for age, count in enumerate((1, 3, 1)):
            at = clock.aware(NOW - timedelta(hours=age))
            ends = {"completed_at": at} if which == "ended" else {}
            instance = factories.make_instance(f"{which}-{age}", status, created_at=at, **ends)
            for task in range(count):
                factories.add_history(
                    instance,
                    events.TaskScheduledEvent(task, NOW, name=f"{which}-{age}"),
                    events.TaskCompletedEvent(-1, NOW, task, started_at=NOW, finished_at=NOW),
                )
    # Of the newest all three events; of the next one, of its seven, the last three; of the oldest nothing.
    assert {(times.name, times.count) for times in monitoring.slowest_activities("default", 10)} == {
        ("ended-0", 1),
        ("ended-1", 1),
        ("running-0", 1),
        ("running-1", 1),
    }
