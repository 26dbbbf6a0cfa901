from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from durable_django import orchestrator
from durable_django.client import (
    AsyncDurableTaskClient,
    DurableTaskClient,
    OrchestrationAlreadyExistsError,
    OrchestrationIdReusePolicy,
    OrchestrationStatus,
)
from durable_django.core.errors import PayloadError
from durable_django.models import HistoryEvent, Instance, InstanceStatus, Message, MessageKind
from durable_django.store import clock, instances, wakeup
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

MANY = 20_000
FINISHED = OrchestrationIdReusePolicy([OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED])


@orchestrator(name="tests.client.bulk", queue="slow", priority=3)
def declared(ctx: Any, _: Any) -> None:
    """Do nothing, in a queue of its own."""


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


def ids(*statuses: InstanceStatus) -> set[str]:
    found = Instance.objects.filter(status__in=statuses) if statuses else Instance.objects.all()
    return set(found.values_list("instance_id", flat=True))


def run_together(*functions: Callable[[], object]) -> None:
    """Run functions in threads, begin them at the same moment, and wait until all have ended."""
    ready = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        try:
            connection.ensure_connection()
            ready.wait(10)
            function()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[function]) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


class TestWhatIsStarted:
    def test_each_input_is_a_pending_row_and_ids_come_in_order(self, client: DurableTaskClient) -> None:
        with clock.frozen(NOW):
            started = client.schedule_new_orchestrations(
                declared,
                ({"n": number} for number in range(40)),
                start_at=NOW + timedelta(hours=1),
                version="2",
                tags={"team": "blue", "quote": "it's \"\\{}"},
            )

        assert len(set(started)) == 40
        assert {len(instance_id) for instance_id in started} == {32}
        by_id = Instance.objects.in_bulk(started, field_name="instance_id")
        for number, instance_id in enumerate(started):
            found = by_id[instance_id]
            assert found.input == f'{{"n": {number}}}'
            assert (found.name, found.version, found.queue, found.priority) == (
                "tests.client.bulk",
                "2",
                "slow",
                3,
            )
            assert (found.status, found.waiting_for) == (InstanceStatus.PENDING, [])
            assert found.tags == {"team": "blue", "quote": "it's \"\\{}"}
            assert (found.parent, found.parent_execution_id, found.parent_task_id) == (None, None, None)
            assert clock.from_orm(found.start_at) == NOW + timedelta(hours=1)
            assert clock.from_orm(found.created_at) == clock.from_orm(found.last_updated_at) == NOW
            assert (found.next_sequence, found.turn, found.tries) == (0, 0, 0)
        assert len({found.execution_id for found in by_id.values()}) == 40

    def test_without_ids_they_are_to_start_in_the_order_of_their_inputs(
        self, client: DurableTaskClient
    ) -> None:
        started = client.schedule_new_orchestrations("flow", range(50))
        assert list(Instance.objects.order_by("pk").values_list("instance_id", flat=True)) == started

    def test_given_ids_go_with_their_inputs(self, client: DurableTaskClient) -> None:
        wanted = ["c", "a", "b"]
        assert client.schedule_new_orchestrations("flow", [1, 2, 3], instance_ids=iter(wanted)) == wanted
        assert dict(Instance.objects.values_list("instance_id", "input")) == {"c": "1", "a": "2", "b": "3"}

    @pytest.mark.parametrize("size", [1, 2, 17])
    def test_what_is_not_given_is_as_with_a_single_start(self, client: DurableTaskClient, size: int) -> None:
        values = ("name", "version", "queue", "priority", "status", "input", "tags", "waiting_for")
        client.schedule_new_orchestration(declared, instance_id="single")
        bulk = client.schedule_new_orchestrations(declared, [None] * size)
        single = Instance.objects.values(*values).get(instance_id="single")
        assert list(Instance.objects.filter(instance_id__in=bulk).values(*values)) == [single] * size

    def test_text_arrives_as_it_is(self, client: DurableTaskClient) -> None:
        texts = ['{"a", NULL}', "back\\slash", "it's", "100%s", "ä€𝄞", "", "NULL", None, "\n\t\x7f"]
        started = client.schedule_new_orchestrations("flow", texts)
        states = [client.get_orchestration_state(instance_id) for instance_id in started]
        assert [state and state.get_input() for state in states] == texts

    def test_nothing_to_start_takes_no_query(self, client: DurableTaskClient) -> None:
        with CaptureQueriesContext(connection) as queries:
            assert client.schedule_new_orchestrations("flow", iter(())) == []
            assert client.schedule_new_orchestrations("flow", [], instance_ids=[]) == []
        assert len(queries) == 0

    @pytest.mark.parametrize("given", [True, False])
    def test_as_many_as_one_likes(self, client: DurableTaskClient, given: bool) -> None:
        wanted = [f"order-{number}" for number in range(MANY)]
        started = client.schedule_new_orchestrations(
            "flow", range(MANY), instance_ids=wanted if given else None
        )
        assert len(set(started)) == MANY
        assert not given or started == wanted
        assert dict(Instance.objects.values_list("instance_id", "input")) == dict(
            zip(started, map(str, range(MANY)), strict=True)
        )

    @pytest.mark.database("postgresql", "sqlite")
    def test_a_thousand_take_a_few_statements(self, client: DurableTaskClient) -> None:
        with CaptureQueriesContext(connection) as queries:
            client.schedule_new_orchestrations("flow", range(1000))
        statements = [query["sql"].split()[0] for query in queries]
        assert statements == ["SAVEPOINT", "INSERT", "INSERT", "RELEASE"]

    def test_large_inputs_are_spread_over_statements(
        self, client: DurableTaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(instances, "BATCH_CHARACTERS", 100)
        texts = ["x" * 40, "x" * 40, "x" * 40, "x" * 200, "", "x" * 40]
        with CaptureQueriesContext(connection) as queries:
            client.schedule_new_orchestrations("flow", texts)
        assert sum(query["sql"].startswith("INSERT") for query in queries) == 4
        assert Counter(Instance.objects.values_list("input", flat=True)) == Counter(f'"{t}"' for t in texts)


class TestBadArguments:
    @pytest.mark.parametrize(
        ("inputs", "arguments", "error", "words"),
        [
            ([1, 2, {"rows": [object()]}], {}, TypeError, r"inputs\[2\]"),
            ([1, "a\x00b"], {}, PayloadError, r"inputs\[1\]"),
            ([1, "\ud800"], {}, PayloadError, r"inputs\[1\]"),
            ("text", {}, TypeError, "inputs must be an iterable .* not str"),
            ({"a": 1}, {}, TypeError, "inputs must be an iterable .* not dict"),
            (None, {}, TypeError, "inputs must be an iterable .* not NoneType"),
            ([1, 2], {"instance_ids": "ab"}, TypeError, "instance_ids must be an iterable"),
            ([1, 2], {"instance_ids": ["a"]}, ValueError, "only 1 for 2 inputs"),
            ([1, 2], {"instance_ids": ["a", "b", "c"]}, ValueError, "more for 2 inputs"),
            ([1, 2], {"instance_ids": (f"i{number}" for number in count())}, ValueError, "more for 2"),
            ([1, 2], {"instance_ids": ["a", ""]}, ValueError, r"instance_ids\[1\] must not be empty"),
            ([1, 2], {"instance_ids": ["a", None]}, ValueError, r"instance_ids\[1\] must be a str"),
            ([1, 2], {"instance_ids": ["@a", "b"]}, ValueError, r"instance_ids\[0\] must not start"),
            ([1, 2], {"instance_ids": ["a", "b\x00"]}, ValueError, r"instance_ids\[1\] contains U\+0000"),
            ([1], {"tags": {"a": 1}}, TypeError, "'a': 1"),
            ([1], {"start_at": 5}, TypeError, "start_at"),
            ([1], {"queue": ""}, ValueError, "queue"),
            ([], {"priority": 40_000}, ValueError, "priority"),
            ([], {"version": "v" * 256}, ValueError, "version"),
            ([], {"reuse_id_policy": "FAILED"}, TypeError, "reuse_id_policy must be an Orch"),
        ],
    )
    def test_they_are_named_before_anything_is_written(
        self,
        client: DurableTaskClient,
        inputs: Iterable[Any],
        arguments: dict[str, Any],
        error: type[Exception],
        words: str,
    ) -> None:
        with CaptureQueriesContext(connection) as queries, pytest.raises(error, match=words):
            client.schedule_new_orchestrations("flow", inputs, **arguments)
        assert len(queries) == 0

    @override_settings(DURABLE_DJANGO={"MAX_PAYLOAD_BYTES": 10})
    def test_a_large_input(self, client: DurableTaskClient) -> None:
        with pytest.raises(PayloadError, match=r"inputs\[1\] of orchestrator 'flow': it takes 12 bytes"):
            client.schedule_new_orchestrations("flow", ["x", "x" * 10])
        assert not Instance.objects.exists()

    def test_an_exception_of_the_inputs_own(self, client: DurableTaskClient) -> None:
        def inputs() -> Iterable[int]:
            yield 1
            raise LookupError("no more")

        with pytest.raises(LookupError, match="no more"):
            client.schedule_new_orchestrations("flow", inputs())
        assert not Instance.objects.exists()


class TestTakenIds:
    @pytest.mark.parametrize("policy", [None, FINISHED])
    def test_one_taken_id_stops_all_and_the_transaction_goes_on(
        self, client: DurableTaskClient, policy: OrchestrationIdReusePolicy | None
    ) -> None:
        factories.make_instance("m", InstanceStatus.RUNNING)
        with transaction.atomic():
            with pytest.raises(OrchestrationAlreadyExistsError, match=r"There is an .* 'm' already"):
                client.schedule_new_orchestrations(
                    "flow", [1, 2, 3], instance_ids=["a", "m", "z"], reuse_id_policy=policy
                )
            client.schedule_new_orchestration("flow", instance_id="free")
        assert ids() == {"m", "free"}

    def test_all_taken_ids_are_named_up_to_ten(self, client: DurableTaskClient) -> None:
        taken = [f"t{number:02}" for number in range(12)]
        client.schedule_new_orchestrations("flow", taken, instance_ids=taken)
        with pytest.raises(OrchestrationAlreadyExistsError) as refused:
            client.schedule_new_orchestrations("flow", taken, instance_ids=taken)
        assert "'t00', 't01'" in str(refused.value)
        assert "'t09' and 2 more already" in str(refused.value)
        assert "t10" not in str(refused.value)

    def test_an_id_given_twice_is_named(self, client: DurableTaskClient) -> None:
        with pytest.raises(OrchestrationAlreadyExistsError, match="'b' more than once"):
            client.schedule_new_orchestrations("flow", [1, 2, 3], instance_ids=["a", "b", "b"])
        assert not Instance.objects.exists()

    @pytest.mark.parametrize("status", list(InstanceStatus))
    def test_holders_that_the_policy_lists_are_replaced(
        self, client: DurableTaskClient, status: InstanceStatus
    ) -> None:
        parent = factories.make_instance("parent")
        old = [factories.make_child(parent, name, 1 + at, status) for at, name in enumerate(("b", "a"))]
        factories.make_child(old[0], "child", 1)
        policy = OrchestrationIdReusePolicy([OrchestrationStatus(status.value)])

        client.schedule_new_orchestrations(
            "flow", [1, 2, 3], instance_ids=["a", "new", "b"], reuse_id_policy=policy
        )

        replaced = Instance.objects.filter(instance_id__in=["a", "b"])
        assert dict(replaced.values_list("instance_id", "input")) == {"a": "1", "b": "3"}
        assert set(replaced.values_list("status", "parent")) == {(InstanceStatus.PENDING, None)}
        assert not HistoryEvent.objects.filter(instance_id__in=[one.pk for one in old]).exists()
        was_live = status not in factories.TERMINAL
        told = Message.objects.filter(instance=parent, kind=MessageKind.CHILD_FAILED)
        assert told.count() == (2 if was_live else 0)
        child = Instance.objects.get(instance_id="child")
        assert child.status == (InstanceStatus.TERMINATED if was_live else InstanceStatus.RUNNING)

    def test_where_one_holder_stays_none_is_replaced(self, client: DurableTaskClient) -> None:
        factories.make_instance("done", InstanceStatus.COMPLETED)
        factories.make_instance("live", InstanceStatus.RUNNING)
        with pytest.raises(OrchestrationAlreadyExistsError, match="'live'") as refused:
            client.schedule_new_orchestrations(
                "flow", [1, 2, 3], instance_ids=["done", "live", "new"], reuse_id_policy=FINISHED
            )
        assert "'done'" not in str(refused.value)
        assert (ids(InstanceStatus.COMPLETED), ids(InstanceStatus.RUNNING)) == ({"done"}, {"live"})
        assert ids() == {"done", "live"}


class TestTransactions:
    def test_they_belong_to_the_callers_transaction(self, client: DurableTaskClient) -> None:
        with transaction.atomic():
            client.schedule_new_orchestrations("flow", range(20))
            transaction.set_rollback(True)
        assert not Instance.objects.exists()

    def test_a_savepoint_takes_them_back(self, client: DurableTaskClient) -> None:
        with transaction.atomic():
            client.schedule_new_orchestrations("flow", [1, 2], instance_ids=["a", "b"])
            with transaction.atomic():
                client.schedule_new_orchestrations("flow", [1, 2], instance_ids=["c", "d"])
                transaction.set_rollback(True)
        assert ids() == {"a", "b"}

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql", "mysql")
    def test_calls_with_the_same_ids_in_opposite_order_do_not_block_each_other(
        self, client: DurableTaskClient
    ) -> None:
        names = [f"i{number:04}" for number in range(1200)]
        outcomes: list[str] = []

        def start(wanted: list[str], inputs: str) -> None:
            try:
                client.schedule_new_orchestrations("flow", [inputs] * len(wanted), instance_ids=wanted)
                outcomes.append(inputs)
            except OrchestrationAlreadyExistsError:
                outcomes.append("refused")

        for _ in range(3):
            Instance.objects.all().delete()
            outcomes.clear()
            run_together(
                lambda: start(names, "up"),
                lambda: start(names[::-1], "down"),
                lambda: start(names[600:], "half"),
            )
            assert sorted(outcomes).count("refused") == 2
            (winner,) = set(outcomes) - {"refused"}
            assert Instance.objects.count() == (600 if winner == "half" else 1200)
            assert set(Instance.objects.values_list("input", flat=True)) == {f'"{winner}"'}

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql", "mysql")
    def test_replacements_of_the_same_ids_in_opposite_order_do_not_block_each_other(
        self, client: DurableTaskClient
    ) -> None:
        names = [f"i{number:03}" for number in range(100)]
        client.schedule_new_orchestrations("flow", names, instance_ids=names)
        Instance.objects.update(status=InstanceStatus.COMPLETED)
        outcomes: list[str] = []

        def start(wanted: list[str]) -> None:
            try:
                client.schedule_new_orchestrations(
                    "flow", wanted, instance_ids=wanted, reuse_id_policy=FINISHED
                )
                outcomes.append("started")
            except OrchestrationAlreadyExistsError:
                outcomes.append("refused")

        run_together(lambda: start(names), lambda: start(names[::-1]), lambda: start(names[50:]))
        assert "started" in outcomes
        assert len(outcomes) == 3
        assert Instance.objects.count() == 100


@pytest.mark.django_db(transaction=True)
class TestWakeUps:
    @pytest.mark.parametrize("listen", [True, False])
    def test_a_worker_of_this_process_wakes_once(self, client: DurableTaskClient, listen: bool) -> None:
        calls: list[int] = []
        with (
            override_settings(DURABLE_DJANGO={"LISTEN": listen}),
            wakeup.hub(DEFAULT_DB_ALIAS).worker(lambda: None, lambda: calls.append(1), listen=False),
        ):
            client.schedule_new_orchestration("flow")
            assert calls == [1]
            with transaction.atomic():
                client.schedule_new_orchestrations("flow", range(1000))
                assert calls == [1]
            assert calls == [1, 1]

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("single", [True, False])
    def test_a_worker_of_another_process_wakes(self, client: DurableTaskClient, single: bool) -> None:
        elsewhere = wakeup.Hub(DEFAULT_DB_ALIAS)
        woken, listening = threading.Event(), threading.Event()

        def wake() -> None:
            # The first call says that the listener is there.
            (woken if listening.is_set() else listening).set()

        with elsewhere.worker(wake, wake, listen=True):
            assert listening.wait(10)
            if single:
                client.schedule_new_orchestration("flow")
            else:
                client.schedule_new_orchestrations("flow", range(3))
            assert woken.wait(10)
        elsewhere.close()

    @pytest.mark.database("postgresql")
    def test_all_are_announced_at_once(self, client: DurableTaskClient) -> None:
        with CaptureQueriesContext(connection) as queries:
            client.schedule_new_orchestrations("flow", range(1200))
        assert sum("NOTIFY" in query["sql"].upper() for query in queries) == 1


@pytest.mark.django_db(transaction=True)
def test_the_same_awaited() -> None:
    async def run() -> list[str]:
        try:
            client = AsyncDurableTaskClient()
            started = await client.schedule_new_orchestrations(
                "flow", (number for number in range(3)), instance_ids=["a", "b", "c"]
            )
            with pytest.raises(OrchestrationAlreadyExistsError, match="'b'"):
                await client.schedule_new_orchestrations("flow", [1, 2], instance_ids=["b", "d"])
            return started
        finally:
            await sync_to_async(connections.close_all)()

    assert asyncio.run(run()) == ["a", "b", "c"]
    assert ids() == {"a", "b", "c"}
