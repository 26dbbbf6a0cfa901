"""Many orchestrations that are started in place of others which live.

These are ended as `terminate_orchestration` does it, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connection
from django.test.utils import CaptureQueriesContext

from durable_django.client import DurableTaskClient, OrchestrationIdReusePolicy, OrchestrationStatus
from durable_django.core import events
from durable_django.models import (
    ActivityTask,
    EntityOperation,
    EntityOperationKind,
    HistoryEvent,
    Instance,
    InstanceStatus,
    Message,
    MessageKind,
)
from durable_django.signals import orchestration_terminated
from durable_django.store import histories, wakeup
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

LIVE = OrchestrationIdReusePolicy([OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING])


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


def ids(status: InstanceStatus) -> set[str]:
    return set(Instance.objects.filter(status=status).values_list("instance_id", flat=True))


def replace(client: DurableTaskClient, names: Iterable[str]) -> None:
    wanted = sorted(names)
    client.schedule_new_orchestrations("flow", wanted, instance_ids=wanted, reuse_id_policy=LIVE)


@pytest.mark.parametrize("status", [InstanceStatus.PENDING, InstanceStatus.RUNNING])
def test_hundreds_take_no_more_statements_than_a_few(
    client: DurableTaskClient, status: InstanceStatus
) -> None:
    parent = factories.make_instance("parent")
    counts = []
    for size in (20, 400):
        names = [f"{size}-{number}" for number in range(size)]
        for number, name in enumerate(names):
            factories.make_child(parent, name, number, status)
        with CaptureQueriesContext(connection) as queries:
            replace(client, names)
        counts.append(len(queries))
        assert ids(InstanceStatus.PENDING) >= set(names)
    assert max(counts) <= 32
    assert Message.objects.filter(instance=parent, kind=MessageKind.CHILD_FAILED).count() == 420


def test_each_is_signalled_with_what_it_has_started(
    client: DurableTaskClient, django_capture_on_commit_callbacks: Any
) -> None:
    told: list[str] = []

    def receive(instance_id: str, **_: Any) -> None:
        told.append(instance_id)

    for name in ("a", "b"):
        holder = factories.make_instance(name)
        child = factories.make_child(holder, f"{name}-child", 1, InstanceStatus.COMPLETED)
        factories.make_child(child, f"{name}-grandchild", 1)
    factories.make_instance("done", InstanceStatus.FAILED)
    orchestration_terminated.connect(receive)
    try:
        with (
            wakeup.waiter(DEFAULT_DB_ALIAS, "b") as of_holder,
            wakeup.waiter(DEFAULT_DB_ALIAS, "a-grandchild") as of_child,
            django_capture_on_commit_callbacks(execute=True),
        ):
            policy = OrchestrationIdReusePolicy(list(OrchestrationStatus))
            client.schedule_new_orchestrations(
                "flow", [1, 2, 3], instance_ids=["b", "a", "done"], reuse_id_policy=policy
            )
    finally:
        orchestration_terminated.disconnect(receive)
    assert sorted(told) == ["a", "a-grandchild", "b", "b-grandchild"]
    assert of_holder.is_set()
    assert of_child.is_set()
    ended = Instance.objects.get(instance_id="a-grandchild")
    last = HistoryEvent.objects.filter(instance=ended).latest("sequence")
    assert last.kind == histories.kind_of(events.ExecutionTerminatedEvent)
    assert ended.next_sequence == last.sequence + 1


def test_a_parent_that_goes_with_its_child_is_told_nothing(client: DurableTaskClient) -> None:
    parent = factories.make_instance("parent")
    factories.make_child(factories.make_child(parent, "child", 1), "grandchild", 1)
    factories.make_activity(parent, 5)
    replace(client, ["grandchild", "parent"])
    assert not Message.objects.exists()
    assert not ActivityTask.objects.exists()
    assert ids(InstanceStatus.TERMINATED) == {"child"}
    assert ids(InstanceStatus.PENDING) == {"grandchild", "parent"}


@pytest.mark.django_db(transaction=True)
def test_parents_are_told_whether_they_are_suspended_or_not(client: DurableTaskClient) -> None:
    statuses = [InstanceStatus.RUNNING, InstanceStatus.SUSPENDED, InstanceStatus.COMPLETED]
    for status in statuses:
        factories.make_child(factories.make_instance(status.name, status), f"of {status.name}", 7)
    replace(client, [f"of {status.name}" for status in statuses])
    told = Message.objects.values_list("instance__instance_id", "kind", "task_id", "held")
    assert sorted(told) == [
        ("RUNNING", MessageKind.CHILD_FAILED, 7, False),
        ("SUSPENDED", MessageKind.CHILD_FAILED, 7, True),
    ]


def test_locks_are_released(client: DurableTaskClient) -> None:
    for name in ("a", "b"):
        holder = factories.make_instance(name)
        requested = events.EntityLockRequestedEvent(5, NOW, name, ["@counter@1"], 0)
        factories.add_history(holder, requested)
    replace(client, ["a", "b"])
    released = EntityOperation.objects.values_list("kind", "request", "key")
    kind = EntityOperationKind.RELEASE
    assert sorted(released) == [(kind, "a", "1"), (kind, "b", "1")]
