"""What an execution has not seen when it ends belongs to the next one, in the order in which it was sent."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any

import pytest
from django.db.backends.utils import CursorWrapper

from durable_django import task
from durable_django.store import inbox
from tests.worker.byhand import HandWorker, assert_sound, assert_tables_are_empty, client, output

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]


def collect(ctx: task.OrchestrationContext, seen: list[int]) -> Steps:
    """Take one event in each execution, until there were four."""
    seen = [*seen, (yield ctx.wait_for_external_event("number"))]
    if len(seen) < 4:
        ctx.continue_as_new(seen, save_events=True)
        return None
    return seen


def keep_first(ctx: task.OrchestrationContext, seen: list[int]) -> Steps:
    """Let an event pile up unclaimed, and start over when told to."""
    if not seen:
        yield ctx.wait_for_external_event("over")
        ctx.continue_as_new([0], save_events=True)
        return None
    rest = yield task.when_all([ctx.wait_for_external_event("number") for _ in range(3)])
    return [*seen, *rest]


def raise_numbers(instance_id: str, *numbers: int) -> None:
    for number in numbers:
        client().raise_orchestration_event(instance_id, "number", data=number)


def test_events_that_wait_for_a_pending_instance_go_one_to_each_execution() -> None:
    worker = HandWorker(collect)
    client().schedule_new_orchestration(collect, input=[], instance_id="flow")
    raise_numbers("flow", 1, 2, 3, 4)
    worker.settle()
    assert output("flow") == [1, 2, 3, 4]
    assert_sound("flow")
    assert_tables_are_empty()


def test_events_that_come_at_once_go_one_to_each_execution() -> None:
    worker = HandWorker(collect)
    client().schedule_new_orchestration(collect, input=[], instance_id="flow")
    worker.settle()
    raise_numbers("flow", 1, 2, 3, 4)
    worker.settle()
    assert output("flow") == [1, 2, 3, 4]
    assert_tables_are_empty()


def test_what_was_carried_over_comes_before_what_was_never_seen() -> None:
    worker = HandWorker(keep_first)
    client().schedule_new_orchestration(keep_first, input=[], instance_id="flow")
    worker.settle()
    raise_numbers("flow", 1)
    client().raise_orchestration_event("flow", "over")
    raise_numbers("flow", 2, 3)
    worker.settle()
    assert output("flow") == [0, 1, 2, 3]


def test_carried_events_that_stay_unseen_are_carried_again() -> None:
    """All of them are buffered in one execution, and each of the next ends before it has seen the rest."""

    def pile(ctx: task.OrchestrationContext, seen: list[int]) -> Steps:
        if not seen:
            yield ctx.wait_for_external_event("over")
            ctx.continue_as_new([0], save_events=True)
            return None
        seen = [*seen, (yield ctx.wait_for_external_event("number"))]
        if len(seen) < 5:
            ctx.continue_as_new(seen, save_events=True)
            return None
        return seen

    worker = HandWorker(pile)
    client().schedule_new_orchestration(pile, input=[], instance_id="flow")
    raise_numbers("flow", 1, 2, 3)
    worker.settle()
    client().raise_orchestration_event("flow", "over")
    raise_numbers("flow", 4)
    worker.settle()
    assert output("flow") == [0, 1, 2, 3, 4]
    assert_tables_are_empty()


def test_a_start_is_read_first_however_many_events_are_older(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = inbox.ask
    limits: list[int] = []

    def ask_for_two(cursor: CursorWrapper, keys: Sequence[int], now: datetime, limit: int) -> Any:
        limits.append(limit)
        return ask(cursor, keys, now, 2)

    monkeypatch.setattr(inbox, "ask", ask_for_two)
    worker = HandWorker(collect)
    client().schedule_new_orchestration(collect, input=[], instance_id="flow")
    raise_numbers("flow", 1, 2, 3, 4)
    worker.settle()
    assert output("flow") == [1, 2, 3, 4]
    assert limits
    assert_sound("flow")
