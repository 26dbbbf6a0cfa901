from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction

from durable_django.core import events
from durable_django.core.errors import OrchestrationNotFoundError, OrchestrationStateConflictError
from durable_django.core.status import OrchestrationStatus
from durable_django.models import (
    ActivityTask,
    HistoryEvent,
    Instance,
    InstanceStatus,
    Message,
    MessageKind,
    Timer,
)
from durable_django.signals import orchestration_terminated
from durable_django.store import clock, control, histories
from tests import factories
from tests.factories import NOW, TERMINAL, history_of

pytestmark = pytest.mark.django_db

USING = "default"
LIVE = [InstanceStatus.PENDING, InstanceStatus.RUNNING, InstanceStatus.SUSPENDED]


def status_of(instance_id: str) -> InstanceStatus:
    return InstanceStatus(Instance.objects.get(instance_id=instance_id).status)


class TestTerminate:
    @pytest.mark.parametrize("status", LIVE)
    def test_it_ends_a_live_instance_at_once(self, status: InstanceStatus) -> None:
        instance = factories.make_instance("flow", status, waiting_for=["approval"])
        before = instance.next_sequence
        factories.make_activity(instance, 1)
        factories.make_activity(instance, 2, lease_token=7, worker="w")
        factories.make_timer(instance, 3)
        factories.make_message(instance, name="approval")

        with clock.frozen(NOW + timedelta(minutes=1)):
            ended = control.terminate(USING, "flow", '"why"')

        assert [one.pk for one in ended] == [instance.pk]
        last = history_of(instance)[-1]
        assert last == events.ExecutionTerminatedEvent(-1, NOW + timedelta(minutes=1), '"why"', True)
        assert (instance.status, instance.output, instance.failure) == (
            InstanceStatus.TERMINATED,
            '"why"',
            None,
        )
        assert instance.completed_at is not None
        assert clock.from_orm(instance.completed_at) == NOW + timedelta(minutes=1)
        assert instance.completed_at == instance.last_updated_at
        assert (instance.waiting_for, instance.next_sequence) == ([], before + 1)
        for model in (ActivityTask, Timer, Message):
            assert not model.objects.exists()

    def test_an_instances_clock_never_goes_back(self) -> None:
        instance = factories.make_instance()
        with clock.frozen(NOW - timedelta(days=1)):
            control.terminate(USING, "flow")
        assert history_of(instance)[-1].timestamp == NOW

    @pytest.mark.parametrize("status", TERMINAL)
    def test_nothing_happens_to_a_terminal_or_missing_one(self, status: InstanceStatus) -> None:
        factories.make_instance("flow", status)
        assert control.terminate(USING, "flow", "1") == []
        assert control.terminate(USING, "nobody", "1") == []
        assert status_of("flow") == status

    def test_it_reaches_grandchildren_and_tells_nobody_who_ends_as_well(self) -> None:
        root = factories.make_instance("root")
        child = factories.make_child(root, "child", 1)
        factories.make_child(child, "grandchild", 1, InstanceStatus.SUSPENDED)
        done = factories.make_child(root, "done", 2, InstanceStatus.COMPLETED)
        factories.make_child(done, "left behind", 1)
        factories.make_instance("stranger")

        ended = control.terminate(USING, "root")

        assert {one.instance_id for one in ended} == {"root", "child", "grandchild", "left behind"}
        assert status_of("done") == InstanceStatus.COMPLETED
        assert status_of("stranger") == InstanceStatus.RUNNING
        assert not Message.objects.exists()

    def test_a_former_executions_children_are_not_reached(self) -> None:
        root = factories.make_instance("root")
        old = factories.make_child(root, "old", 1)
        Instance.objects.filter(pk=old.pk).update(parent_execution_id="former")
        control.terminate(USING, "root")
        assert status_of("old") == InstanceStatus.RUNNING

    def test_without_recursion_children_go_on(self) -> None:
        root = factories.make_instance("root")
        factories.make_child(root, "child", 1)
        control.terminate(USING, "root", recursive=False)
        assert status_of("child") == InstanceStatus.RUNNING

    def test_a_terminated_child_fails_its_parents_task(self) -> None:
        parent = factories.make_instance("parent")
        factories.make_child(parent, "child", 5)

        control.terminate(USING, "child")

        message = Message.objects.get()
        assert (message.instance_id, message.kind) == (parent.pk, MessageKind.CHILD_FAILED)
        assert (message.execution_id, message.held) == (parent.execution_id, False)
        event = histories.event_from_columns(
            NOW,
            histories.kind_of(events.SubOrchestrationInstanceFailedEvent),
            message.task_id,
            message.name,
            message.data,
            message.attributes,
        )
        assert isinstance(event, events.SubOrchestrationInstanceFailedEvent)
        assert event.task_scheduled_id == 5
        assert event.failure_details is not None
        assert event.failure_details.message == "Sub-orchestration 'child' was terminated"

    def test_a_finished_parent_is_told_nothing(self) -> None:
        parent = factories.make_instance("parent", InstanceStatus.COMPLETED)
        factories.make_child(parent, "child", 5)
        control.terminate(USING, "child")
        assert not Message.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_a_suspended_parents_message_is_held(self) -> None:
        parent = factories.make_instance("parent", InstanceStatus.SUSPENDED)
        factories.make_child(parent, "child", 5)
        control.terminate(USING, "child")
        assert Message.objects.get().held

    @pytest.mark.django_db(transaction=True)
    def test_a_signal_follows_the_commit(self) -> None:
        instance = factories.make_instance()
        seen = []

        def receive(**sent: object) -> None:
            seen.append((sent["instance_id"], sent["execution_id"], sent["name"], sent["using"]))

        orchestration_terminated.connect(receive)
        try:
            with transaction.atomic():
                control.terminate(USING, "flow")
                assert seen == []
        finally:
            orchestration_terminated.disconnect(receive)
        assert seen == [("flow", instance.execution_id, "flow", USING)]


class TestSuspendAndResume:
    @pytest.mark.parametrize("status", [InstanceStatus.PENDING, InstanceStatus.RUNNING])
    def test_what_is_suspended_resumes_where_it_stood(self, status: InstanceStatus) -> None:
        instance = factories.make_instance("flow", status)
        factories.make_message(instance, name="event")
        before = instance.next_sequence

        control.suspend(USING, "flow")
        assert status_of("flow") == InstanceStatus.SUSPENDED
        assert Message.objects.get().held

        control.resume(USING, "flow")
        assert status_of("flow") == status
        assert not Message.objects.get().held
        assert [type(event) for event in history_of(instance)[before:]] == [
            events.ExecutionSuspendedEvent,
            events.ExecutionResumedEvent,
        ]

    def test_a_continued_execution_that_has_not_begun_is_running_again(self) -> None:
        instance = factories.make_instance("flow", InstanceStatus.PENDING)
        Instance.objects.update(status=InstanceStatus.RUNNING)
        factories.make_message(instance, MessageKind.START)
        control.suspend(USING, "flow")
        control.resume(USING, "flow")
        assert status_of("flow") == InstanceStatus.RUNNING

    @pytest.mark.parametrize("status", [*TERMINAL, InstanceStatus.SUSPENDED])
    def test_suspending_anybody_else_changes_nothing(self, status: InstanceStatus) -> None:
        instance = factories.make_instance("flow", status)
        control.suspend(USING, "flow")
        assert status_of("flow") == status
        assert len(history_of(instance)) == 1

    @pytest.mark.parametrize("status", [*TERMINAL, InstanceStatus.RUNNING, InstanceStatus.PENDING])
    def test_resuming_anybody_else_changes_nothing(self, status: InstanceStatus) -> None:
        instance = factories.make_instance("flow", status)
        before = instance.next_sequence
        control.resume(USING, "flow")
        assert status_of("flow") == status
        assert len(history_of(instance)) == before

    def test_the_missing_cannot_be_found(self) -> None:
        for operation in (control.suspend, control.resume, control.restart):
            with pytest.raises(OrchestrationNotFoundError, match="'nobody'"):
                operation(USING, "nobody")


class TestRaiseEvent:
    def test_it_puts_the_event_into_the_inbox(self) -> None:
        instance = factories.make_instance()
        control.raise_event(USING, "flow", "approval", "42")
        message = Message.objects.get()
        assert (message.instance_id, message.kind) == (instance.pk, MessageKind.EVENT)
        assert (message.name, message.data, message.attributes) == ("approval", "42", None)
        assert (message.execution_id, message.held) == (None, False)

    @pytest.mark.parametrize("status", TERMINAL)
    def test_a_terminal_instance_drops_it(self, status: InstanceStatus) -> None:
        factories.make_instance("flow", status)
        control.raise_event(USING, "flow", "approval", None)
        assert not Message.objects.exists()

    def test_the_missing_cannot_be_found(self) -> None:
        with pytest.raises(OrchestrationNotFoundError, match="'nobody'"):
            control.raise_event(USING, "nobody", "approval", None)

    @pytest.mark.django_db(transaction=True)
    def test_a_suspended_instances_event_is_held_once_it_is_committed(self) -> None:
        factories.make_instance("flow", InstanceStatus.SUSPENDED)
        control.raise_event(USING, "flow", "approval", None)
        assert Message.objects.get().held
        control.resume(USING, "flow")
        assert not Message.objects.get().held

    @pytest.mark.django_db(transaction=True)
    def test_an_event_that_a_resume_has_overtaken_is_not_held(self) -> None:
        factories.make_instance("flow", InstanceStatus.SUSPENDED)
        with transaction.atomic():
            control.raise_event(USING, "flow", "approval", None)
            Instance.objects.update(status=InstanceStatus.RUNNING)
        assert not Message.objects.get().held


class TestRestart:
    @pytest.mark.parametrize("status", TERMINAL)
    def test_the_same_id_starts_over_and_its_past_stays(self, status: InstanceStatus) -> None:
        parent = factories.make_instance("parent")
        instance = factories.make_child(
            parent,
            "flow",
            1,
            status,
            input="1",
            output="2",
            custom_status="3",
            version="1.0",
            tags={"a": "b"},
        )
        old = instance.execution_id
        factories.make_activity(instance, 1)
        factories.make_message(instance, name="event")

        assert control.restart(USING, "flow") == "flow"

        assert history_of(instance) == []
        assert instance.execution_id != old
        assert HistoryEvent.objects.filter(instance=instance, execution_id=old).count() == 1
        assert (instance.status, instance.input, instance.output) == (InstanceStatus.PENDING, "1", None)
        assert (instance.custom_status, instance.failure, instance.completed_at) == (None, None, None)
        assert (instance.version, instance.tags) == ("1.0", {"a": "b"})
        assert (instance.parent, instance.parent_execution_id, instance.parent_task_id) == (None, None, None)
        assert not ActivityTask.objects.exists()
        assert not Message.objects.exists()

    def test_a_new_id_is_a_new_instance(self) -> None:
        old = factories.make_instance("flow", InstanceStatus.FAILED, input="1", tags={"a": "b"}, priority=2)
        new_id = control.restart(USING, "flow", with_new_id=True)
        new = Instance.objects.get(instance_id=new_id)
        assert new_id != "flow"
        assert (new.status, new.name, new.input, new.tags, new.priority) == (
            InstanceStatus.PENDING,
            "flow",
            "1",
            {"a": "b"},
            2,
        )
        assert new.execution_id != old.execution_id
        assert status_of("flow") == InstanceStatus.FAILED

    @pytest.mark.parametrize("status", LIVE)
    def test_a_live_instance_is_a_conflict(self, status: InstanceStatus) -> None:
        factories.make_instance("flow", status)
        with (
            transaction.atomic(),
            pytest.raises(OrchestrationStateConflictError, match=f"'flow'.*{status.name}"),
        ):
            control.restart(USING, "flow")
        assert status_of("flow") == status


class TestPurge:
    def test_it_deletes_terminal_descendants_and_leaves_live_ones(self) -> None:
        root = factories.make_instance("root", InstanceStatus.COMPLETED)
        done = factories.make_child(root, "done", 1, InstanceStatus.FAILED)
        factories.make_child(done, "grandchild", 1, InstanceStatus.TERMINATED)
        live = factories.make_child(root, "live", 2)
        factories.make_child(live, "of the living", 1, InstanceStatus.COMPLETED)

        assert control.purge(USING, "root") == 3

        assert set(Instance.objects.values_list("instance_id", flat=True)) == {"live", "of the living"}
        assert HistoryEvent.objects.count() == 2

    def test_without_recursion_children_stay(self) -> None:
        root = factories.make_instance("root", InstanceStatus.COMPLETED)
        factories.make_child(root, "child", 1, InstanceStatus.COMPLETED)
        assert control.purge(USING, "root", recursive=False) == 1
        assert Instance.objects.get().instance_id == "child"

    @pytest.mark.parametrize("recursive", [True, False])
    @pytest.mark.parametrize("status", LIVE)
    def test_the_live_and_the_missing_are_not_deleted(self, status: InstanceStatus, recursive: bool) -> None:
        factories.make_instance("flow", status)
        assert control.purge(USING, "flow", recursive=recursive) == 0
        assert control.purge(USING, "nobody", recursive=recursive) == 0
        assert Instance.objects.exists()

    def test_filters_choose_by_creation_and_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control, "_PAGE", 2)
        for hour in range(6):
            at = NOW + timedelta(hours=hour)
            factories.make_instance(f"c{hour}", InstanceStatus.COMPLETED, at=at)
            factories.make_instance(f"f{hour}", InstanceStatus.FAILED, at=at)
            factories.make_instance(f"r{hour}", InstanceStatus.RUNNING, at=at)

        count = control.purge_by(
            USING,
            created_from=NOW + timedelta(hours=1),
            created_to=NOW + timedelta(hours=4),
            statuses=[OrchestrationStatus.COMPLETED, OrchestrationStatus.RUNNING],
        )
        assert count == 3
        left = set(Instance.objects.filter(name="flow").values_list("instance_id", flat=True))
        assert {f"c{hour}" for hour in range(6)} & left == {"c0", "c4", "c5"}

        assert control.purge_by(USING) == 3 + 6
        assert set(Instance.objects.values_list("status", flat=True)) == {InstanceStatus.RUNNING}

    def test_a_filter_of_live_statuses_alone_deletes_nothing(self) -> None:
        factories.make_instance("flow")
        assert control.purge_by(USING, statuses=[OrchestrationStatus.RUNNING]) == 0

    def test_filters_can_reach_children(self) -> None:
        root = factories.make_instance("root", InstanceStatus.COMPLETED)
        factories.make_child(root, "child", 1, InstanceStatus.COMPLETED, at=NOW + timedelta(days=1))
        assert control.purge_by(USING, created_to=NOW + timedelta(hours=1), recursive=True) == 2
