"""Critical sections in the worker: who holds a lock, who waits, and who never gets it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from django.db import connection, transaction

from durable_django import task
from durable_django.client import DurableTaskClient
from durable_django.core import events
from durable_django.entities import EntityContext, EntityInstanceId
from durable_django.models import ActivityTask, Entity, EntityOperation, InstanceStatus, Message
from durable_django.store import clock, entities, inbox
from durable_django.store.inbox import NewMessage
from tests.factories import FAILURE
from tests.worker.byhand import USING, assert_sound, elsewhere, failure, instance, output, status
from tests.worker.cast import A, B, caller, holder, make_town, start
from tests.worker.town import Town, entity, locked, signal, state, waiting

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]


@pytest.fixture
def town() -> Town:
    return make_town()


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


class TestLocks:
    def test_who_is_locked_out_waits_and_is_no_candidate(self, town: Town, client: DurableTaskClient) -> None:
        start(holder, "ab", "first")
        town.settle()
        assert locked() == ["@account@a", "@account@b"]
        start(caller, [["a", "get"]], "other")
        start(holder, "ba", "second")
        signal("account", "b", "add", 100)
        town.settle()
        assert town.entities.ready(100) == []
        assert state("account", "b") is None
        assert status("other") == InstanceStatus.RUNNING
        client.raise_orchestration_event("first", "go")
        town.settle()
        assert output("first") == "done"
        assert output("other") == [11]
        assert state("account", "b") == 111
        client.raise_orchestration_event("second", "go")
        town.settle()
        assert (state("account", "a"), state("account", "b")) == (12, 112)
        assert locked() == waiting() == []
        assert_sound("second")

    @pytest.mark.parametrize("end", ["terminate", "fail", "again", "suspended", "purge"])
    def test_every_end_releases(self, town: Town, client: DurableTaskClient, end: str) -> None:
        start(holder, "ab", "first")
        town.settle()
        match end:
            case "terminate":
                client.terminate_orchestration("first")
            case "suspended":
                client.suspend_orchestration("first")
                client.terminate_orchestration("first")
            case "purge":
                client.terminate_orchestration("first")
                client.purge_orchestration("first")
            case _:
                client.raise_orchestration_event("first", "go", data=end)
        start(holder, "ab", "second")
        town.settle()
        client.raise_orchestration_event("second", "go")
        town.settle()
        assert output("second") == "done"
        assert locked() == (["@account@z"] if end == "again" else [])
        assert waiting() == []

    @pytest.mark.parametrize("end", ["terminate", "again", "purge"])
    @pytest.mark.parametrize("keys", ["a", "ab", "ca"])
    def test_a_request_whose_owner_ended_while_it_waited_is_never_granted(
        self, town: Town, client: DurableTaskClient, end: str, keys: str
    ) -> None:
        """The owner waits for a; by then it may hold what comes before, and it has asked for nothing else."""

        def waiter(ctx: task.OrchestrationContext, wanted: str) -> Steps:
            lock = ctx.lock_entities([EntityInstanceId("account", key) for key in wanted])
            told = ctx.wait_for_external_event("go")
            winner = yield task.when_any([lock, told])
            assert winner is told
            ctx.continue_as_new("z")

        town.registry.add_orchestrator(waiter)
        start(holder, "a", "first")
        town.settle()
        start(waiter, keys, "waiter")
        town.settle()
        assert any(op.startswith("LOCK") for op in waiting())
        if end == "again":
            client.raise_orchestration_event("waiter", "go")
        else:
            client.terminate_orchestration("waiter")
        if end == "purge":
            assert client.purge_orchestration("waiter").deleted_instance_count == 1
        granted: list[Any] = []
        client.raise_orchestration_event("first", "go")
        for _ in range(20):
            town.turn()
            town.perform_all()
            granted += Entity.objects.exclude(lock_instance=instance("first")).filter(
                key__in=keys, lock_instance__isnull=False
            )
        assert output("first") == "done"
        assert granted == []
        assert waiting() == []

    def test_grants_and_answers_after_crashes(self, town: Town, client: DurableTaskClient) -> None:
        start(holder, "abc", "flow")
        for _ in range(10):
            town.turn()
            town.crash()
            town.perform_all()
        client.raise_orchestration_event("flow", "go")
        for _ in range(10):
            town.turn()
            town.crash()
            town.perform_all()
        assert output("flow") == "done"
        assert locked() == []

    def test_clean_entity_storage_leaves_live_holders_alone(
        self, town: Town, client: DurableTaskClient
    ) -> None:
        start(holder, "a", "flow")
        town.settle()
        assert client.clean_entity_storage().orphaned_locks_released == 0
        client.terminate_orchestration("flow")
        EntityOperation.objects.all().delete()
        cleaned = client.clean_entity_storage()
        assert (cleaned.orphaned_locks_released, cleaned.empty_entities_removed) == (1, 1)
        assert not Entity.objects.exists()


class TestRewind:
    def test_a_failed_call_is_made_again_under_the_locks(self, town: Town, client: DurableTaskClient) -> None:
        def transfer(ctx: task.OrchestrationContext, amount: int) -> Steps:
            with (yield ctx.lock_entities([A, B])):
                yield ctx.call_entity(A, "add", 1)
                yield ctx.call_entity(B, "spend", amount)
            return "done"

        town.registry.add_orchestrator(transfer)
        start(transfer, 20, "flow")
        town.settle()
        assert "too little" in failure("flow")["message"]
        assert locked() == []
        signal("account", "b", "add", 100)
        town.settle()
        client.rewind_orchestration("flow")
        assert waiting() == ["LOCK account a"]
        town.settle()
        assert output("flow") == "done"
        assert (state("account", "a"), state("account", "b")) == (11, 90)
        assert locked() == waiting() == []
        assert not Message.objects.exists()

    @pytest.mark.parametrize("crashes", [False, True])
    def test_nothing_of_a_section_goes_on_while_others_hold_its_locks(
        self, town: Town, client: DurableTaskClient, crashes: bool
    ) -> None:
        town.registry.add_orchestrator(fragile)
        start(fragile, "ab", "flow")
        town.settle()
        _fail_activity("flow", 2)
        town.settle()
        start(holder, "b", "other")
        town.settle()
        client.rewind_orchestration("flow")
        client.raise_orchestration_event("flow", "end")
        town.settle()
        assert waiting() == ["LOCK account b"]
        assert not ActivityTask.objects.exists()
        if crashes:
            town.crash()
        client.raise_orchestration_event("other", "go")
        town.settle()
        assert {str(entity): entity.lock_instance for entity in Entity.objects.all()} == dict.fromkeys(
            ["@account@a", "@account@b"], instance("flow")
        )
        if crashes:
            town.crash()
        assert_sound("flow")
        _complete_activity("flow", 2)
        town.settle()
        assert output("flow") == "ended"
        assert_sound("flow")
        assert locked() == waiting() == []

    def test_what_fails_again_under_its_locks_is_rewound_again(
        self, town: Town, client: DurableTaskClient
    ) -> None:
        town.registry.add_orchestrator(fragile)
        start(fragile, "ab", "flow")
        town.settle()
        for _ in range(3):
            _fail_activity("flow", 2)
            town.settle()
            assert status("flow") == InstanceStatus.FAILED
            assert locked() == waiting() == []
            client.rewind_orchestration("flow")
            town.settle()
            assert sorted(locked()) == ["@account@a", "@account@b"]
        _complete_activity("flow", 2)
        town.crash()
        town.settle()
        client.raise_orchestration_event("flow", "end")
        town.settle()
        assert output("flow") == "ended"
        assert_sound("flow")

    def test_a_rewound_one_is_terminated_while_it_waits_for_its_locks(
        self, town: Town, client: DurableTaskClient
    ) -> None:
        town.registry.add_orchestrator(fragile)
        start(fragile, "a", "flow")
        town.settle()
        _fail_activity("flow", 2)
        town.settle()
        start(holder, "a", "other")
        town.settle()
        client.rewind_orchestration("flow")
        town.settle()
        client.terminate_orchestration("flow")
        client.raise_orchestration_event("other", "go")
        town.settle()
        assert output("other") == "done"
        assert locked() == waiting() == []

    def test_children_that_want_the_same_lock_have_it_one_after_the_other(
        self, town: Town, client: DurableTaskClient
    ) -> None:
        def parent(ctx: task.OrchestrationContext, _: None) -> Steps:
            children = [ctx.call_sub_orchestrator(child, instance_id=f"child{number}") for number in (0, 1)]
            return (yield task.when_all(children))

        def child(ctx: task.OrchestrationContext, _: None) -> Steps:
            with (yield ctx.lock_entities([A])):
                yield ctx.call_activity("missing")
            return ctx.instance_id

        town.registry.add_orchestrator(parent)
        town.registry.add_orchestrator(child)
        start(parent, None, "parent")
        for _ in range(2):
            town.settle()
            (task_,) = ActivityTask.objects.select_related("instance")
            _fail_activity(task_.instance.instance_id, 2)
        town.settle()
        assert status("parent") == InstanceStatus.FAILED
        client.rewind_orchestration("parent")
        for _ in range(2):
            town.settle()
            (task_,) = ActivityTask.objects.select_related("instance")
            assert entity("account", "a").lock_instance == task_.instance
            _complete_activity(task_.instance.instance_id, 2)
        town.settle()
        assert output("parent") == ["child0", "child1"]
        assert locked() == waiting() == []

    @pytest.mark.database("postgresql", "mysql")  # On SQLite, one transaction excludes all others.
    def test_a_call_that_is_being_performed_is_taken_back(
        self, town: Town, client: DurableTaskClient
    ) -> None:
        performed: list[Any] = []

        def slow(ctx: EntityContext, amount: int) -> int:
            performed.append(amount)
            if len(performed) == 1:
                elsewhere(lambda: client.rewind_orchestration("flow"))
            ctx.set_state(ctx.get_state(int, 0) + amount)
            return ctx.get_state(int, 0)

        def both(ctx: task.OrchestrationContext, _: None) -> Steps:
            call = ctx.call_entity(EntityInstanceId("slow", "k"), "add", 5)
            yield ctx.call_activity("missing")
            return (yield call)

        town.registry.add_orchestrator(both)
        town.registry.add_entity(slow, "slow")
        start(both, None, "flow")
        town.turn()
        _fail_activity("flow", 2)
        town.turn()
        town.perform("slow", "k")
        assert performed == [5, 5]
        assert waiting() == []
        _complete_activity("flow", 2)
        town.settle()
        assert output("flow") == 5
        assert state("slow", "k") == 5

    def test_an_operation_may_rewind_who_calls_it(self, town: Town, client: DurableTaskClient) -> None:
        performed = []

        def fixer(ctx: EntityContext, _: None) -> str:
            performed.append(ctx.operation)
            if status("flow") == InstanceStatus.FAILED:
                client.rewind_orchestration("flow")
            return "fixed"

        def flow(ctx: task.OrchestrationContext, _: None) -> Steps:
            call = ctx.call_entity(EntityInstanceId("fixer", "k"), "go")
            yield ctx.call_activity("missing")
            return (yield call)

        town.registry.add_orchestrator(flow)
        town.registry.add_entity(fixer, "fixer")
        start(flow, None, "flow")
        town.turn()
        _fail_activity("flow", 2)
        town.turn()
        town.settle()
        _complete_activity("flow", 2)
        town.settle()
        assert output("flow") == "fixed"
        assert len(performed) == 3  # Once more to find out that it was itself, and once for the new call.
        assert waiting() == []

    def test_a_grant_that_the_code_has_not_seen_is_worth_nothing(
        self, town: Town, client: DurableTaskClient
    ) -> None:
        def waiter(ctx: task.OrchestrationContext, _: None) -> Steps:
            lock = ctx.lock_entities([A])
            yield ctx.call_activity("missing")
            with (yield lock):
                return (yield ctx.call_entity(A, "get"))

        town.registry.add_orchestrator(waiter)
        start(waiter, None, "flow")
        town.turn()
        town.perform("account", "a")
        grant = Message.objects.get()
        grant.delete()
        _fail_activity("flow", 2)
        town.turn()
        assert status("flow") == InstanceStatus.FAILED
        grant.save()  # It was under way when the orchestration failed.
        client.rewind_orchestration("flow")
        assert waiting() == ["RELEASE account a", "LOCK account a"]
        _complete_activity("flow", 2)
        town.turn()
        assert status("flow") == InstanceStatus.RUNNING
        town.settle()
        assert output("flow") == 10
        assert locked() == waiting() == []

    def test_what_waits_for_a_lock_asks_again(self, town: Town, client: DurableTaskClient) -> None:
        def waiter(ctx: task.OrchestrationContext, _: None) -> Steps:
            lock = ctx.lock_entities([A, B])
            yield ctx.call_activity("missing")
            with (yield lock):
                return "held"

        town.registry.add_orchestrator(waiter)
        start(holder, "b", "first")
        town.settle()
        start(waiter, None, "waiter")
        town.settle()
        assert sorted(locked()) == ["@account@a", "@account@b"]
        _fail_activity("waiter", 2)
        town.settle()
        assert locked() == ["@account@b"]
        client.rewind_orchestration("waiter")
        town.settle()
        assert sorted(locked()) == ["@account@a", "@account@b"]
        client.raise_orchestration_event("first", "go")
        town.settle()
        assert instance("waiter").execution_id == Entity.objects.get(key="b").lock_execution_id
        _complete_activity("waiter", 2)
        town.settle()
        assert output("waiter") == "held"
        assert locked() == waiting() == []

    def test_a_call_that_waits_is_made_once(self, town: Town, client: DurableTaskClient) -> None:
        def both(ctx: task.OrchestrationContext, _: None) -> Steps:
            call = ctx.call_entity(A, "add", 5)
            yield ctx.call_activity("missing")
            return (yield call)

        town.registry.add_orchestrator(both)
        start(both, None, "flow")
        town.turn()
        _fail_activity("flow", 2)
        town.turn()
        assert status("flow") == InstanceStatus.FAILED
        client.rewind_orchestration("flow")
        assert waiting() == ["CALL account a"]
        _complete_activity("flow", 2)
        town.settle()
        assert output("flow") == 15
        assert state("account", "a") == 15


@pytest.mark.database("postgresql", "mysql")  # On SQLite, one transaction excludes all others.
def test_an_entity_that_performs_holds_up_no_neighbour_that_comes_again() -> None:
    """InnoDB looks for duplicates of a deleted name up to the next one in the index, and waits for that."""
    now = clock.now()
    for address in (("counter", "one"), ("slow", "sloth")):
        entities.create(USING, address, now)

    with transaction.atomic(), connection.cursor() as cursor:
        assert entities.lock(cursor, ("slow", "sloth"))
        for _ in range(20):
            assert elsewhere(lambda: entities.delete(USING, ("counter", "one")))
            elsewhere(lambda: entities.create(USING, ("counter", "one"), now))


def fragile(ctx: task.OrchestrationContext, keys: str) -> Steps:
    with (yield ctx.lock_entities([EntityInstanceId("account", key) for key in keys])):
        yield ctx.call_activity("missing")
    yield ctx.wait_for_external_event("end")
    return "ended"


def _fail_activity(instance_id: str, task_id: int) -> None:
    _answer(instance_id, task_id, events.TaskFailedEvent(-1, clock.now(), task_id, FAILURE))


def _complete_activity(instance_id: str, task_id: int) -> None:
    _answer(instance_id, task_id, events.TaskCompletedEvent(-1, clock.now(), task_id))


def _answer(instance_id: str, task_id: int, event: events.HistoryEvent) -> None:
    owner = instance(instance_id)
    assert ActivityTask.objects.filter(instance=owner, task_id=task_id).delete()[0] == 1
    with transaction.atomic(), connection.cursor() as cursor:
        inbox.add(cursor, [NewMessage(owner.pk, event, owner.execution_id)], clock.now())
