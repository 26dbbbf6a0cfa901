"""Random orchestrations: small programs, an interpreter for them, and a world that answers in any order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from durable_django.core import events
from durable_django.core.context import OrchestrationContext
from durable_django.core.decisions import TurnOutcome
from durable_django.core.errors import DurableTaskError, FailureDetails
from durable_django.core.events import HistoryEvent
from durable_django.core.retry import RetryPolicy
from durable_django.core.tasks import CancellableTask, Task, when_all, when_any
from tests.core.harness import RUNNING, SECOND, START, Steps, World, fired, raised

# ---------------------------------------------------------------- programs

Op = tuple[Any, ...]
Program = list[Op]

EVENT_NAMES = ("go", "Go", "stop")

_KINDS = [
    *("activity", "activity", "child", "timer", "event"),
    *("all", "any", "wait", "wait", "wait", "try", "try"),
    *("look", "count", "cancel", "send", "uuid", "status"),
]
_ENDINGS = ("restart", "raise")


def programs(*, endings: bool = True) -> st.SearchStrategy[Program]:
    """Programs; with ``endings`` such that may raise an error of their own or continue as new."""
    kinds = st.sampled_from([*_KINDS, *_ENDINGS] if endings else _KINDS)
    return st.lists(st.tuples(kinds, st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=16).map(
        _nested
    )


def _nested(flat: Sequence[tuple[str, int, int]]) -> Program:
    """Turn two numbers into what each operation needs; a ``try`` takes in the operations that follow it."""
    program: Program = []
    rest = list(flat)
    while rest:
        kind, one, other = rest.pop(0)
        match kind:
            case "activity" | "child":
                program.append((kind, one if 0 < one <= 3 else None))
            case "timer":
                program.append((kind, -one))
            case "event":
                program.append((kind, EVENT_NAMES[one % len(EVENT_NAMES)]))
            case "all" | "any":
                members = [one, other, one + other][: (one + other) % 4]
                program.append((kind, members))
            case "wait" | "look" | "count" | "cancel":
                program.append((kind, one))
            case "restart":
                program.append((kind, one % 2 == 0))
            case "try":
                body, rest = rest[: one + 1], rest[one + 1 :]
                handler, rest = rest[: other // 2], rest[other // 2 :]
                program.append((kind, _nested(body), _nested(handler), other % 2 == 0))
            case _:
                program.append((kind,))
    return program


@dataclass
class Interpreter:
    """Runs a program as a generator; ``trace`` is all that the code has seen."""

    ctx: OrchestrationContext
    trace: list[Any] = field(default_factory=list)
    tasks: list[Task[Any]] = field(default_factory=list)

    def run(self, program: Program) -> Steps:
        for op in program:
            yield from getattr(self, f"do_{op[0]}")(*op[1:])
        return self.trace

    def task(self, index: int) -> Task[Any] | None:
        return self.tasks[index % len(self.tasks)] if self.tasks else None

    def show(self, value: Any) -> Any:
        """What a result looks like in the trace: tasks by number."""
        if isinstance(value, Task):
            return f"task {self.tasks.index(value)}"
        return [self.show(item) for item in value] if isinstance(value, list) else value

    def add(self, task: Task[Any]) -> Steps:
        self.tasks.append(task)
        yield from ()

    def note(self, *seen: Any) -> Steps:
        self.trace.append([self.show(item) for item in seen])
        yield from ()

    def do_activity(self, attempts: int | None) -> Steps:
        policy = _policy(attempts)
        yield from self.add(self.ctx.call_activity("work", input=len(self.tasks), retry_policy=policy))

    def do_child(self, attempts: int | None) -> Steps:
        policy = _policy(attempts)
        yield from self.add(self.ctx.call_sub_orchestrator("child", retry_policy=policy))

    def do_timer(self, seconds: int) -> Steps:
        yield from self.add(self.ctx.create_timer(seconds * SECOND))

    def do_event(self, name: str) -> Steps:
        yield from self.add(self.ctx.wait_for_external_event(name))

    def members(self, indices: list[int]) -> list[Task[Any]]:
        return [task for index in indices if (task := self.task(index)) is not None]

    def do_all(self, indices: list[int]) -> Steps:
        yield from self.add(when_all(self.members(indices)))

    def do_any(self, indices: list[int]) -> Steps:
        if members := self.members(indices):
            yield from self.add(when_any(members))

    def do_wait(self, index: int) -> Steps:
        if task := self.task(index):
            yield from self.note("waited", (yield task))

    def do_look(self, index: int) -> Steps:
        if task := self.task(index):
            yield from self.note("looked", task.is_complete, task.is_failed)

    def do_count(self, index: int) -> Steps:
        if isinstance(task := self.task(index), type(when_all([]))):
            yield from self.note("counted", task.pending_tasks, task.get_completed_tasks())

    def do_cancel(self, index: int) -> Steps:
        if isinstance(task := self.task(index), CancellableTask):
            yield from self.note("cancelled", task.cancel())

    def do_send(self) -> Steps:
        self.ctx.send_event("somebody", "news", data=len(self.trace))
        yield from ()

    def do_uuid(self) -> Steps:
        yield from self.note(self.ctx.new_uuid())

    def do_status(self) -> Steps:
        self.ctx.set_custom_status(list(self.trace))
        yield from ()

    def do_restart(self, save_events: bool) -> Steps:
        self.ctx.continue_as_new(len(self.trace), save_events=save_events)
        yield from ()

    def do_raise(self) -> Steps:
        yield from ()
        raise RuntimeError("the program's own")

    def do_try(self, body: Program, handler: Program, reraise: bool) -> Steps:
        try:
            yield from self.run(body)
        except (DurableTaskError, RuntimeError) as error:
            yield from self.note("caught", str(error))
            yield from self.run(handler)
            if reraise:
                raise


def _policy(attempts: int | None) -> RetryPolicy | None:
    if attempts is None:
        return None
    return RetryPolicy(first_retry_interval=0 * SECOND, max_number_of_attempts=attempts)


def generator_of(program: Program) -> Callable[..., Steps]:
    def orchestrator(ctx: OrchestrationContext, _: object) -> Steps:
        return (yield from Interpreter(ctx).run(program))

    return orchestrator


def coroutine_of(program: Program) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def orchestrator(ctx: OrchestrationContext, _: object) -> Any:
        steps = Interpreter(ctx).run(program)
        resume, value = steps.send, None
        while True:
            try:
                task = resume(value)
            except StopIteration as stop:
                return stop.value
            try:
                resume, value = steps.send, await task
            except DurableTaskError as error:
                resume, value = steps.throw, error

    return orchestrator


# ---------------------------------------------------------------- a world of any order


def child(ctx: OrchestrationContext, _: object) -> None:
    """Registered for its name; the world answers in its place."""


class Fate:
    """Decides, by a list of numbers, what happens next and how it goes."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = list(numbers) or [0]
        self._drawn = 0

    def below(self, limit: int) -> int:
        self._drawn += 1
        return self._numbers[self._drawn % len(self._numbers)] % limit


class FatefulWorld(World):
    """Answers in an order of fate's choosing; so fall external events, stray results and late timers."""

    def __init__(
        self, orchestrator: Callable[..., Any], fate: Fate, failing: int = 3, **options: Any
    ) -> None:
        super().__init__(orchestrator, children=[child], **options)
        self.fate = fate
        self.failing = failing
        self.letters = [
            raised(name, f'"{number}"') for number, name in enumerate((*EVENT_NAMES, "GO", "nobody"))
        ]

    def perform(self, event: events.TaskScheduledEvent) -> HistoryEvent:
        if self._fails():
            details = FailureDetails(f"work {event.input} failed", "builtins.ValueError")
            return events.TaskFailedEvent(-1, START, event.event_id, details)
        return events.TaskCompletedEvent(-1, START, event.event_id, f'"done {event.input}"')

    def bear(self, event: events.SubOrchestrationInstanceCreatedEvent) -> HistoryEvent:
        if self._fails():
            details = FailureDetails("a child failed", "builtins.ValueError")
            return events.SubOrchestrationInstanceFailedEvent(-1, START, event.event_id, details)
        return events.SubOrchestrationInstanceCompletedEvent(-1, START, event.event_id, '"grown"')

    def _fails(self) -> bool:
        return self.failing > 0 and self.fate.below(self.failing) == 0

    def go_on(self, outcome: TurnOutcome) -> TurnOutcome:
        while outcome.status is RUNNING and (batch := self._next_batch()):
            outcome = self.turn(*batch)
        return outcome

    def _next_batch(self) -> list[HistoryEvent]:
        batch = []
        for _ in range(1 + self.fate.below(3)):
            timers = [fired(timer) for timer in self.timers.values()]
            candidates: list[HistoryEvent] = [*self.ready, *timers, *self.letters[:2]]
            if not candidates:
                break
            chosen = candidates[self.fate.below(len(candidates))]
            if isinstance(chosen, events.TimerFiredEvent):
                del self.timers[chosen.timer_id]
            elif isinstance(chosen, events.EventRaisedEvent):
                self.letters.remove(chosen)
            else:
                self.ready.remove(chosen)
            batch.append(chosen)
            if self.fate.below(9) == 0:
                batch.append(copy.copy(chosen))  # A stray second result, or the same event twice.
        return batch
