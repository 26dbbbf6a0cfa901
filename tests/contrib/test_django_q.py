"""Activities on django-q2: handed over, run once, failed, lost, late, delivered twice and timed out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.db import OperationalError, transaction
from django.test import modify_settings, override_settings
from django_q.models import Failure, OrmQ, Success, Task
from django_q.tasks import async_task

from durable_django import task
from durable_django.conf import settings as durable_settings
from durable_django.contrib.django_q import execute_activity, start_orchestration
from durable_django.core import events
from durable_django.core.errors import ActivityNotRegisteredError, FailureDetails
from durable_django.core.registry import Registry
from durable_django.models import ActivityTask, InstanceStatus
from durable_django.store import activities, clock, results, workers
from durable_django.worker import dispatch, remote
from tests import factories
from tests.contrib.stage import BACKEND, QUEUE, Stage, activity_row, dispatcher, run, settings
from tests.worker.byhand import USING, assert_sound, assert_tables_are_empty, failure, output, status

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]
SHOP = "tests.contrib.shop"
RUNS: list[str] = []


def double(ctx: task.ActivityContext, number: int) -> int:
    RUNS.append(ctx.orchestration_id)
    return 2 * number


def fail(ctx: task.ActivityContext, text: str) -> None:
    RUNS.append(ctx.orchestration_id)
    raise ValueError(text)


def dawdle(ctx: task.ActivityContext, seconds: float) -> str:
    RUNS.append(ctx.orchestration_id)
    time.sleep(seconds)
    return "slept"


async def double_later(ctx: task.ActivityContext, number: int) -> int:
    return 2 * number


def calls(ctx: task.OrchestrationContext, call: list[Any]) -> Steps:
    name, given = call
    return (yield ctx.call_activity(name, input=given, queue=QUEUE))


def fans(ctx: task.OrchestrationContext, width: int) -> Steps:
    return (
        yield task.when_all(
            [ctx.call_activity("double", input=number, queue=QUEUE) for number in range(width)]
        )
    )


def tries(ctx: task.OrchestrationContext, attempts: int) -> Steps:
    policy = task.RetryPolicy(first_retry_interval=timedelta(seconds=5), max_number_of_attempts=attempts)
    return (yield ctx.call_activity("fail", input="no", queue=QUEUE, retry_policy=policy))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    for function in (double, fail, dawdle, double_later):
        registry.add_activity(function)
    monkeypatch.setattr(remote, "default_registry", registry)
    return registry


@pytest.fixture(autouse=True)
def _again() -> Iterator[None]:
    RUNS.clear()
    before = clock._offset
    yield
    clock._offset = before


@pytest.fixture
def stage(registry: Registry) -> Iterator[Stage]:
    with settings():
        yield Stage(registry, calls, fans, tries)


def completed(instance_id: str) -> list[events.HistoryEvent]:
    return [event for event in assert_sound(instance_id) if isinstance(event, events.TaskCompletedEvent)]


def reason(instance_id: str) -> FailureDetails:
    """Return why the one activity of an instance has failed, the last time."""
    failed = [event for event in assert_sound(instance_id) if isinstance(event, events.TaskFailedEvent)]
    details = failed[-1].failure_details
    assert details is not None
    return details


class TestHandingOver:
    def test_an_activity_runs_on_the_cluster(self, stage: Stage) -> None:
        stage.start(calls, ["double", 21], instance_id="one")

        (message,) = stage.messages()
        assert message["func"] == "durable_django.contrib.django_q.execute_activity"
        assert message["name"] == "double@one"
        assert message["group"] == "durable:reports"
        assert message["ack_failure"] is True
        assert message["args"] == (USING, activity_row().lease_token)
        assert not RUNS
        stage.cycle()
        assert output("one") == 42
        (result,) = completed("one")
        assert isinstance(result, events.TaskCompletedEvent)
        assert str(result.worker).startswith("django-q2@")
        assert_tables_are_empty()
        assert not Task.objects.exists(), "the result stands in the history"

    def test_one_with_a_coroutine(self, stage: Stage) -> None:
        stage.start(calls, ["double_later", 4], instance_id="one")
        stage.cycle()
        assert output("one") == 8

    def test_other_queues_stay_here(self, stage: Stage) -> None:
        def elsewhere(ctx: task.OrchestrationContext, _: Any) -> Steps:
            return (yield ctx.call_activity("double", input=1))

        stage.worker.processor.options.registry.add_orchestrator(elsewhere)
        stage.start(elsewhere, instance_id="one")
        assert not stage.messages()
        assert ActivityTask.objects.count() == 1

    def test_to_the_cluster_that_is_named(self, registry: Registry) -> None:
        with settings(cluster="slow", timeout=7):
            stage = Stage(registry, calls)
            stage.start(calls, ["double", 1], instance_id="one")
            assert not stage.messages()
            (message,) = stage.messages("slow")
            assert message["cluster"] == "slow"
            assert message["timeout"] == 7

    def test_long_names_fit_into_the_tables_of_django_q2(self, stage: Stage) -> None:
        stage.start(calls, ["double", "x" * 3], instance_id="i" * 200)
        (message,) = stage.messages()
        assert len(message["name"]) == 100

    def test_no_more_than_a_batch_at_once_and_all_in_the_end(self, registry: Registry) -> None:
        with settings(batch=3):
            stage = Stage(registry, fans)
            stage.start(fans, 7, instance_id="one")
            assert len(stage.messages()) == 3
            stage.look()
            stage.look()
            assert len(stage.messages()) == 7
            stage.cycle()
        assert output("one") == [0, 2, 4, 6, 8, 10, 12]

    def test_a_worker_that_dies_leaves_what_it_has_handed_over(self, stage: Stage) -> None:
        factories.make_worker("worker")
        stage.start(calls, ["double", 1], instance_id="one")
        token = activity_row().lease_token
        clock.move(timedelta(seconds=durable_settings.LEASE_SECONDS + 1))
        assert workers.bury_dead(USING, timedelta(seconds=durable_settings.LEASE_SECONDS)) == 1
        assert activity_row().lease_token == token, "it is on its way, whatever becomes of who sent it"
        assert activity_row().deliveries == 0, "nobody has begun it"

    def test_a_worker_that_dies_before_it_has_handed_over_is_forgotten(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factories.make_worker("worker")

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(dispatch.dispatchers()[QUEUE], "dispatch", die)
        with pytest.raises(KeyboardInterrupt):
            stage.start(calls, ["double", 1], instance_id="one")
        assert activity_row().lease_token is not None
        workers.bury_dead(USING, timedelta(seconds=-1))
        assert activity_row().lease_token is None
        assert activity_row().deliveries == 0

    def test_a_broker_that_fails_half_way_gets_all_of_them_again(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = dispatch.dispatchers()[QUEUE]
        whole = backend.dispatch

        def half(handed: Any) -> None:
            whole(handed[:2])
            raise OSError("the broker is away")

        monkeypatch.setattr(backend, "dispatch", half)
        stage.start(fans, 4, instance_id="one")
        stale = stage.take()
        assert len(stale) == 2
        assert {row.lease_token for row in ActivityTask.objects.all()} == {None}
        assert {row.deliveries for row in ActivityTask.objects.all()} == {0}
        stage.look()
        assert not stage.messages(), "it is left alone for a while"
        monkeypatch.setattr(backend, "dispatch", whole)
        stage.loop._paused.clear()
        stage.look()
        run(stale)
        assert not RUNS
        stage.cycle()
        assert output("one") == [0, 2, 4, 6]
        assert len(RUNS) == 4

    def test_a_broker_in_the_database_takes_all_or_none(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []

        def second_fails(*args: Any, **kwargs: Any) -> None:
            made.append(args)
            if len(made) == 2:
                raise OSError("no")
            async_task(*args, **kwargs)

        monkeypatch.setattr("django_q.tasks.async_task", second_fails)
        stage.start(fans, 3, instance_id="one")
        assert len(made) == 2
        assert not OrmQ.objects.exists()


class TestDelivery:
    def test_twice_runs_once(self, stage: Stage) -> None:
        stage.start(calls, ["double", 1], instance_id="one")
        (message,) = stage.take()
        run([message, message])
        stage.turn()
        assert RUNS == ["one"]
        assert len(completed("one")) == 1
        assert not Failure.objects.exists()

    def test_again_while_it_runs(self, stage: Stage, registry: Registry) -> None:
        seen = []

        def again(ctx: task.ActivityContext, _: Any) -> None:
            seen.append(execute_activity(*message["args"]))

        registry.add_activity(again)
        stage.start(calls, ["again", None], instance_id="one")
        (message,) = stage.take()
        assert execute_activity(*message["args"]) is True
        assert seen == [False]

    def test_a_lost_one_comes_again_when_its_lease_is_over(self, stage: Stage) -> None:
        stage.start(calls, ["double", 1], instance_id="one")
        (lost,) = stage.take()
        clock.move(timedelta(seconds=290))
        stage.look()
        assert not stage.messages()
        clock.move(timedelta(seconds=20))
        stage.look()
        (message,) = stage.messages()
        assert message["args"] == lost["args"], "whichever comes first begins it"
        stage.cycle()
        assert output("one") == 2
        run([lost])
        assert RUNS == ["one"]

    def test_waiting_in_the_broker_is_no_delivery(self, stage: Stage) -> None:
        """However long the cluster is away: nobody has begun the activity, and nothing has failed."""
        stage.start(calls, ["double", 1], instance_id="one")
        for _ in range(durable_settings.MAX_TRIES * 2):
            clock.move(timedelta(seconds=301))
            stage.look()
        stage.cycle()
        assert output("one") == 2
        assert RUNS == ["one"]

    def test_late_finds_its_lease_over(self, stage: Stage) -> None:
        """Limits do not count it any more: another one may have its place."""
        stage.start(calls, ["double", 1], instance_id="one")
        (late,) = stage.take()
        clock.move(timedelta(seconds=301))
        run([late])
        assert not RUNS
        stage.look()
        stage.cycle()
        assert output("one") == 2

    def test_after_the_orchestration_was_terminated(self, stage: Stage) -> None:
        stage.start(calls, ["double", 1], instance_id="one")
        stage.client.terminate_orchestration("one")
        stage.cycle()
        assert not RUNS
        assert status("one") == InstanceStatus.TERMINATED
        assert_tables_are_empty()

    def test_of_an_orchestration_that_is_terminated_while_it_runs(
        self, stage: Stage, registry: Registry
    ) -> None:
        def ends(ctx: task.ActivityContext, _: Any) -> None:
            stage.client.terminate_orchestration("one")

        registry.add_activity(ends)
        stage.start(calls, ["ends", None], instance_id="one")
        (message,) = stage.take()
        assert execute_activity(*message["args"]) is False
        stage.turn()
        assert_tables_are_empty()

    def test_of_a_suspended_orchestration_is_kept_for_it(self, stage: Stage) -> None:
        stage.start(calls, ["double", 1], instance_id="one")
        stage.client.suspend_orchestration("one")
        stage.cycle()
        assert RUNS == ["one"]
        assert status("one") == InstanceStatus.SUSPENDED
        stage.client.resume_orchestration("one")
        stage.turn()
        assert output("one") == 2
        assert len(completed("one")) == 1

    def test_inside_a_transaction_is_refused(self, stage: Stage) -> None:
        stage.start(calls, ["double", 1], instance_id="one")
        (message,) = stage.take()
        with transaction.atomic(), pytest.raises(RuntimeError, match="transaction"):
            execute_activity(*message["args"])
        assert activity_row().lease_token == message["args"][1]

    def test_to_a_process_that_does_not_know_it(self, stage: Stage) -> None:
        """An older deploy, say. That it was not begun does not count, however often."""
        stage.start(calls, ["unheard_of", None], instance_id="one")
        (message,) = stage.take()
        with pytest.raises(ActivityNotRegisteredError):
            execute_activity(*message["args"])
        assert activity_row().deliveries == 0
        stage.look()
        assert not stage.messages(), "not at once"
        clock.move(timedelta(seconds=durable_settings.LEASE_SECONDS + 1))
        stage.look()
        stage.cycle()
        (failed,) = Failure.objects.all()
        assert "unheard_of" in failed.result


class TestFailures:
    def test_a_failure_is_recorded_and_no_failed_task(self, stage: Stage) -> None:
        stage.start(calls, ["fail", "no luck"], instance_id="one")
        stage.cycle()
        assert reason("one").message == "no luck"
        assert not Failure.objects.exists()
        assert not OrmQ.objects.exists()

    def test_retry_policies_work(self, stage: Stage) -> None:
        stage.start(tries, 3, instance_id="one")
        for _ in range(3):
            stage.cycle()
            clock.move(timedelta(seconds=60))
            stage.turn()
        assert RUNS == ["one"] * 3
        assert failure("one")["type"] == "durable_django.task.TaskFailedError"
        assert_tables_are_empty()

    def test_the_cluster_ends_it_after_its_timeout(self, registry: Registry) -> None:
        with settings(timeout=1):
            stage = Stage(registry, calls)
            stage.start(calls, ["dawdle", 20.0], instance_id="one")
            began = time.monotonic()
            stage.cycle()
            assert time.monotonic() - began < 10
            assert reason("one").error_type == "django_q.exceptions.TimeoutException"
            assert not Failure.objects.exists()

    def test_a_process_that_dies_again_and_again(self, stage: Stage) -> None:
        """As one that is killed for its time or its memory, before it could say anything."""
        stage.start(calls, ["double", 1], instance_id="one")
        for _ in range(durable_settings.MAX_TRIES):
            (message,) = stage.take()
            begun = activities.take_over(USING, message["args"][1], "django-q2@x:1", later())
            assert begun is not None
            clock.move(timedelta(seconds=durable_settings.LEASE_SECONDS + 1))
            stage.look()
        assert status("one") == InstanceStatus.RUNNING
        stage.cycle()
        assert not RUNS
        assert reason("one").error_type == "durable_django.worker.TooManyDeliveries"
        assert f"begun {durable_settings.MAX_TRIES} times on django-q2" in reason("one").message
        assert_tables_are_empty()

    def test_one_that_is_begun_before_it_is_noted_as_handed_over_counts_once(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def at_once(handed: Any) -> None:
            seen.append(activities.take_over(USING, handed[0].token, "django-q2@x:1", later()))

        monkeypatch.setattr(dispatch.dispatchers()[QUEUE], "dispatch", at_once)
        stage.start(calls, ["double", 1], instance_id="one")
        assert seen[0] is not None
        assert seen[0].deliveries == 1
        row = activity_row()
        assert (row.deliveries, row.worker, row.lease_token) == (1, "django-q2@x:1", seen[0].token)

    def test_a_result_waits_for_the_database(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        tried = []

        def away(*args: Any) -> bool:
            tried.append(args)
            if len(tried) == 1:
                raise OperationalError("the connection is gone")
            return add(*args)

        add = results.add
        monkeypatch.setattr(results, "add", away)
        monkeypatch.setattr(remote, "_OUTAGE_SECONDS", 0.01)
        stage.start(calls, ["double", 1], instance_id="one")
        stage.cycle()
        assert RUNS == ["one"]
        assert output("one") == 2


def later() -> Any:
    return clock.now() + timedelta(seconds=durable_settings.LEASE_SECONDS)


class TestLimits:
    def test_a_queue_is_full_for_all_workers(self, registry: Registry) -> None:
        with settings({"concurrency": 3}):
            stage = Stage(registry, fans)
            stage.start(fans, 10, instance_id="one")
            other = stage.queue_loop("other", registry)
            other.step()
            assert len(stage.messages()) == 3
            run(stage.take()[:1])
            stage.look()
            other.step()
            assert len(stage.messages()) == 1

    def test_no_more_is_handed_over_than_begins_in_a_second(self, registry: Registry) -> None:
        with settings({"rate": "20/s"}):
            stage = Stage(registry, fans)
            stage.start(fans, 50, instance_id="one")
            stage.look()
            assert len(stage.messages()) == 20

    def test_what_begins_later_is_not_handed_over_yet(self, registry: Registry) -> None:
        """A cluster's process would only wait, and be killed for it."""
        with settings({"rate": "1/m"}):
            stage = Stage(registry, fans)
            stage.start(fans, 2, instance_id="one")
            stage.cycle()
            assert len(RUNS) == 1
            stage.look()
            assert not stage.messages()
            clock.move(timedelta(seconds=62.5))
            stage.look()
            assert len(stage.messages()) == 1

    def test_the_same_for_each_limit_key(self, registry: Registry) -> None:
        def keyed(ctx: task.OrchestrationContext, keys: str) -> Steps:
            called = [ctx.call_activity("double", input=1, queue=QUEUE, limit_key=key) for key in keys]
            return (yield task.when_all(called))

        with settings({"key_rate": "1/m"}):
            stage = Stage(registry, keyed)
            stage.start(keyed, "aab", instance_id="one")
            assert len(stage.messages()) == 2
            stage.cycle()
            assert len(RUNS) == 2
            stage.look()
            assert not stage.messages()
            clock.move(timedelta(seconds=62.5))
            stage.look()
            assert len(stage.messages()) == 1

    def test_one_that_comes_too_early_is_given_back_until_its_turn(self, registry: Registry) -> None:
        """As one that was handed over before the queue had a rate."""
        with settings():
            stage = Stage(registry, fans)
            stage.start(fans, 3, instance_id="one")
            early = stage.take()
        with settings({"rate": "1/m"}):
            run(early)
            assert len(RUNS) == 1
            left = ActivityTask.objects.all()
            assert {(row.lease_token, row.deliveries) for row in left} == {(None, 0)}
            clock.move(timedelta(seconds=64))
            stage.look()
            stage.cycle()
            assert len(RUNS) == 2


class TestFunctions:
    @pytest.fixture
    def shop(self, registry: Registry) -> Iterator[Stage]:
        names = ["send_mail", "send_later", "refuse", "missing"]
        with settings(functions=[f"{SHOP}.{name}" for name in names]):
            for backend in dispatch.dispatchers().values():
                for registration in backend.activities():
                    registry.declare(registration)
            yield Stage(registry, called_plainly)

    @pytest.mark.parametrize(
        ("input", "args", "kwargs"),
        [
            ({"to": "a", "n": 1}, [], {"to": "a", "n": 1}),
            (["a", 1], ["a", 1], {}),
            ([], [], {}),
            (None, [], {}),
            ("a", ["a"], {}),
            (0, [0], {}),
        ],
    )
    def test_the_input_is_their_arguments(self, shop: Stage, input: Any, args: Any, kwargs: Any) -> None:
        shop.start(called_plainly, [f"{SHOP}.send_mail", input], instance_id="one")
        shop.cycle()
        assert output("one") == {"args": args, "kwargs": kwargs}

    def test_a_coroutine(self, shop: Stage) -> None:
        call = [f"{SHOP}.send_later", {"address": "a", "urgent": True}]
        shop.start(called_plainly, call, instance_id="one")
        shop.cycle()
        assert output("one") == "a True"

    def test_a_failure(self, shop: Stage) -> None:
        shop.start(called_plainly, [f"{SHOP}.refuse", "closed"], instance_id="one")
        shop.cycle()
        assert reason("one").error_type == "builtins.LookupError"
        assert not Failure.objects.exists()

    def test_what_is_not_on_the_list_cannot_be_called(self, shop: Stage, registry: Registry) -> None:
        assert f"{SHOP}.missing" not in registry.activities
        assert "os.getcwd" not in registry.activities
        with pytest.raises(ActivityNotRegisteredError):
            registry.activity("os.getcwd")

    def test_nothing_is_wrong_with_them(self, shop: Stage, registry: Registry) -> None:
        assert registry.problems == ()
        assert registry.activity(f"{SHOP}.send_mail").queue == QUEUE


def called_plainly(ctx: task.OrchestrationContext, call: list[Any]) -> Steps:
    name, given = call
    return (yield ctx.call_activity(name, input=given))


class TestChecks:
    def texts(self, found: list[CheckMessage]) -> str:
        assert {message.id for message in found} <= {"durable_django.E006"}
        return "\n".join(message.msg for message in found)

    def test_all_is_well(self) -> None:
        options = {"cluster": "slow", "timeout": 20, "functions": [f"{SHOP}.send_mail"], "lease_seconds": 60}
        assert not dispatcher().check()
        assert not dispatcher(**options).check()

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"clutser": "x"}, "unknown option 'clutser'"),
            ({"cluster": ""}, "['cluster'] must be a cluster's name, not ''"),
            ({"cluster": 3}, "['cluster'] must be a cluster's name, not 3"),
            ({"timeout": 1.5}, "['timeout'] must be a whole number of seconds above 0, or None, not 1.5"),
            ({"timeout": 0}, "['timeout'] must be"),
            ({"timeout": True}, "['timeout'] must be"),
            ({"timeout": 60}, "'retry' (60) must be larger than"),
            ({"lease_seconds": 0}, "['lease_seconds'] must be a positive number"),
            ({"functions": "shop.tasks.send_mail"}, "must be a list of dotted paths"),
            ({"functions": [f"{SHOP}.missing"]}, f"'{SHOP}.missing' cannot be called"),
            ({"functions": ["nowhere.at.all"]}, "'nowhere.at.all' cannot be called"),
            ({"functions": [3]}, "3 cannot be called"),
            ({"functions": [f"{SHOP}.NOT_CALLABLE"]}, "it is a int"),
            ({"functions": [f"{SHOP}.contrib_shop_step"]}, "declared to durable_django already"),
        ],
    )
    def test_what_is_wrong_is_named(self, options: dict[str, Any], expected: str) -> None:
        found = dispatcher(**options).check()
        assert len(found) == 1
        assert expected in self.texts(found)
        assert "'reports'" in self.texts(found) or "Q_CLUSTER" in self.texts(found)

    def test_the_cluster_has_a_retry_of_its_own(self) -> None:
        cluster = {"timeout": 90, "retry": 90, "ALT_CLUSTERS": {"slow": {"retry": 600}}}
        with override_settings(Q_CLUSTER=cluster):
            assert "'retry' (90)" in self.texts(dispatcher().check())
            assert not dispatcher(cluster="slow").check()
            assert not dispatcher(timeout=89).check()

    def test_without_django_q2(self) -> None:
        with modify_settings(INSTALLED_APPS={"remove": ["django_q"]}):
            assert "needs 'django_q' in INSTALLED_APPS" in self.texts(dispatcher().check())

    def test_they_are_part_of_the_project_s(self) -> None:
        from durable_django.checks import check_dispatchers

        with settings(timeout="x"):
            (message,) = check_dispatchers()
        assert "timeout" in message.msg
        with override_settings(DURABLE_DJANGO={"DISPATCHERS": {QUEUE: {"BACKEND": BACKEND + "x"}}}):
            assert [message.id for message in check_dispatchers()] == ["durable_django.E005"]


class TestSchedules:
    @pytest.fixture(autouse=True)
    def _known(self, stage: Stage) -> None:
        self.stage = stage

    def test_a_schedule_starts_an_orchestration_once_for_each_date(self) -> None:
        from django.utils import timezone
        from django_q.models import Schedule
        from django_q.scheduler import scheduler
        from django_q.tasks import schedule

        made = schedule(
            "durable_django.contrib.django_q.start_orchestration",
            "fans",
            input=2,
            instance_id="report",
            schedule_type=Schedule.DAILY,
            next_run=timezone.now() - timedelta(hours=1),
            intended_date_kwarg="intended_date",
        )
        date = made.next_run.isoformat()
        scheduler()
        (message,) = self.stage.take()
        run([message, message])
        assert not Failure.objects.exists(), list(Failure.objects.values("result"))
        assert {found.result for found in Success.objects.all()} == {f"report@{date}"}
        self.stage.turn()
        self.stage.cycle()
        assert output(f"report@{date}") == [0, 2]
        made.refresh_from_db()
        assert made.next_run > timezone.now()

    def test_what_is_given_arrives(self) -> None:
        from durable_django.models import Instance

        start_orchestration("fans", 3, "a", "slow", 7, {"kind": "test"})
        found = Instance.objects.get(instance_id="a")
        assert (found.name, found.input, found.queue, found.priority) == ("fans", "3", "slow", 7)
        assert found.tags == {"kind": "test"}

    def test_an_id_that_is_taken_starts_nothing(self) -> None:
        from durable_django.models import Instance

        assert start_orchestration("fans", 1, "a") == "a"
        assert start_orchestration("fans", 2, "a") == "a"
        assert Instance.objects.get().input == "1"
        assert start_orchestration("fans", 2, intended_date="2026-01-01") == "fans@2026-01-01"
        assert start_orchestration("fans") != start_orchestration("fans")
