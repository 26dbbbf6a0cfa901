"""Queues with limits, and queues whose activities another engine runs, with a worker in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from durable_django import task
from durable_django.checks import check_dispatchers, check_settings
from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.core import events, registry
from durable_django.core.errors import ActivityNotRegisteredError
from durable_django.core.registry import Registry
from durable_django.models import ActivityTask, Instance, InstanceStatus, Message, Worker
from durable_django.store import activities, clock
from durable_django.store import workers as store_workers
from durable_django.worker import DurableTaskWorker
from durable_django.worker.dispatch import dispatchers
from durable_django.worker.remote import execute_activity
from tests import factories
from tests.listeners import listener_is_gone_before_the_database
from tests.worker.engines import Threads, run_in_thread

__all__ = ["listener_is_gone_before_the_database"]

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]
ENGINE = "tests.worker.engines.Threads"
_PATIENCE = 30


class Gauge:
    """Notes how many activities run at once, in all and by key, and when they began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.begun: list[float] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self, key: str) -> None:
        with self._lock:
            self.begun.append(time.monotonic())
            for name in ("all", key):
                self._running[name] = self._running.get(name, 0) + 1
                self.most[name] = max(self.most.get(name, 0), self._running[name])
        self.go_on.wait(_PATIENCE)
        with self._lock:
            for name in ("all", key):
                self._running[name] -= 1


gauge = Gauge()


def work(ctx: task.ActivityContext, key: str) -> str:
    gauge.run(key)
    return key


async def work_async(ctx: task.ActivityContext, key: str) -> str:
    gauge.run(key)
    return key


def fail(ctx: task.ActivityContext, _: Any) -> None:
    raise LookupError("not here")


def fan(ctx: task.OrchestrationContext, given: list[Any]) -> Steps:
    """Call an activity in a queue for each key, all at once."""
    name, queue, keys = given
    return (
        yield task.when_all([ctx.call_activity(name, input=key, queue=queue, limit_key=key) for key in keys])
    )


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gauge.__init__()  # type: ignore[misc]  # what ran in the test before is over
    Threads.reset()
    monkeypatch.setattr(registry, "default_registry", registered())
    monkeypatch.setattr("durable_django.worker.remote.default_registry", registry.default_registry)
    yield
    gauge.go_on.set()


def registered() -> Registry:
    made = Registry()
    made.add_orchestrator(fan)
    for activity in (work, work_async, fail):
        made.add_activity(activity)
    return made


@pytest.fixture
def workers() -> Iterator[list[DurableTaskWorker]]:
    both = [DurableTaskWorker(registry=registered(), poll_interval=0.1) for _ in range(2)]
    for worker in both:
        worker.start()
    yield both
    gauge.go_on.set()
    for worker in both:
        worker.stop()


def configured(settings: Any, **given: Any) -> None:
    settings.DURABLE_DJANGO = {**getattr(settings, "DURABLE_DJANGO", {}), **given}


def start(*given: Any) -> str:
    return DurableTaskClient().schedule_new_orchestration("fan", input=list(given))


def output(instance_id: str) -> Any:
    state = DurableTaskClient().wait_for_orchestration_completion(instance_id, timeout=_PATIENCE)
    assert state is not None
    assert state.runtime_status is OrchestrationStatus.COMPLETED, state.failure_details
    return state.get_output()


def until(condition: Any) -> None:
    give_up_at = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


class TestLimits:
    @pytest.fixture(autouse=True)
    def _limits(self, settings: Any) -> None:
        limits = {
            "three": {"concurrency": 3},
            "each": {"key_concurrency": 1},
            "slow": {"rate": "50/s"},
        }
        configured(settings, QUEUE_LIMITS=limits)

    @pytest.mark.parametrize("name", ["work", "work_async"])
    def test_no_more_run_at_once_than_may(self, workers: Any, name: str) -> None:
        keys = [str(number) for number in range(40)]
        assert output(start(name, "three", keys)) == keys
        assert 1 <= gauge.most["all"] <= 3

    def test_all_places_are_taken(self, workers: Any) -> None:
        gauge.go_on.clear()
        instance_id = start("work", "three", ["a"] * 10)
        until(lambda: gauge.most.get("all") == 3)
        other = start("work", "default", ["b"])
        until(lambda: gauge.most.get("b") == 1)  # Another queue is not held up.
        assert gauge.most["a"] == 3
        gauge.go_on.set()
        assert (output(instance_id), output(other)) == (["a"] * 10, ["b"])
        assert gauge.most["a"] == 3

    def test_each_key_has_its_own_limit(self, workers: Any) -> None:
        keys = ["a", "b", "c", "d"] * 6
        assert output(start("work", "each", keys)) == keys
        assert {gauge.most[key] for key in "abcd"} == {1}

    def test_a_rate_holds_over_any_second(self, workers: Any) -> None:
        output(start("work", "slow", ["a"] * 120))
        begun = sorted(gauge.begun)
        # Exact for those that claim, by a clock that stands still; here threads may be late by a little.
        assert max(sum(at <= other < at + 1 for other in begun) for at in begun) <= 60
        # Far below the rate, since a busy machine may not keep up with that.
        assert 120 / (begun[-1] - begun[0]) > 10

    def test_a_stopped_worker_gives_back_what_has_not_begun(self, settings: Any) -> None:
        configured(settings, QUEUE_LIMITS={"slow": {"rate": "1/m"}})
        worker = DurableTaskWorker(registry=registered(), poll_interval=0.1)
        with worker:
            worker.start()
            start("work", "slow", ["a"] * 3)
            until(lambda: len(gauge.begun) == 1)
        assert list(ActivityTask.objects.values_list("lease_token", flat=True)) == [None, None]


class TestAnotherEngine:
    @pytest.fixture(autouse=True)
    def _engine(self, settings: Any) -> None:
        configured(settings, DISPATCHERS={"far": {"BACKEND": ENGINE, "OPTIONS": {"lease_seconds": 100}}})

    @pytest.mark.parametrize("name", ["work", "work_async"])
    def test_its_results_are_results_like_any_other(self, workers: Any, name: str) -> None:
        keys = [str(number) for number in range(20)]
        instance_id = start(name, "far", keys)
        assert output(instance_id) == keys
        history = DurableTaskClient().get_orchestration_history(instance_id)
        ends = [event for event in history if isinstance(event, events.TaskCompletedEvent)]
        assert len(ends) == 20
        assert all(str(end.worker).startswith("threads@") for end in ends)
        assert len(Threads.held) == 20

    def test_its_failures_are_failures(self, workers: Any) -> None:
        state = DurableTaskClient().wait_for_orchestration_completion(
            start("fail", "far", ["a"]), timeout=_PATIENCE
        )
        assert state is not None
        assert state.failure_details is not None
        assert "not here" in state.failure_details.message

    def test_what_it_does_not_take_comes_again(self, workers: Any) -> None:
        Threads.refuses = 1
        assert output(start("work", "far", ["a", "b"])) == ["a", "b"]

    def test_a_message_that_comes_twice_runs_once(self, workers: Any) -> None:
        Threads.holds = True
        instance_id = start("work", "far", ["a"])
        until(lambda: Threads.held)
        gauge.go_on.clear()
        first = threading.Thread(target=run_in_thread, args=(Threads.held[0],))
        first.start()
        until(lambda: gauge.begun)
        assert not run_in_thread(Threads.held[0])
        gauge.go_on.set()
        first.join()
        assert not run_in_thread(Threads.held[0])
        assert (output(instance_id), len(gauge.begun)) == (["a"], 1)

    def test_a_message_that_is_lost_comes_again_when_its_lease_is_over(self, workers: Any) -> None:
        Threads.holds = True
        instance_id = start("work", "far", ["a"])
        until(lambda: Threads.held)
        Threads.held.clear()
        Threads.holds = False
        ActivityTask.objects.update(visible_at=clock.aware(clock.now() - timedelta(seconds=1)))
        assert output(instance_id) == ["a"]

    def test_a_message_that_is_late_is_good_again_once_another_has_been_sent(self, workers: Any) -> None:
        Threads.holds = True
        instance_id = start("work", "far", ["a"])
        until(lambda: ActivityTask.objects.filter(worker=None, lease_token__isnull=False).exists())
        ActivityTask.objects.update(visible_at=clock.aware(clock.now() - timedelta(seconds=1)))
        until(lambda: len(Threads.held) == 2)
        assert run_in_thread(Threads.held[0])
        assert not run_in_thread(Threads.held[1])
        assert (output(instance_id), len(gauge.begun)) == (["a"], 1)

    def test_a_workers_death_is_nothing_to_what_it_has_handed_over(self, workers: Any) -> None:
        Threads.holds = True
        instance_id = start("work", "far", ["a"])
        until(lambda: Threads.held)
        handed = Threads.held[0]
        until(lambda: ActivityTask.objects.get().worker is None)
        assert ActivityTask.objects.get().visible_at > clock.aware(clock.now() + timedelta(seconds=90))
        Worker.objects.update(last_heartbeat_at=clock.aware(clock.now() - timedelta(hours=1)))
        assert store_workers.bury_dead("default", timedelta(minutes=5)) == 2
        assert run_in_thread(handed)
        assert output(instance_id) == ["a"]


class TestExecution:
    @pytest.fixture
    def handed(self) -> int:
        instance = factories.make_instance("caller")
        later = clock.aware(clock.now() + timedelta(seconds=60))
        fields = {"name": "work", "input": '"a"', "lease_token": 42, "visible_at": later}
        factories.make_activity(instance, 1, **fields)
        return 42

    def test_the_result_goes_into_the_inbox(self, handed: int) -> None:
        assert execute_activity("default", handed, engine="x")
        message = Message.objects.get()
        assert (message.task_id, message.data) == (1, '"a"')
        assert not ActivityTask.objects.exists()

    @pytest.mark.parametrize("status", [InstanceStatus.SUSPENDED, InstanceStatus.TERMINATED])
    def test_whoever_cannot_take_it_in_is_not_looked_at_for_ever(
        self, handed: int, status: InstanceStatus
    ) -> None:
        Instance.objects.update(status=status)
        assert execute_activity("default", handed, engine="x")
        held = list(Message.objects.values_list("held", flat=True))
        assert held == ([True] if status == InstanceStatus.SUSPENDED else [])

    def test_what_is_gone_is_not_run(self, handed: int) -> None:
        ActivityTask.objects.all().delete()
        assert not execute_activity("default", handed, engine="x")
        assert gauge.begun == []

    def test_what_this_process_does_not_know_is_left_to_others(self, handed: int) -> None:
        ActivityTask.objects.update(name="unknown")
        with pytest.raises(ActivityNotRegisteredError):
            execute_activity("default", handed, engine="x")
        assert ActivityTask.objects.get().visible_at > clock.aware(clock.now())

    def test_it_is_not_for_transactions(self, handed: int) -> None:
        with transaction.atomic(), pytest.raises(RuntimeError, match=r"outside of atomic\(\)"):
            execute_activity("default", handed, engine="x")
        assert ActivityTask.objects.get().lease_token == handed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"DISPATCHERS": {"far": {"BACKEND": "no.such"}}}, "cannot make 'no.such'"),
        ({"DISPATCHERS": {"far": {"BACKEND": "tests.worker.engines.Wrong"}}}, "is no ActivityDispatcher"),
        ({"DISPATCHERS": {"far": {"BACKEND": ENGINE, "OPTIONS": {"batch": 0}}}}, "['batch'] must be"),
        ({"DISPATCHERS": {"far": {"backend": ENGINE}}}, "must be a dictionary by queue"),
        ({"DISPATCHERS": []}, "must be a dictionary by queue"),
        ({"QUEUE_LIMITS": {"mail": {"rate": "fast"}}}, "['mail']: A rate has the form"),
        ({"QUEUE_LIMITS": {"mail": 3}}, "limits are a dictionary"),
        ({"QUEUE_LIMITS": 3}, "must be a dictionary of limits by queue"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said_at_once(settings: Any, given: Any, words: str) -> None:
    settings.DURABLE_DJANGO = given
    found = [message.msg for message in [*check_settings(), *check_dispatchers()]]
    assert len(found) == 1
    assert words in found[0]


def test_a_dispatcher_that_cannot_be_made_stops_the_worker(settings: Any) -> None:
    settings.DURABLE_DJANGO = {"DISPATCHERS": {"far": {"BACKEND": "no.such"}}}
    with pytest.raises(ImproperlyConfigured, match=r"no\.such"):
        dispatchers()
    with pytest.raises(ImproperlyConfigured, match=r"no\.such"):
        DurableTaskWorker(registry=registered()).start()


@pytest.mark.database("mysql")  # No other database locks what a scan only passes by.
def test_a_lease_that_a_scan_passes_by_is_given_back_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    later = clock.aware(clock.now() + timedelta(seconds=60))
    factories.make_activity(factories.make_instance("caller"), 1, lease_token=42, visible_at=later)
    has_begun, may_end = threading.Event(), threading.Event()

    def scan() -> None:
        with transaction.atomic():
            ActivityTask.objects.select_for_update().get()
            has_begun.set()
            may_end.wait(10)
        connection.close()

    def wait_for_it(_: float) -> None:
        may_end.set()
        scanning.join()

    scanning = threading.Thread(target=scan)
    scanning.start()
    has_begun.wait(10)
    monkeypatch.setattr("durable_django.store.activities.time.sleep", wait_for_it)
    activities.release("default", [42])
    assert ActivityTask.objects.get().lease_token is None
