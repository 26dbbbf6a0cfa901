"""What orchestrations may rely on, through the public API, with a real worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, connections, transaction
from django.test import override_settings

from durable_django import task
from durable_django.client import (
    AsyncDurableTaskClient,
    DurableTaskError,
    OrchestrationAlreadyExistsError,
    OrchestrationFailedError,
    OrchestrationState,
    OrchestrationStatus,
)
from durable_django.history import (
    EventRaisedEvent,
    ExecutionStartedEvent,
    SubOrchestrationInstanceCreatedEvent,
    TaskCompletedEvent,
    TaskFailedEvent,
    TaskScheduledEvent,
    TimerCreatedEvent,
)
from durable_django.serialization import DataConverter, JsonDataConverter
from durable_django.task import RetryPolicy
from durable_django.worker import DatabaseAccessError
from tests.acceptance.conftest import TIMEOUT, Stage, eventually, listener

Context = task.OrchestrationContext
Steps = Generator[Any, Any, Any]

COMPLETED = OrchestrationStatus.COMPLETED
FAILED = OrchestrationStatus.FAILED
RUNNING = OrchestrationStatus.RUNNING
QUICKLY = timedelta(milliseconds=10)


def echo(ctx: task.ActivityContext, value: Any) -> Any:
    return value


def boom(ctx: task.ActivityContext, message: str) -> None:
    raise ValueError(message)


def failure(state: OrchestrationState) -> task.FailureDetails:
    assert state.runtime_status is FAILED, state
    assert state.failure_details is not None
    return state.failure_details


def left_open() -> bool:
    """Close the connection of the thread that event loops use, and tell whether there was one."""

    def close() -> bool:
        is_open = connection.connection is not None
        connections.close_all()
        return is_open

    return asyncio.run(sync_to_async(close)())


class TestTasks:
    def test_the_context(self, stage: Stage) -> None:
        def introspect(ctx: task.ActivityContext, _: None) -> list[Any]:
            return [ctx.orchestration_id, ctx.task_id]

        def child(ctx: Context, _: None) -> Any:
            return [ctx.instance_id, ctx.parent_instance_id]

        def parent(ctx: Context, _: None) -> Steps:
            assert ctx.current_utc_datetime.tzinfo is None
            activity = yield ctx.call_activity(introspect)
            child = yield ctx.call_sub_orchestrator("child")
            return [ctx.instance_id, ctx.parent_instance_id, activity, child]

        stage.worker([parent, child], [introspect])
        assert stage.output(stage.start(parent, instance_id="p")) == [
            "p",
            None,
            ["p", 1],
            ["p:0002", "p"],
        ]

    def test_an_activity_fails(self, stage: Stage) -> None:
        def careful(ctx: Context, _: None) -> Steps:
            try:
                yield ctx.call_activity(boom, input="first")
            except task.TaskFailedError as error:
                return error.details.is_caused_by(ValueError), str(error)

        def careless(ctx: Context, _: None) -> Steps:
            yield ctx.call_activity(boom, input="second")

        stage.worker([careful, careless], [boom])
        output = stage.output(stage.start(careful, instance_id="c"))
        assert output == [True, "c: Activity task #1 failed: first"]
        state = stage.run(careless, instance_id="d")
        details = failure(state)
        assert details.message == "d: Activity task #1 failed: second"
        assert details.is_caused_by(task.TaskFailedError)
        assert "yield ctx.call_activity(boom" in (details.stack_trace or "")
        with pytest.raises(OrchestrationFailedError, match="second"):
            state.raise_if_failed()

    def test_retries(self, stage: Stage) -> None:
        attempts: list[int] = []

        def flaky(ctx: task.ActivityContext, limit: int) -> int:
            attempts.append(ctx.task_id)
            if len(attempts) < limit:
                raise ConnectionError("away")
            return len(attempts)

        def patient(ctx: Context, limit: int) -> Steps:
            policy = RetryPolicy(first_retry_interval=QUICKLY, max_number_of_attempts=3)
            return (yield ctx.call_activity(flaky, input=limit, retry_policy=policy, tags={"k": "v"}))

        stage.worker([patient], [flaky])
        instance_id = stage.start(patient, 3)
        assert stage.output(instance_id) == 3
        assert attempts == [1, 1, 1]
        scheduled = [e for e in stage.history(instance_id) if isinstance(e, TaskScheduledEvent)]
        assert [(event.event_id, event.tags) for event in scheduled] == [(1, {"k": "v"})] * 3
        attempts.clear()
        assert failure(stage.run(patient, 9)).is_caused_by(task.TaskFailedError)
        assert len(attempts) == 3

    def test_async_orchestrators_and_activities(self, stage: Stage) -> None:
        running: set[int] = set()
        most: list[int] = []

        async def meet(ctx: task.ActivityContext, number: int) -> int:
            running.add(number)
            while len(running) < 3 and not most:
                await asyncio.sleep(0)
            most.append(len(running))
            return number

        async def save(ctx: task.ActivityContext, name: str) -> int:
            group = await Group.objects.acreate(name=name)
            return group.pk

        async def party(ctx: Context, _: None) -> Any:
            numbers = await task.when_all([ctx.call_activity(meet, input=n) for n in range(3)])
            await ctx.create_timer(QUICKLY)
            try:
                await ctx.call_activity(boom, input="no")
            except task.TaskFailedError:
                numbers.append(await ctx.call_activity(save, input="guests"))
            return numbers

        stage.worker([party], [meet, boom, save])
        *numbers, pk = stage.output(stage.start(party))
        assert numbers == [0, 1, 2]
        assert most[0] == 3
        assert Group.objects.get().pk == pk
        left_open()

    def test_async_activities_leave_no_connection_open(self, stage: Stage) -> None:
        async def save(ctx: task.ActivityContext, name: str) -> int:
            return (await Group.objects.acreate(name=name)).pk

        def saver(ctx: Context, _: None) -> Steps:
            return (yield ctx.call_activity(save, input="guests"))

        worker = stage.worker([saver], [save])
        assert stage.output(stage.start(saver)) == Group.objects.get().pk
        worker.stop()
        assert not left_open()

    def test_composites(self, stage: Stage) -> None:
        def nested(ctx: Context, _: None) -> Steps:
            a, b, c = (ctx.call_activity(echo, input=letter) for letter in "abc")
            slow = ctx.create_timer(timedelta(days=1))
            winner = yield task.when_any([slow, task.when_all([a, task.when_all([b, c])])])
            assert not slow.is_complete
            slow.cancel()
            empty = yield task.when_all([])
            mixed = task.when_all([ctx.call_activity(boom, input="x"), ctx.call_activity(echo, input=1)])
            try:
                yield mixed
            except task.TaskFailedError as error:
                return [winner.get_result(), empty, error.details.message, a.get_result()]

        stage.worker([nested], [echo, boom])
        assert stage.output(stage.start(nested)) == [["a", ["b", "c"]], [], "x", "a"]

    def test_timers_take_datetimes_of_any_zone(self, stage: Stage) -> None:
        def sleeper(ctx: Context, _: None) -> Steps:
            yield ctx.create_timer(ctx.current_utc_datetime.replace(tzinfo=UTC))
            yield ctx.create_timer(datetime(2000, 1, 1))
            yield ctx.create_timer(QUICKLY)
            return "up"

        stage.worker([sleeper])
        assert stage.output(stage.start(sleeper)) == "up"

    def test_uuids_and_logs_are_safe_in_replays(self, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("tests.replay")

        def logging_one(ctx: Context, _: None) -> Steps:
            ctx.create_replay_safe_logger(logger).warning("before the event")
            ids = [ctx.new_uuid(), ctx.new_uuid()]
            yield ctx.wait_for_external_event("go")
            return ids

        worker = stage.worker([logging_one])
        instance_id = stage.start(logging_one)
        stage.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)
        worker.stop()
        worker.start()  # It knows nothing any more, and replays.
        stage.client.raise_orchestration_event(instance_id, "go")
        first, second = stage.output(instance_id)
        assert first != second
        assert [record.message for record in caplog.records].count("before the event") == 1

    def test_what_is_not_waited_for_is_done_all_the_same(self, stage: Stage) -> None:
        done: list[str] = []

        def note(ctx: task.ActivityContext, what: str) -> None:
            done.append(what)

        def hasty(ctx: Context, _: None) -> str:
            ctx.call_activity(note, input="later")
            return "gone"

        stage.worker([hasty], [note])
        assert stage.output(stage.start(hasty)) == "gone"
        eventually(lambda: done == ["later"])


class TestEvents:
    def test_they_are_buffered_in_order_whatever_their_case(self, stage: Stage) -> None:
        def collector(ctx: Context, _: None) -> Steps:
            yield ctx.wait_for_external_event("go")
            waits = [ctx.wait_for_external_event("NUMBER") for _ in range(2)]
            return [*(yield task.when_all(waits)), (yield ctx.wait_for_external_event("nuMBer"))]

        stage.worker([collector])
        instance_id = stage.start(collector)
        for number in range(3):
            stage.client.raise_orchestration_event(instance_id, "number", data=number)
        stage.client.raise_orchestration_event(instance_id, "Go")
        assert stage.output(instance_id) == [0, 1, 2]

    def test_a_cancelled_wait_takes_nothing(self, stage: Stage) -> None:
        def choosy(ctx: Context, _: None) -> Steps:
            first = ctx.wait_for_external_event("x")
            second = ctx.wait_for_external_event("x")
            assert first.cancel()
            return (yield second)

        stage.worker([choosy])
        instance_id = stage.start(choosy)
        stage.client.raise_orchestration_event(instance_id, "x", data=1)
        assert stage.output(instance_id) == 1

    def test_send_event(self, stage: Stage) -> None:
        def sender(ctx: Context, target: str) -> Steps:
            with pytest.raises(ValueError, match="blank"):
                ctx.send_event(" ", "news")
            with pytest.raises(ValueError, match="blank"):
                ctx.send_event(target, "")
            with pytest.raises(ValueError, match="entit"):
                ctx.send_event("@counter@a", "news")
            ctx.send_event("nobody", "news", data=0)
            ctx.send_event(target, "news", data={"n": 1})
            yield ctx.create_timer(timedelta(0))
            return "sent"

        stage.worker([listener, sender])
        target = stage.start(listener, "news")
        assert stage.output(stage.start(sender, target)) == "sent"
        assert stage.output(target) == {"n": 1}

    def test_continue_as_new_saves_events(self, stage: Stage) -> None:
        def eater(ctx: Context, eaten: list[int]) -> Steps:
            eaten = [*eaten, (yield ctx.wait_for_external_event("food"))]
            if len(eaten) == 3:
                return eaten
            ctx.continue_as_new(eaten, save_events=True)

        stage.worker([eater])
        instance_id = stage.start(eater, [])
        with transaction.atomic():  # All are there before the first is taken.
            for number in range(3):
                stage.client.raise_orchestration_event(instance_id, "food", data=number)
        assert stage.output(instance_id) == [0, 1, 2]
        assert stage.state(instance_id).get_input() == [0, 1]
        (started,) = (e for e in stage.history(instance_id) if isinstance(e, ExecutionStartedEvent))
        assert started.input == "[0, 1]"

    def test_continue_as_new_without_saving_drops_what_was_unclaimed(self, stage: Stage) -> None:
        def eater(ctx: Context, round_number: int) -> Steps:
            food = yield ctx.wait_for_external_event("food")
            yield ctx.wait_for_external_event("next")
            if round_number == 0:
                ctx.continue_as_new(1)
                return None
            return food

        stage.worker([eater])
        instance_id = stage.start(eater, 0)
        for name, data in (("food", "old"), ("food", "old"), ("next", None)):
            stage.client.raise_orchestration_event(instance_id, name, data=data)
        eventually(lambda: stage.has_input(instance_id, 1))
        stage.client.raise_orchestration_event(instance_id, "food", data="new")
        stage.client.raise_orchestration_event(instance_id, "next")
        assert stage.output(instance_id) == "new"


@dataclass
class Order:
    product: str
    quantity: int
    due: datetime | None = None


class Receipt(NamedTuple):
    number: int
    order: Order


class TestPayloads:
    def test_they_have_the_types_that_the_code_says(self, stage: Stage) -> None:
        def receive(ctx: task.ActivityContext, order: Order) -> Receipt:
            assert isinstance(order, Order), order
            assert isinstance(order.due, datetime), order
            return Receipt(7, order)

        def buy(ctx: Context, orders: list[Order]) -> Steps:
            assert all(isinstance(order, Order) for order in orders)
            receipt = yield ctx.call_activity(receive, input=orders[0])
            assert isinstance(receipt, Receipt), receipt
            assert isinstance(receipt.order, Order), receipt
            plain = yield ctx.call_activity("receive", input=orders[0])
            assert plain.number == 7, plain
            typed = yield ctx.call_activity("receive", input=orders[0], return_type=Receipt)
            assert isinstance(typed, Receipt), typed
            event = yield ctx.wait_for_external_event("more", data_type=Order)
            assert isinstance(event, Order), event
            loose = yield ctx.wait_for_external_event("more")
            assert loose.product == loose["product"] == "milk"
            return receipt.order

        stage.worker([buy], [receive])
        instance_id = stage.start(buy, [Order("tea", 2, datetime(2026, 1, 2))])
        for _ in range(2):
            stage.client.raise_orchestration_event(instance_id, "more", data=Order("milk", 1))
        state = stage.end(instance_id)
        assert state.failure_details is None, state.failure_details
        assert state.get_output(Order) == Order("tea", 2, datetime(2026, 1, 2))

    def test_custom_status(self, stage: Stage) -> None:
        def reporter(ctx: Context, _: None) -> Steps:
            ctx.set_custom_status({"percent": 50})
            yield ctx.wait_for_external_event("go")
            ctx.set_custom_status(None)
            yield ctx.wait_for_external_event("go")

        stage.worker([reporter])
        instance_id = stage.start(reporter)
        state = stage.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)
        assert state.get_custom_status() == {"percent": 50}
        stage.client.raise_orchestration_event(instance_id, "go")
        eventually(lambda: stage.state(instance_id).serialized_custom_status is None)
        stage.client.raise_orchestration_event(instance_id, "go")
        assert stage.end(instance_id).runtime_status is COMPLETED

    def test_an_activity_result_that_cannot_be_written(self, stage: Stage) -> None:
        def unwritable(ctx: task.ActivityContext, _: None) -> Any:
            return {"handle": object()}

        def caller(ctx: Context, _: None) -> Steps:
            try:
                yield ctx.call_activity(unwritable)
            except task.TaskFailedError as error:
                return error.details.error_type, error.details.message

        stage.worker([caller], [unwritable])
        error_type, message = stage.output(stage.start(caller))
        assert error_type == "builtins.TypeError"
        assert "object" in message

    def test_an_orchestration_result_that_cannot_be_written(self, stage: Stage) -> None:
        def unwritable(ctx: Context, _: None) -> Any:
            return {"handle": object()}

        stage.worker([unwritable])
        details = failure(stage.run(unwritable))
        assert details.is_caused_by(TypeError)
        assert "object" in details.message

    def test_the_limit(self, stage: Stage) -> None:
        def verbose(ctx: task.ActivityContext, length: int) -> str:
            return "x" * length

        def caller(ctx: Context, length: int) -> Steps:
            try:
                return len((yield ctx.call_activity(verbose, input=length)))
            except task.TaskFailedError as error:
                return error.details.error_type

        with override_settings(DURABLE_DJANGO={"MAX_PAYLOAD_BYTES": 1000}):
            stage.worker([caller], [verbose])
            assert stage.output(stage.start(caller, 100)) == 100
            assert stage.output(stage.start(caller, 1001)) == "durable_django.serialization.PayloadError"
            with pytest.raises(ValueError, match="MAX_PAYLOAD_BYTES"):
                stage.start(caller, "x" * 1001)

    def test_a_nul_in_a_failure(self, stage: Stage) -> None:
        def nul(ctx: task.ActivityContext, _: None) -> None:
            raise ValueError("a\x00b\ud800")

        def caller(ctx: Context, _: None) -> Steps:
            yield ctx.call_activity(nul)

        stage.worker([caller], [nul])
        assert failure(stage.run(caller)).message.endswith("a\ufffdb\ufffd")

    def test_a_converter_of_ones_own(self, stage: Stage) -> None:
        class Loud(JsonDataConverter):
            def serialize(self, value: Any) -> str | None:
                return super().serialize(value.upper() if isinstance(value, str) else value)

        converter: DataConverter = Loud()

        def passer(ctx: Context, text: str) -> Steps:
            return (yield ctx.call_activity(echo, input=text))

        stage.worker([passer], [echo], data_converter=converter)
        assert stage.output(stage.start(passer, "quiet")) == "QUIET"


class TestChildren:
    def test_a_child_fails(self, stage: Stage) -> None:
        def child(ctx: Context, _: None) -> Steps:
            yield ctx.call_activity(boom, input="inside")

        def parent(ctx: Context, _: None) -> Steps:
            try:
                yield ctx.call_sub_orchestrator(child, instance_id="kid")
            except task.TaskFailedError as error:
                return str(error)

        stage.worker([parent, child], [boom])
        message = stage.output(stage.start(parent, instance_id="p"))
        assert message == "p: Sub-orchestration task #1 failed: kid: Activity task #1 failed: inside"
        assert stage.status("kid") is FAILED

    def test_retries_of_a_child(self, stage: Stage) -> None:
        tries: list[str] = []

        def child(ctx: Context, _: None) -> Any:
            tries.append(ctx.version or "")
            if len(tries) < 3:
                raise ValueError("not yet")
            return ctx.instance_id

        def parent(ctx: Context, _: None) -> Steps:
            policy = RetryPolicy(first_retry_interval=QUICKLY, max_number_of_attempts=3)
            return (yield ctx.call_sub_orchestrator(child, retry_policy=policy, version="1.5"))

        stage.worker([parent, child])
        instance_id = stage.start(parent)
        assert stage.output(instance_id) == f"{instance_id}:0001"
        assert tries == ["1.5"] * 3
        created = [
            e.event_id
            for e in stage.history(instance_id)
            if isinstance(e, SubOrchestrationInstanceCreatedEvent)
        ]
        assert created == [1, 1, 1]

    def test_the_id_of_a_live_instance_fails_the_task(self, stage: Stage) -> None:
        def parent(ctx: Context, child_id: str) -> Steps:
            try:
                return (yield ctx.call_sub_orchestrator(listener, input="go", instance_id=child_id))
            except task.TaskFailedError as error:
                return error.details.error_type

        stage.worker([parent, listener])
        taken = stage.start(listener, "go")
        output = stage.output(stage.start(parent, taken))
        assert output == "durable_django.client.OrchestrationAlreadyExistsError"
        stage.client.raise_orchestration_event(taken, "go", data="end")
        assert stage.output(taken) == "end"

    def test_the_id_of_a_finished_instance_is_used_again(self, stage: Stage) -> None:
        def one(ctx: Context, value: int) -> int:
            return value

        def parent(ctx: Context, child_id: str) -> Steps:
            first = yield ctx.call_sub_orchestrator(one, input=1, instance_id=child_id)
            second = yield ctx.call_sub_orchestrator(one, input=2, instance_id=child_id)
            return [first, second]

        stage.worker([parent, one])
        assert stage.output(stage.start(parent, "shared")) == [1, 2]

    def test_a_tree(self, stage: Stage) -> None:
        def tree(ctx: Context, depth: int) -> Steps:
            if depth == 0:
                return 1
            branches = [ctx.call_sub_orchestrator(tree, input=depth - 1) for _ in range(3)]
            return sum((yield task.when_all(branches)))

        stage.worker([tree])
        assert stage.output(stage.start(tree, 3)) == 27
        assert len(stage.client.get_all_orchestration_states()) == 40


class TestMistakes:
    def test_a_yield_of_no_task(self, stage: Stage) -> None:
        def first(ctx: Context, _: None) -> Steps:
            yield 7

        def later(ctx: Context, _: None) -> Steps:
            yield ctx.create_timer(timedelta(0))
            yield "text"

        stage.worker([first, later])
        for orchestrator in (first, later):
            details = failure(stage.run(orchestrator))
            assert details.is_caused_by(TypeError)
            assert "not a task" in details.message

    def test_a_query(self, stage: Stage) -> None:
        def at_once(ctx: Context, _: None) -> int:
            return Group.objects.count()

        def later(ctx: Context, _: None) -> Steps:
            yield ctx.create_timer(timedelta(0))
            yield ctx.call_activity(echo, input=Group.objects.count())

        async def awaiting(ctx: Context, _: None) -> int:
            return await Group.objects.acount()

        stage.worker([at_once, later, awaiting], [echo])
        for orchestrator in (at_once, later):
            details = failure(stage.run(orchestrator))
            assert details.is_caused_by(DatabaseAccessError)
            assert "activity" in details.message
        failure(stage.run(awaiting))

    def test_changed_code(self, stage: Stage) -> None:
        def flow(ctx: Context, _: None) -> Steps:
            yield ctx.wait_for_external_event("go")
            yield ctx.call_activity(echo)
            yield ctx.wait_for_external_event("go")

        old = stage.worker([flow], [echo])
        instance_id = stage.start(flow)
        stage.client.raise_orchestration_event(instance_id, "go")
        stage.happened(instance_id, TaskCompletedEvent)
        old.stop()

        def changed(ctx: Context, _: None) -> Steps:
            yield ctx.create_timer(timedelta(0))

        changed.__name__ = "flow"
        stage.worker([changed], [echo])
        stage.client.raise_orchestration_event(instance_id, "go")
        details = failure(stage.end(instance_id))
        assert details.is_caused_by(task.NonDeterminismError)
        assert "call_activity('echo')" in details.message


class TestWorkers:
    def test_two_share_the_work(self, stage: Stage) -> None:
        def fan(ctx: Context, count: int) -> Steps:
            return sum((yield task.when_all([ctx.call_activity(echo, input=n) for n in range(count)])))

        for _ in range(2):
            stage.worker([fan], [echo])
        ids = [stage.start(fan, 20) for _ in range(20)]
        assert [stage.output(instance_id) for instance_id in ids] == [190] * 20
        for instance_id in ids:
            results = [e for e in stage.history(instance_id) if isinstance(e, TaskCompletedEvent)]
            assert sorted(event.task_scheduled_id for event in results) == list(range(1, 21))

    def test_a_second_worker_takes_over_where_the_first_one_stopped(self, stage: Stage) -> None:
        def steps(ctx: Context, _: None) -> Steps:
            first = yield ctx.call_activity(echo, input=1)
            event = yield ctx.wait_for_external_event("go")
            return [first, event, (yield ctx.call_activity(echo, input=3))]

        first = stage.worker([steps], [echo])
        instance_id = stage.start(steps)
        stage.happened(instance_id, TaskCompletedEvent)
        first.stop()
        stage.client.raise_orchestration_event(instance_id, "go", data=2)
        stage.worker([steps], [echo])
        assert stage.output(instance_id) == [1, 2, 3]

    def test_a_start_in_the_future(self, stage: Stage) -> None:
        def now(ctx: Context, _: None) -> str:
            return ctx.current_utc_datetime.isoformat()

        stage.worker([now])
        start_at = datetime.now(UTC) + timedelta(milliseconds=300)
        output = stage.output(stage.start(now, start_at=start_at))
        assert datetime.fromisoformat(output) >= start_at.replace(tzinfo=None)


class TestClients:
    def test_waiting_in_a_transaction_is_refused(self, stage: Stage) -> None:
        stage.worker([listener])
        with transaction.atomic():
            instance_id = stage.start(listener, "go")
            with pytest.raises(DurableTaskError, match="atomic"):
                stage.client.wait_for_orchestration_completion(instance_id)
        stage.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)

    def test_a_rollback_takes_the_start_along(self, stage: Stage) -> None:
        stage.worker([listener])
        with transaction.atomic():
            instance_id = stage.start(listener, "go")
            transaction.set_rollback(True)
        assert stage.client.get_orchestration_state(instance_id) is None

    def test_a_refusal_leaves_the_transaction_usable(self, stage: Stage) -> None:
        stage.start(listener, "go", instance_id="taken")
        with transaction.atomic():
            with pytest.raises(OrchestrationAlreadyExistsError):
                stage.start(listener, "go", instance_id="taken")
            Group.objects.create(name="still here")
        assert Group.objects.exists()

    def test_the_async_client(self, stage: Stage) -> None:
        stage.worker([listener])

        async def drive() -> Any:
            async with AsyncDurableTaskClient() as client:
                instance_id = await client.schedule_new_orchestration(listener, input="go")
                state = await client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)
                assert state.runtime_status is RUNNING
                await client.raise_orchestration_event(instance_id, "go", data=[1])
                state = await client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
                history = await client.get_orchestration_history(instance_id)
                assert any(isinstance(event, EventRaisedEvent) for event in history)
                with pytest.raises(TimeoutError):
                    await client.wait_for_orchestration_completion("missing", timeout=0)
                return state.get_output()

        assert async_to_sync(drive)() == [1]

    def test_tags_and_version(self, stage: Stage) -> None:
        def versioned(ctx: Context, _: None) -> str | None:
            return ctx.version

        stage.worker([versioned])
        instance_id = stage.start(versioned, version="2.1", tags={"team": "red"})
        assert stage.output(instance_id) == "2.1"
        (started,) = (e for e in stage.history(instance_id) if isinstance(e, ExecutionStartedEvent))
        assert (started.version, started.tags) == ("2.1", {"team": "red"})


def test_failed_activities_are_in_the_history(stage: Stage) -> None:
    def caller(ctx: Context, _: None) -> Steps:
        policy = RetryPolicy(first_retry_interval=QUICKLY, max_number_of_attempts=2)
        yield ctx.call_activity(boom, input="x", retry_policy=policy)

    stage.worker([caller], [boom], name="me")
    state = stage.run(caller)
    history = stage.history(state.instance_id)
    failed = [event for event in history if isinstance(event, TaskFailedEvent)]
    assert [event.worker for event in failed] == ["me", "me"]
    assert all(e.queued_at and e.started_at and e.finished_at for e in failed)
    assert sum(isinstance(event, TimerCreatedEvent) for event in history) == 1
    assert failure(state).error_type == "durable_django.task.TaskFailedError"
