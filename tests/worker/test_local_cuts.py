"""Local activities that are left for another transaction: in batches, at bounds, in crashes and deploys."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from durable_django import task
from durable_django.core import events
from durable_django.models import ActivityTask, InstanceStatus, Message
from durable_django.testing.virtual_clock import VirtualClock
from durable_django.worker.work import Work
from tests.factories import history_of
from tests.worker.byhand import (
    assert_sound,
    assert_tables_are_empty,
    client,
    failure,
    held_by_another,
    instance,
    output,
    status,
)
from tests.worker.local_cast import (
    ACTIVITIES,
    Steps,
    counter,
    dying_before_commit,
    hand,
    local,
    names,
    post,
    prepare,
    ran,
    start,
    think,
    write,
    writer,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _clean(settings: Any) -> None:
    prepare(settings)


@pytest.fixture
def two_at_a_time(settings: Any) -> None:
    settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"LOCAL_ACTIVITIES": 2}


def postponed() -> list[int]:
    """Return what the only message of all instances names."""
    attributes = Message.objects.get().attributes
    assert attributes is not None
    found: list[int] = json.loads(attributes)["postponed"]
    return found


def fan(ctx: task.OrchestrationContext, names: list[str]) -> Steps:
    return (yield task.when_all([ctx.call_activity(write, input=name) for name in names]))


# ------------------------------------------------------------------------------------- at a bound


@pytest.mark.usefixtures("two_at_a_time")
def test_a_long_row_is_cut_and_goes_on_by_itself() -> None:
    worker = hand()
    start(writer, list("abcde"))
    report = worker.processor.run(Work(scan=True, starts=1))
    assert (ran, names()) == (["a", "b"], ["a", "b"])
    assert report.local == {instance("one").pk}
    assert instance("one").status == InstanceStatus.RUNNING
    assert postponed() == [5]
    worker.settle()
    assert output("one") == list("ABCDE")
    assert ran == names() == list("abcde")
    assert instance("one").turn == 3
    assert_sound("one")
    assert_tables_are_empty()


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("orchestrator", [writer, fan])
def test_a_crash_right_after_a_cut_loses_nothing_and_repeats_nothing(orchestrator: Any) -> None:
    start(orchestrator, list("abcde"))
    for done in (2, 4, 5):
        hand(fan).processor.run(Work(scan=True, starts=1))  # Each worker dies after its first commit.
        assert names() == list("abcde")[:done]
    hand(fan).settle()
    assert output("one") == list("ABCDE")
    assert ran == names() == list("abcde")
    assert_sound("one")
    assert_tables_are_empty()


@pytest.mark.usefixtures("two_at_a_time")
def test_a_crash_before_the_commit_after_a_cut_repeats_what_came_after_the_cut() -> None:
    start(fan, list("abcde"))
    hand(fan).processor.run(Work(scan=True, starts=1))
    with dying_before_commit(), suppress(OperationalError):
        hand(fan).step()
    assert (ran, names()) == (list("abcd"), list("ab"))
    hand(fan).settle()
    assert output("one") == list("ABCDE")
    assert names() == list("abcde")
    assert ran == list("abcdcde")


def test_time_is_a_bound_too(settings: Any) -> None:
    settings.DURABLE_DJANGO = settings.DURABLE_DJANGO | {"LOCAL_SECONDS": 1e-9}
    worker = hand()
    start(counter, 3)
    worker.processor.run(Work(scan=True, starts=1))
    assert ran == []
    assert postponed() == [1]


@pytest.mark.usefixtures("two_at_a_time")
def test_an_end_is_not_cut() -> None:
    def careless(ctx: task.OrchestrationContext, names: list[str]) -> str:
        for name in names:
            ctx.call_activity(write, input=name)
        return "done"

    start(careless, list("abcde"))
    hand(careless).settle()
    assert output("one") == "done"
    assert names() == list("abcde")
    assert_tables_are_empty()


@pytest.mark.usefixtures("two_at_a_time")
def test_an_instance_that_is_cut_takes_turns_with_others() -> None:
    worker = hand(batch_instances=10)
    start(counter, 6, "long")
    start(counter, 6, "longer")
    worker.settle()
    assert (output("long"), output("longer")) == (6, 6)
    assert sorted(ran) == sorted([*range(6)] * 2)


@pytest.mark.usefixtures("two_at_a_time")
def test_a_worker_that_stops_leaves_the_rest_to_others() -> None:
    worker = hand()
    start(counter, 6, "one")
    start(counter, 6, "two")
    worker.loop.drain()
    worker.processor.run(Work(scan=True, starts=2))
    worker.loop._local = {instance("one").pk: None, instance("two").pk: None}
    worker.step()
    assert ran == []
    hand().settle()
    assert (output("one"), output("two")) == (6, 6)


# ------------------------------------------------------------------------------------- in a batch


def test_in_a_batch_each_instance_that_reaches_one_gets_a_transaction_of_its_own() -> None:
    def alternating(ctx: task.OrchestrationContext, number: int) -> Steps:
        if number % 2:
            yield ctx.call_activity(write, input=f"first {number}")
        posted = yield ctx.call_activity(post, input=str(number))
        if number % 3 == 0:
            yield ctx.call_activity(write, input=f"second {number}")
        return posted

    worker = hand(alternating)
    for number in range(50):
        start(alternating, number, f"i{number}")
    report = worker.processor.run(Work(scan=True, starts=100))
    assert len(report.moved) == 50
    assert ran == []
    assert len(report.local) == Message.objects.count() == 25
    worker.settle()
    assert [output(f"i{number}") for number in range(50)] == [f"posted {number}" for number in range(50)]
    expected = [f"first {number}" for number in range(1, 50, 2)]
    expected += [f"second {number}" for number in range(0, 50, 3)]
    assert sorted(names()) == sorted(expected)
    assert sorted(ran) == sorted(expected + [str(number) for number in range(50)])
    for number in range(50):
        assert_sound(f"i{number}")
        assert instance(f"i{number}").tries == 0
    assert_tables_are_empty()


def test_an_end_in_a_batch_leaves_it_and_loses_no_result() -> None:
    def ending(ctx: task.OrchestrationContext, name: str) -> Steps:
        posted = yield ctx.call_activity(post, input=name)
        ctx.call_activity(write, input=name)
        return posted

    worker = hand(ending)
    start(ending, "a", "a")
    start(ending, "b", "b")
    worker.step()
    worker.run_activities()
    results = list(worker.loop._results)
    worker.loop._results.clear()
    report = worker.processor.run(Work(results))
    assert report.local == {instance("a").pk, instance("b").pk}
    assert report.moved == []
    assert not ActivityTask.objects.exists()
    hand(ending).settle()  # The results are in the inboxes: another worker can go on.
    assert (output("a"), output("b")) == ("posted a", "posted b")
    assert sorted(names()) == ["a", "b"]
    assert sorted(ran) == ["a", "a", "b", "b"]
    assert_sound("a")
    assert_tables_are_empty()


@pytest.mark.usefixtures("two_at_a_time")
def test_what_is_postponed_waits_outside_of_batches_and_keeps_what_else_has_come() -> None:
    def both(ctx: task.OrchestrationContext, _: Any) -> Steps:
        calls = [ctx.call_activity(post, input="p")]
        calls += [ctx.call_activity(write, input=name) for name in "abc"]
        return (yield task.when_all(calls))

    worker = hand(both)
    start(both)
    report = worker.processor.run(Work(scan=True, starts=1, slots=1, lease_new=True))
    worker.pool.submit(report.leased)
    worker.run_activities()
    start(counter, 1, "other")
    results = list(worker.loop._results)
    worker.loop._results.clear()
    report = worker.processor.run(Work(results, scan=True, starts=1))
    assert instance("one").pk in report.local
    assert "one" not in [moved.instance.instance_id for moved in report.moved]
    hand(both).settle()
    assert output("one") == ["posted p", "A", "B", "C"]
    assert ran.count("p") == 1


@pytest.mark.usefixtures("two_at_a_time")
def test_one_that_is_held_for_a_moment_is_looked_at_again_soon(durable_clock: VirtualClock) -> None:
    worker = hand()
    start(writer, list("abc"))
    report = worker.processor.run(Work(scan=True, starts=1))
    assert names() == ["a", "b"]
    worker.loop._local |= dict.fromkeys(report.local)
    if connection.features.has_select_for_update:
        with held_by_another("one"):
            worker.loop._hinted = False
            worker.loop.step()
        assert names() == ["a", "b"]
        durable_clock.move(timedelta(seconds=1))
    worker.loop._hinted = False  # Nobody has told of anything, and the next look at the tables is far away.
    worker.loop._poll_at = float("inf")
    worker.loop.step()
    assert output("one") == ["A", "B", "C"]


@pytest.mark.usefixtures("two_at_a_time")
def test_one_that_is_gone_is_not_looked_at_again() -> None:
    worker = hand()
    worker.loop._local[1_000_000] = None
    worker.step()
    assert worker.loop._timers == []


# ------------------------------------------------------------------------------------- steering


@pytest.mark.usefixtures("two_at_a_time")
def test_a_suspended_instance_runs_none_until_it_is_resumed() -> None:
    worker = hand()
    start(writer, list("abcd"))
    worker.processor.run(Work(scan=True, starts=1))
    client().suspend_orchestration("one")
    worker.settle()
    hand().settle()
    assert names() == ["a", "b"]
    client().resume_orchestration("one")
    worker.settle()
    assert output("one") == list("ABCD")
    assert names() == list("abcd")


@pytest.mark.usefixtures("two_at_a_time")
def test_a_terminated_instance_runs_none() -> None:
    worker = hand()
    start(fan, list("abcd"))
    worker = hand(fan)
    worker.processor.run(Work(scan=True, starts=1))
    client().terminate_orchestration("one")
    worker.settle()
    assert status("one") == InstanceStatus.TERMINATED
    assert names() == ran == ["a", "b"]
    assert_tables_are_empty()


# ------------------------------------------------------------------------------------- deploys


@pytest.mark.usefixtures("two_at_a_time")
def test_what_is_no_longer_local_becomes_an_activity_like_any_other() -> None:
    def write(ctx: task.ActivityContext, name: str) -> str:
        ran.append(f"plain {name}")
        return name.lower()

    start(fan, list("ABCDE"))
    hand(fan).processor.run(Work(scan=True, starts=1))
    plain = hand(fan, activities=[write])
    plain.step()
    plain.step()
    assert sorted(leased.task_id for leased in plain.pool.leased) == [3, 4, 5]
    assert ActivityTask.objects.count() == 3
    plain.settle()
    assert output("one") == list("ABcde")
    assert sorted(ran) == ["A", "B", "plain C", "plain D", "plain E"]
    assert_sound("one")
    assert_tables_are_empty()


@pytest.mark.usefixtures("two_at_a_time")
def test_what_was_handed_on_is_not_run_again_where_it_is_local() -> None:
    start(fan, list("abc"))
    hand(fan).processor.run(Work(scan=True, starts=1))
    without = hand(fan, activities=[], filtered=True)
    without.settle()
    assert ActivityTask.objects.get().task_id == 3
    worker = hand(fan)
    worker.settle()
    assert [leased.task_id for leased in worker.ran] == [3]
    assert output("one") == list("ABC")
    assert ran == names() == list("abc")


# ------------------------------------------------------------------------------------- rewind

broken = True


@local
def fix(ctx: task.ActivityContext, name: str) -> str:
    ran.append(name)
    if broken:
        raise ValueError("broken")
    return f"fixed {name}"


def test_a_rewound_instance_runs_what_failed_once_more_and_locally() -> None:
    def fixing(ctx: task.OrchestrationContext, _: Any) -> Steps:
        first = yield ctx.call_activity(write, input="a")
        second = yield ctx.call_activity(fix, input="b")
        third = yield ctx.call_activity(write, input="c")
        return [first, second, third]

    global broken  # noqa: PLW0603 - the world outside, which is repaired
    broken = True
    activities = [fix, *ACTIVITIES]
    start(fixing)
    hand(fixing, activities=activities).settle()
    assert failure("one")["message"].endswith("broken")
    broken = False
    client().rewind_orchestration("one")
    assert not ActivityTask.objects.exists()
    hand(fixing, activities=activities).settle()
    assert output("one") == ["A", "fixed b", "C"]
    assert (ran, names()) == (["a", "b", "b", "c"], ["a", "c"])
    assert_sound("one")
    assert_tables_are_empty()


def test_what_has_run_beside_the_failure_is_not_run_again_by_a_rewind() -> None:
    def fanning(ctx: task.OrchestrationContext, _: Any) -> Steps:
        fixed = ctx.call_activity(fix, input="b")
        others = [ctx.call_activity(write, input=name) for name in "cd"]
        yield fixed
        return (yield task.when_all(others))

    global broken  # noqa: PLW0603 - the world outside, which is repaired
    broken = True
    activities = [fix, *ACTIVITIES]
    start(fanning)
    hand(fanning, activities=activities).settle()
    assert status("one") == InstanceStatus.FAILED
    assert names() == ["c", "d"]
    assert isinstance(history_of(instance("one"))[-1], events.ExecutionCompletedEvent)
    broken = False
    client().rewind_orchestration("one")
    hand(fanning, activities=activities).settle()
    assert output("one") == ["C", "D"]
    assert (ran, names()) == (["b", "c", "d", "b"], ["c", "d"])


def test_a_rewind_hands_on_what_is_no_longer_local() -> None:
    def fixing(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.call_activity("fix", input="b"))

    global broken  # noqa: PLW0603 - the world outside, which is repaired
    broken = True
    start(fixing)
    hand(fixing, activities=[fix]).settle()
    client().rewind_orchestration("one")

    def repaired(ctx: task.ActivityContext, name: str) -> str:
        return f"repaired {name}"

    repaired.__name__ = "fix"
    hand(fixing, activities=[repaired]).settle()
    assert output("one") == "repaired b"
    assert_tables_are_empty()


@pytest.mark.usefixtures("two_at_a_time")
def test_an_instance_given_up_at_a_cut_can_be_rewound() -> None:
    start(writer, list("abcd"))
    hand().processor.run(Work(scan=True, starts=1))
    broken_instance = instance("one")
    broken_instance.tries = 5
    broken_instance.save()
    worker = hand()
    for _ in range(3):
        worker.settle()
    assert failure("one")["message"].startswith("Given up after 5 tries")
    assert ran == ["a", "b"]  # The third may be what has killed five workers.
    client().rewind_orchestration("one")
    hand().settle()
    assert output("one") == list("ABCD")
    assert names() == list("abcd")


def test_an_old_result_of_theirs_is_ignored_after_a_loop_starts_over() -> None:
    def loop(ctx: task.OrchestrationContext, left: int) -> Steps:
        number = yield ctx.call_activity(think, input=left)
        if left:
            ctx.continue_as_new(left - 1)
        return number

    start(loop, 5)
    hand(loop).settle()
    assert output("one") == 1
    assert ran == [5, 4, 3, 2, 1, 0]
