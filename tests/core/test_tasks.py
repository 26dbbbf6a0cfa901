from __future__ import annotations

import sys
from typing import Any

import pytest

from durable_django.core.errors import FailureDetails, TaskCancelledError, TaskFailedError
from durable_django.core.tasks import (
    CancellableTask,
    CompletableTask,
    RetryableTask,
    Task,
    TimerTask,
    WhenAllTask,
    WhenAnyTask,
    when_all,
    when_any,
)


def task() -> CompletableTask[Any]:
    return CompletableTask()


def done(result: object = None) -> CompletableTask[Any]:
    completed: CompletableTask[Any] = CompletableTask()
    completed.complete(result)
    return completed


def failed(message: str = "broken") -> CompletableTask[Any]:
    completed: CompletableTask[Any] = CompletableTask()
    completed.fail(message, ValueError(message))
    return completed


def test_an_open_task_has_neither_result_nor_exception() -> None:
    open_task = task()

    assert not open_task.is_complete
    assert not open_task.is_failed
    with pytest.raises(ValueError, match="not complete"):
        open_task.get_result()
    with pytest.raises(ValueError, match="not complete"):
        _ = open_task.result
    with pytest.raises(ValueError, match="not failed"):
        open_task.get_exception()


def test_a_complete_task_has_its_result() -> None:
    complete = done([1])

    assert complete.is_complete
    assert not complete.is_failed
    assert complete.result == complete.get_result() == [1]
    with pytest.raises(ValueError, match="not failed"):
        complete.get_exception()


@pytest.mark.parametrize("result", [None, 0, "", [], False])
def test_a_falsy_result_is_a_result(result: object) -> None:
    assert done(result).is_complete
    assert done(result).get_result() == result
    assert when_all([done(result)]).get_result() == [result]


def test_a_failed_task_raises_its_failure() -> None:
    broken = task()
    broken.fail("it broke", FailureDetails("why", "builtins.KeyError"))

    assert broken.is_complete
    assert broken.is_failed
    error = broken.get_exception()
    assert isinstance(error, TaskFailedError)
    assert str(error) == "it broke"
    assert error.details == FailureDetails("why", "builtins.KeyError")
    with pytest.raises(TaskFailedError, match="it broke"):
        broken.get_result()


def test_a_task_completes_once() -> None:
    for complete in (done(), failed()):
        with pytest.raises(ValueError, match="already complete"):
            complete.complete(1)
        with pytest.raises(ValueError, match="already complete"):
            complete.fail("again", ValueError())


# ---------------------------------------------------------------- cancellation


def test_a_cancelled_task_says_so_and_calls_its_handler_once() -> None:
    calls: list[str] = []
    cancelled: CancellableTask[Any] = CancellableTask()
    cancelled.set_cancel_handler(lambda: calls.append("cancelled"))

    assert cancelled.cancel() is True
    assert cancelled.cancel() is False
    assert calls == ["cancelled"]
    assert cancelled.is_cancelled
    assert cancelled.is_complete
    assert not cancelled.is_failed
    with pytest.raises(TaskCancelledError):
        cancelled.get_result()
    with pytest.raises(ValueError, match="cancelled"):
        cancelled.get_exception()
    with pytest.raises(ValueError, match="already complete"):
        cancelled.complete(None)


def test_a_complete_task_cannot_be_cancelled() -> None:
    complete: CancellableTask[Any] = CancellableTask()
    complete.complete(3)

    assert complete.cancel() is False
    assert not complete.is_cancelled
    assert complete.get_result() == 3


def test_a_cancelled_task_completes_its_composites() -> None:
    timer = TimerTask()
    everything, anything = when_all([timer, done()]), when_any([timer, task()])
    timer.cancel()

    assert anything.get_result() is timer
    with pytest.raises(TaskCancelledError):
        everything.get_result()


def test_the_kinds_of_tasks() -> None:
    assert issubclass(TimerTask, CancellableTask)
    assert issubclass(RetryableTask, CompletableTask)
    assert not issubclass(RetryableTask, CancellableTask)
    assert isinstance(when_all([]), WhenAllTask)
    assert isinstance(when_any([task()]), WhenAnyTask)


# ---------------------------------------------------------------- when_all


def test_when_all_of_nothing_is_complete() -> None:
    nothing: WhenAllTask[Any] = when_all([])

    assert nothing.is_complete
    assert nothing.get_result() == []
    assert nothing.get_tasks() == []
    assert (nothing.pending_tasks, nothing.get_completed_tasks()) == (0, 0)


def test_when_all_gives_the_results_in_the_order_of_its_tasks() -> None:
    first, second, third = task(), done(2), task()
    everything = when_all([first, second, third])

    assert (everything.pending_tasks, everything.get_completed_tasks()) == (2, 1)
    third.complete(3)
    assert not everything.is_complete
    first.complete(1)
    assert everything.get_result() == [1, 2, 3]
    assert (everything.pending_tasks, everything.get_completed_tasks()) == (0, 3)


def test_when_all_of_complete_tasks_is_complete() -> None:
    assert when_all([done(1), done(2)]).get_result() == [1, 2]


def test_when_all_waits_for_all_and_raises_the_failure_that_came_first() -> None:
    first, second, third = task(), task(), task()
    everything = when_all([first, second, third])
    third.fail("third", ValueError())
    first.fail("first", ValueError())
    assert (everything.is_complete, everything.is_failed) == (False, False)

    second.complete(2)

    assert (everything.is_complete, everything.is_failed) == (True, True)
    assert everything.get_exception() is third.get_exception()
    with pytest.raises(TaskFailedError, match="third"):
        everything.get_result()


def test_when_all_of_failed_tasks_has_failed() -> None:
    assert str(when_all([done(), failed("one"), failed("two")]).get_exception()) == "one"


def test_when_all_keeps_the_list_it_was_given() -> None:
    tasks = [done(1), done(2)]
    everything = when_all(tasks)
    tasks.clear()

    assert everything.get_result() == [1, 2]
    assert len(everything.get_tasks()) == 2


def test_the_same_task_may_be_named_twice() -> None:
    twice = task()
    everything, anything = when_all([twice, twice]), when_any([twice, twice])
    twice.complete(1)

    assert everything.get_result() == [1, 1]
    assert anything.get_result() is twice


# ---------------------------------------------------------------- when_any


def test_when_any_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        when_any([])


def test_when_any_gives_the_winner() -> None:
    first, second = task(), task()
    anything = when_any([first, second])
    assert not anything.is_complete

    second.complete(2)
    first.complete(1)

    assert anything.get_result() is second


def test_when_any_never_fails() -> None:
    loser, winner = task(), task()
    anything = when_any([loser, winner])
    winner.fail("broken", ValueError())

    assert anything.get_result() is winner
    assert not anything.is_failed


def test_of_complete_tasks_the_first_one_named_wins() -> None:
    first, second = done(1), failed()

    assert when_any([task(), first, second]).get_result() is first
    assert when_any([second, first]).get_result() is second


def test_a_loser_can_be_waited_for_again() -> None:
    winner, loser = task(), task()
    when_any([winner, loser])
    winner.complete(1)
    again = when_any([loser])
    everything = when_all([winner, loser])
    loser.complete(2)

    assert again.get_result() is loser
    assert everything.get_result() == [1, 2]


@pytest.mark.parametrize("winner_first", [True, False])
def test_a_loser_forgets_the_races_that_are_over(winner_first: bool) -> None:
    loser = task()
    for _ in range(3):
        early, late = done(), task()
        when_any([early, loser] if winner_first else [loser, early])
        when_any([late, loser] if winner_first else [loser, late])
        late.complete(1)

    assert loser._parents == []


# ---------------------------------------------------------------- nesting


def test_a_task_wakes_all_composites_that_it_belongs_to() -> None:
    shared, other = task(), task()
    everything, anything, more = when_all([shared]), when_any([other, shared]), when_all([shared, done(1)])
    shared.complete("x")

    assert everything.get_result() == ["x"]
    assert anything.get_result() is shared
    assert more.get_result() == ["x", 1]


def test_composites_nest() -> None:
    a, b, c = task(), task(), task()
    first = when_all([a, b])
    race: WhenAnyTask[Any] = when_any([first, c])
    outer: WhenAllTask[Any] = when_all([race, when_all([c, when_all([])])])
    a.complete(1)
    assert not race.is_complete
    b.complete(2)
    assert race.get_result() is first
    assert first.get_result() == [1, 2]
    assert not outer.is_complete
    c.complete(3)
    assert outer.get_result() == [first, [3, []]]


def test_a_failure_goes_up_through_nested_composites() -> None:
    deep = task()
    outer: WhenAllTask[Any] = when_all([when_all([when_all([deep])]), done()])
    deep.fail("deep down", ValueError())

    assert outer.get_exception() is deep.get_exception()


@pytest.mark.parametrize("fails", [False, True])
def test_composites_nest_to_any_depth(fails: bool) -> None:
    innermost = task()
    outermost: Task[Any] = innermost
    depth = 5 * sys.getrecursionlimit()
    for _ in range(depth):
        outermost = when_all([outermost])
    anything = when_any([outermost])

    if fails:
        innermost.fail("deep down", ValueError())
        assert outermost.get_exception() is innermost.get_exception()
    else:
        innermost.complete(1)
        assert outermost.is_complete
    assert anything.get_result() is outermost


def test_a_lattice_of_composites_is_walked_once() -> None:
    bottom = task()
    top: Task[Any] = bottom
    for _ in range(40):
        top = when_all([top, top])
    bottom.fail("broken", ValueError())

    assert top.get_exception() is bottom.get_exception()


@pytest.mark.parametrize("composite", [when_all, when_any])
def test_a_composite_takes_tasks_alone(composite: Any) -> None:
    innocent = task()
    with pytest.raises(TypeError, match=r"tasks\[1\] is not a task but int"):
        composite([innocent, 3])
    assert innocent._parents == []


def test_of_two_composites_that_one_task_completes_the_older_one_wins() -> None:
    shared = task()
    older, younger = when_all([shared]), when_all([shared])
    race = when_any([younger, older])
    shared.complete(1)

    assert race.get_result() is older
