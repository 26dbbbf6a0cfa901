from __future__ import annotations

import json
from datetime import timedelta

import pytest

from durable_django.core import events
from durable_django.core.errors import OrchestrationNotFoundError, OrchestrationStateConflictError
from durable_django.models import (
    ActivityTask,
    HistoryEvent,
    Instance,
    InstanceStatus,
    Message,
    MessageKind,
    Timer,
)
from durable_django.store import clock, histories, rewinds
from tests import factories
from tests.factories import FAILURE, NOW, history_of

pytestmark = pytest.mark.django_db

USING = "default"


def scheduled(task_id: int, name: str = "act", **fields: object) -> events.TaskScheduledEvent:
    return events.TaskScheduledEvent(task_id, NOW, name, **fields)  # type: ignore[arg-type]


def completed(task_id: int, result: str = "1") -> events.TaskCompletedEvent:
    return events.TaskCompletedEvent(-1, NOW, task_id, result)


def failed(task_id: int) -> events.TaskFailedEvent:
    return events.TaskFailedEvent(-1, NOW, task_id, FAILURE)


def created(task_id: int, instance_id: str) -> events.SubOrchestrationInstanceCreatedEvent:
    return events.SubOrchestrationInstanceCreatedEvent(task_id, NOW, instance_id, "sub", input='"in"')


def child_failed(task_id: int) -> events.SubOrchestrationInstanceFailedEvent:
    return events.SubOrchestrationInstanceFailedEvent(-1, NOW, task_id, FAILURE)


def kinds_of(instance: Instance) -> list[type[events.HistoryEvent]]:
    return [type(event) for event in history_of(instance)]


def start_message(instance: Instance) -> Message:
    return Message.objects.get(instance=instance, kind=MessageKind.START)


def test_a_failed_activity_is_scheduled_again_in_a_new_execution() -> None:
    instance = factories.make_instance(queue="slow", priority=2, custom_status='"half"')
    old = instance.execution_id
    again = scheduled(2, "charge", input="5", tags={"a": "b"}, queue="fast", priority=7)
    factories.add_history(instance, scheduled(1))
    factories.add_history(instance, completed(1), again)
    factories.add_history(instance, failed(2))
    factories.fail(instance, failed_by=[4])

    rewinds.rewind(USING, "flow", "card was blocked")

    history = history_of(instance)
    assert [type(event) for event in history] == [
        events.ExecutionStartedEvent,
        events.TaskScheduledEvent,
        events.TaskCompletedEvent,
        events.TaskScheduledEvent,
        events.ExecutionRewoundEvent,
    ]
    assert isinstance(history[-1], events.ExecutionRewoundEvent)
    assert history[-1].reason == "card was blocked"
    turns = HistoryEvent.objects.filter(instance=instance, execution_id=instance.execution_id)
    assert list(turns.order_by("sequence").values_list("turn", flat=True)) == [1, 2, 3, 3, instance.turn]
    assert HistoryEvent.objects.filter(instance=instance, execution_id=old).count() == 6
    assert instance.execution_id != old
    assert (instance.status, instance.failure, instance.completed_at) == (InstanceStatus.RUNNING, None, None)
    assert instance.custom_status == '"half"'
    task = ActivityTask.objects.get()
    assert (task.execution_id, task.task_id, task.name, task.input) == (
        instance.execution_id,
        2,
        "charge",
        "5",
    )
    assert (task.queue, task.priority, task.lease_token) == ("fast", 7, None)
    start = start_message(instance)
    assert (start.execution_id, start.attributes) == (instance.execution_id, '{"rewound": true}')


def test_a_failed_local_activity_is_left_to_the_next_turn() -> None:
    instance = factories.make_instance()
    retried = scheduled(2, "count", local=True)
    factories.add_history(instance, scheduled(1), scheduled(2, "count", local=True))
    factories.add_history(instance, retried)
    factories.add_history(instance, failed(2))
    factories.fail(instance, failed_by=[4])
    rewinds.rewind(USING, "flow")
    assert ActivityTask.objects.get().task_id == 1
    instance.refresh_from_db()
    attributes = start_message(instance).attributes
    assert attributes is not None
    assert json.loads(attributes) == {"rewound": True, "postponed": [3]}


def test_siblings_that_still_run_belong_to_the_new_execution() -> None:
    instance = factories.make_instance()
    fire_at = NOW + timedelta(days=1)
    factories.add_history(
        instance,
        scheduled(1),
        scheduled(2),
        scheduled(3),
        scheduled(4),
        events.TimerCreatedEvent(5, NOW, fire_at),
        events.TimerCreatedEvent(6, NOW, fire_at),
    )
    factories.add_history(instance, failed(1))
    factories.fail(instance, failed_by=[7])
    running = factories.make_activity(instance, 2, lease_token=99, worker="w", deliveries=1)
    factories.make_message(instance, MessageKind.TASK_COMPLETED, task_id=3, data="3")
    factories.make_message(instance, MessageKind.TASK_FAILED, task_id=4)
    timer = factories.make_timer(instance, 5, fire_at)
    event = factories.make_message(instance, name="approval")

    rewinds.rewind(USING, "flow")

    instance.refresh_from_db()
    running.refresh_from_db()
    assert (running.execution_id, running.lease_token) == (instance.execution_id, 99)
    assert sorted(ActivityTask.objects.values_list("task_id", flat=True)) == [1, 2, 4]
    result = Message.objects.get(kind=MessageKind.TASK_COMPLETED)
    assert (result.execution_id, result.task_id, result.data) == (instance.execution_id, 3, "3")
    assert not Message.objects.filter(kind=MessageKind.TASK_FAILED).exists()
    assert Message.objects.filter(pk=event.pk, execution_id=None).exists()
    assert sorted(Timer.objects.values_list("task_id", flat=True)) == [5, 6]
    assert set(Timer.objects.values_list("execution_id", flat=True)) == {instance.execution_id}
    assert Timer.objects.filter(pk=timer.pk).exists()
    assert clock.from_orm(Timer.objects.get(task_id=6).fire_at) == fire_at


def test_what_runs_for_an_undone_decision_is_nobodys_any_more() -> None:
    instance = factories.make_instance()
    factories.add_history(instance, scheduled(1))
    factories.add_history(instance, failed(1), scheduled(2), created(3, "compensation"))
    factories.fail(instance, failed_by=[2], undo_from=3)
    factories.make_activity(instance, 2)
    factories.make_timer(instance, 4)
    factories.make_message(instance, MessageKind.TASK_COMPLETED, task_id=2)
    child = factories.make_child(instance, "compensation", 3)

    rewinds.rewind(USING, "flow")

    assert kinds_of(instance) == [
        events.ExecutionStartedEvent,
        events.TaskScheduledEvent,
        events.ExecutionRewoundEvent,
    ]
    assert list(ActivityTask.objects.values_list("task_id", flat=True)) == [1]
    assert not Timer.objects.exists()
    assert list(Message.objects.values_list("kind", flat=True)) == [MessageKind.START]
    child.refresh_from_db()
    assert (child.parent, child.parent_execution_id, child.parent_task_id) == (None, None, None)


def test_failed_children_are_rewound_with_their_parent() -> None:
    root = factories.make_instance("root")
    child = factories.make_child(root, "child", 1)
    grandchild = factories.make_child(child, "grandchild", 1)
    factories.add_history(grandchild, scheduled(1))
    factories.add_history(grandchild, failed(1))
    factories.fail(grandchild, failed_by=[2])
    for parent, name in ((child, "grandchild"), (root, "child")):
        factories.add_history(parent, created(1, name))
        factories.add_history(parent, child_failed(1))
        factories.fail(parent, failed_by=[2])

    rewinds.rewind(USING, "root")

    for instance in (root, child, grandchild):
        instance.refresh_from_db()
        assert instance.status == InstanceStatus.RUNNING
        assert kinds_of(instance)[-1] is events.ExecutionRewoundEvent
        assert start_message(instance).execution_id == instance.execution_id
    assert (child.parent_execution_id, grandchild.parent_execution_id) == (
        root.execution_id,
        child.execution_id,
    )
    assert ActivityTask.objects.get().instance == grandchild
    assert Message.objects.count() == 3


def test_the_history_says_which_execution_it_is_and_whose_child() -> None:
    root = factories.make_instance("root")
    child = factories.make_child(root, "child", 1)
    factories.add_history(root, created(1, "child"))
    factories.add_history(root, child_failed(1))
    factories.fail(root, failed_by=[2])
    event = history_of(child)[0]
    assert isinstance(event, events.ExecutionStartedEvent)
    event.orchestration_instance = events.OrchestrationInstance("child", child.execution_id)
    parent = events.OrchestrationInstance("root", root.execution_id)
    event.parent_instance = events.ParentInstanceInfo(1, orchestration_instance=parent)
    attributes = histories.event_columns(event)[-1]
    HistoryEvent.objects.filter(instance=child, sequence=0).update(attributes=attributes)
    factories.fail(child)

    rewinds.rewind(USING, "root")

    root.refresh_from_db()
    child.refresh_from_db()
    rewound = history_of(child)[0]
    assert isinstance(rewound, events.ExecutionStartedEvent)
    own, by = rewound.orchestration_instance, rewound.parent_instance
    assert own == events.OrchestrationInstance("child", child.execution_id)
    assert by is not None
    assert by.task_scheduled_id == 1
    assert by.orchestration_instance == events.OrchestrationInstance("root", root.execution_id)
    rewound.orchestration_instance, rewound.parent_instance = (
        event.orchestration_instance,
        event.parent_instance,
    )
    assert rewound == event


def test_a_failure_that_the_parent_has_survived_is_left_alone() -> None:
    root = factories.make_instance("root")
    factories.make_child(root, "child", 1, InstanceStatus.FAILED)
    factories.add_history(root, created(1, "child"))
    factories.add_history(root, child_failed(1), scheduled(2))
    factories.add_history(root, failed(2))
    factories.fail(root, failed_by=[4])

    rewinds.rewind(USING, "root")

    child = Instance.objects.get(instance_id="child")
    root.refresh_from_db()
    assert child.status == InstanceStatus.FAILED
    assert child.parent_execution_id == root.execution_id


def test_children_in_every_other_state() -> None:
    root = factories.make_instance("root")
    names = ["live", "done", "terminated", "missing", "taken", "told", "finished stranger"]
    factories.add_history(
        root, scheduled(99), *(created(number, name) for number, name in enumerate(names, 1))
    )
    factories.add_history(root, failed(99))
    live = factories.make_child(root, "live", 1)
    factories.make_child(root, "done", 2, InstanceStatus.COMPLETED, output='"result"')
    terminated = factories.make_child(root, "terminated", 3, InstanceStatus.TERMINATED)
    stranger = factories.make_instance("taken")
    factories.make_child(root, "told", 6, InstanceStatus.COMPLETED, output='"read me"')
    factories.make_message(root, MessageKind.CHILD_COMPLETED, task_id=6, data='"read me"')
    finished = factories.make_instance("finished stranger", InstanceStatus.COMPLETED)
    factories.fail(root, failed_by=[9])

    rewinds.rewind(USING, "root")

    root.refresh_from_db()
    live.refresh_from_db()
    assert (live.status, live.parent_execution_id) == (InstanceStatus.RUNNING, root.execution_id)
    results = Message.objects.filter(instance=root).exclude(kind=MessageKind.START)
    assert set(results.values_list("kind", "task_id", "data", "execution_id")) == {
        (MessageKind.CHILD_COMPLETED, 2, '"result"', root.execution_id),
        (MessageKind.CHILD_COMPLETED, 6, '"read me"', root.execution_id),
        (MessageKind.CHILD_FAILED, 5, None, root.execution_id),
    }
    for name, task_id in (("terminated", 3), ("missing", 4), ("finished stranger", 7)):
        child = Instance.objects.get(instance_id=name)
        assert (child.status, child.name, child.input) == (InstanceStatus.PENDING, "sub", '"in"')
        assert (child.parent, child.parent_execution_id) == (root, root.execution_id)
        assert child.parent_task_id == task_id
        assert child.pk not in (terminated.pk, finished.pk)
    stranger.refresh_from_db()
    assert (stranger.status, stranger.parent) == (InstanceStatus.RUNNING, None)


def test_without_a_failed_task_only_the_end_goes() -> None:
    instance = factories.make_instance()
    factories.add_history(instance, scheduled(1))
    factories.add_history(instance, completed(1))
    factories.fail(instance)

    rewinds.rewind(USING, "flow")

    assert kinds_of(instance) == [
        events.ExecutionStartedEvent,
        events.TaskScheduledEvent,
        events.TaskCompletedEvent,
        events.ExecutionRewoundEvent,
    ]
    assert not ActivityTask.objects.exists()


def test_an_instance_can_be_rewound_again() -> None:
    instance = factories.make_instance()
    factories.add_history(instance, scheduled(1))
    for _ in range(2):
        ActivityTask.objects.all().delete()
        factories.add_history(instance, failed(1))
        factories.fail(instance, failed_by=[instance.next_sequence - 1])
        rewinds.rewind(USING, "flow")
        instance.refresh_from_db()
    assert kinds_of(instance)[-2:] == [events.ExecutionRewoundEvent, events.ExecutionRewoundEvent]
    assert ActivityTask.objects.get().execution_id == instance.execution_id
    assert Message.objects.get().execution_id == instance.execution_id


def test_a_child_rewound_alone_keeps_its_parent() -> None:
    parent = factories.make_instance("parent")
    child = factories.make_child(parent, "child", 1)
    factories.fail(child)
    rewinds.rewind(USING, "child")
    child.refresh_from_db()
    assert (child.parent, child.parent_execution_id) == (parent, parent.execution_id)


@pytest.mark.parametrize("status", [status for status in InstanceStatus if status != InstanceStatus.FAILED])
def test_what_has_not_failed_is_a_conflict(status: InstanceStatus) -> None:
    factories.make_instance("flow", status)
    with pytest.raises(OrchestrationStateConflictError, match=f"'flow'.*{status.name}, not FAILED"):
        rewinds.rewind(USING, "flow")
    assert Instance.objects.get().status == status


def test_the_missing_cannot_be_found() -> None:
    with pytest.raises(OrchestrationNotFoundError, match="'nobody'"):
        rewinds.rewind(USING, "nobody")
