"""A world in memory for one orchestration: it answers what the code decides, one turn at a time."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from durable_django.core import events
from durable_django.core.calls import call
from durable_django.core.context import ActivityContext
from durable_django.core.decisions import SCHEDULING_EVENTS, TurnOutcome
from durable_django.core.errors import FailureDetails
from durable_django.core.events import HistoryEvent
from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import Registry, get_name
from durable_django.core.replay import Execution
from durable_django.core.rewind import Rewound, rewind
from durable_django.core.status import OrchestrationStatus

START = datetime(2026, 1, 1)
SECOND = timedelta(seconds=1)
ROOT = "root"

RUNNING = OrchestrationStatus.RUNNING
COMPLETED = OrchestrationStatus.COMPLETED
FAILED = OrchestrationStatus.FAILED
CONTINUED = OrchestrationStatus.CONTINUED_AS_NEW

Steps = Generator[Any, Any, Any]
Function = Callable[..., Any]


@dataclass
class Turn:
    """One turn as it was: where the history ended before it, what was fed, and what came of it."""

    position: int
    now: datetime
    incoming: list[HistoryEvent]
    outcome: TurnOutcome


class World:
    """One instance, with activities and children that answer at once, and timers that fire when nothing else
    happens.

    A ``live`` world keeps the execution from turn to turn; else each turn starts from the history.
    """

    def __init__(
        self,
        orchestrator: Function,
        *,
        activities: Sequence[Function] = (),
        children: Sequence[Function] = (),
        instance_id: str = ROOT,
        live: bool = True,
        version: str | None = None,
        parent: events.ParentInstanceInfo | None = None,
        **options: Any,
    ) -> None:
        self.registry = Registry()
        for function in {orchestrator, *children}:
            self.registry.add_orchestrator(function)
        for function in activities:
            self.registry.add_activity(function)
        self.options = ExecutionOptions(self.registry, **options)
        self.name = get_name(orchestrator)
        self.activities, self.children = activities, children
        self.instance_id, self.version, self.parent = instance_id, version, parent
        self.live = live
        self.now = START
        self.generations: list[list[HistoryEvent]] = []
        self._new_execution()

    def _new_execution(self) -> None:
        self.history: list[HistoryEvent] = []
        self.turns: list[Turn] = []
        self.ready: deque[HistoryEvent] = deque()
        self.timers: dict[int, events.TimerCreatedEvent] = {}
        self._execution: Execution | None = None

    # what happens to the instance

    def start_event(self, input: Any = None, *, payload: str | None = None) -> events.ExecutionStartedEvent:
        return events.ExecutionStartedEvent(
            -1,
            START,
            self.name,
            version=self.version,
            input=payload or self.options.codec.dumps(input, "the input"),
            parent_instance=self.parent,
        )

    def begin(self, input: Any = None) -> TurnOutcome:
        """The first turn."""
        return self.turn(self.start_event(input))

    def close(self) -> None:
        """Drop the live execution, which would end whenever the garbage collector wants, in another test."""
        if self._execution is not None:
            self._execution.close()

    def replayed(self, history: Sequence[HistoryEvent] | None = None) -> Execution:
        """An execution brought up from the history."""
        execution = Execution(self.instance_id, self.options)
        execution.replay([copy.copy(event) for event in (self.history if history is None else history)])
        return execution

    def turn(self, *incoming: HistoryEvent, at: datetime | None = None) -> TurnOutcome:
        """Feed ``incoming`` in one turn, keep the history, and take note of what is to be answered."""
        self.now = max(self.now, at or self.now)
        execution = self._execution
        if execution is None:
            execution = self.replayed()
        outcome = execution.turn(self.now, [copy.copy(event) for event in incoming])
        self.now = execution.now
        self.turns.append(Turn(len(self.history), self.now, list(incoming), outcome))
        self.history += outcome.events
        if self.live:
            self._execution = execution
        else:
            execution.close()
        self._answer(outcome)
        return outcome

    def run(self, input: Any = None, *, generations: int = 1) -> TurnOutcome:
        """Start, and go on until the end or until nothing can happen; then check the replays.

        With ``generations`` above one, that many executions in all may follow by continue-as-new.
        """
        outcome = self.go_on(self.begin(input))
        while outcome.continue_as_new is not None and len(self.generations) + 1 < generations:
            outcome = self.go_on(self.next_generation(outcome))
        return outcome

    def go_on(self, outcome: TurnOutcome) -> TurnOutcome:
        """Let the world answer until the end or until nothing can happen; then check the replays."""
        while outcome.status is RUNNING and (self.ready or self.timers):
            outcome = self.turn(self.ready.popleft()) if self.ready else self.fire()
        self.check()
        return outcome

    def fire(self) -> TurnOutcome:
        """Let the next timer fire, when its time has come."""
        timer = min(self.timers.values(), key=lambda timer: (timer.fire_at, timer.event_id))
        return self.turn(fired(self.timers.pop(timer.event_id)), at=timer.fire_at)

    def next_generation(self, outcome: TurnOutcome) -> TurnOutcome:
        """Begin the execution that continue-as-new asked for."""
        assert outcome.continue_as_new is not None
        self.generations.append(self.history)
        self._new_execution()
        start = self.start_event(payload=outcome.continue_as_new.input)
        return self.turn(start, *outcome.continue_as_new.carried)

    def rewind(self) -> Rewound:
        """Rewind the failed execution into a new one; what is open and not under way is answered again."""
        rewound = rewind(self.history)
        self.generations.append(self.history)
        waiting = {timer_id: timer for timer_id, timer in self.timers.items() if timer_id in rewound.open}
        later = {task_id: at for task_id, at in rewound.inside.items() if task_id not in waiting}
        kept = [self.history[position] for position in rewound.kept if position not in later.values()]
        sections = [section.critical_section_id for section in rewound.sections]
        self._new_execution()
        self.history = [*kept, events.ExecutionRewoundEvent(-1, self.now, sections=sections or None)]
        for task_id, event in rewound.open.items():
            if task_id not in waiting and task_id not in later:
                self._answer_to(event)
        self.ready += [events.EntityLockGrantedEvent(-1, self.now, section) for section in sections]
        self.timers |= waiting
        return rewound

    # what the world does

    def _answer(self, outcome: TurnOutcome) -> None:
        for event in outcome.events:
            if type(event) in SCHEDULING_EVENTS:
                self._answer_to(event)
        for timer_id in outcome.cancelled_timers:
            self.timers.pop(timer_id, None)

    def _answer_to(self, event: HistoryEvent) -> None:
        match event:
            case events.TaskScheduledEvent():
                self.ready.append(self.perform(event))
            case events.SubOrchestrationInstanceCreatedEvent() if event.name in self.registry.orchestrators:
                self.ready.append(self.bear(event))
            case events.TimerCreatedEvent():
                self.timers[event.event_id] = event

    def perform(self, event: events.TaskScheduledEvent) -> HistoryEvent:
        """Run an activity."""
        context = ActivityContext(self.instance_id, event.event_id)
        codec = self.options.codec
        try:
            result = call(self.registry.activity(event.name).fn, context, event.input, codec)
            return events.TaskCompletedEvent(-1, START, event.event_id, codec.dumps(result, "the result"))
        except Exception as error:  # noqa: BLE001 - whatever an activity raises is its failure
            return task_failed(event.event_id, error)

    def bear(self, event: events.SubOrchestrationInstanceCreatedEvent) -> HistoryEvent:
        """Run a child to its end."""
        child = World(
            self.registry.orchestrator(event.name).fn,
            activities=self.activities,
            children=self.children,
            instance_id=event.instance_id,
            version=event.version,
            parent=events.ParentInstanceInfo(
                event.event_id, orchestration_instance=events.OrchestrationInstance(self.instance_id)
            ),
        )
        outcome = child.go_on(child.turn(child.start_event(payload=event.input)))
        if outcome.failure is not None:
            return events.SubOrchestrationInstanceFailedEvent(-1, START, event.event_id, outcome.failure)
        return events.SubOrchestrationInstanceCompletedEvent(-1, START, event.event_id, outcome.output)

    # what must hold

    def check(self) -> None:
        """From every turn's beginning, replay and the remaining turns lead to what was."""
        for first in range(len(self.turns)):
            execution = self.replayed(self.history[: self.turns[first].position])
            for turn in self.turns[first:]:
                incoming = [copy.copy(event) for event in turn.incoming]
                assert execution.turn(turn.now, incoming) == turn.outcome

    # what tests look at

    @property
    def decisions(self) -> list[HistoryEvent]:
        return decisions(self.history)

    @property
    def scheduled(self) -> list[str]:
        """The decisions in short: names, and the types of what has none."""
        return [getattr(event, "name", type(event).__name__) for event in self.decisions]


def decisions(history: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    return [event for event in history if type(event) in SCHEDULING_EVENTS]


def task_completed(task_id: int, result: str | None = None) -> events.TaskCompletedEvent:
    return events.TaskCompletedEvent(-1, START, task_id, result)


def task_failed(task_id: int, error: Exception | None = None) -> events.TaskFailedEvent:
    details = FailureDetails.from_exception(error or ValueError("broken"))
    return events.TaskFailedEvent(-1, START, task_id, details)


def child_completed(task_id: int, result: str | None = None) -> HistoryEvent:
    return events.SubOrchestrationInstanceCompletedEvent(-1, START, task_id, result)


def child_failed(task_id: int, error: Exception | None = None) -> HistoryEvent:
    details = FailureDetails.from_exception(error or ValueError("broken"))
    return events.SubOrchestrationInstanceFailedEvent(-1, START, task_id, details)


def fired(timer: events.TimerCreatedEvent) -> events.TimerFiredEvent:
    return events.TimerFiredEvent(-1, START, timer.fire_at, timer.event_id)


def raised(name: str, data: str | None = None) -> events.EventRaisedEvent:
    return events.EventRaisedEvent(-1, START, name, data)


class Plant:
    """Activities that fail until they are repaired, and count their runs."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.runs: list[str] = []

    def activities(self, *names: str) -> list[Callable[..., Any]]:
        return [self._activity(name) for name in names]

    def _activity(self, name: str) -> Callable[..., Any]:
        def activity(ctx: object) -> str:
            self.runs.append(name)
            if name in self.broken:
                raise ValueError(f"{name} is broken")
            return name.upper()

        activity.__name__ = name
        return activity


def rewound(world: World, plant: Plant | None = None) -> TurnOutcome:
    """Repair everything, rewind, and go on."""
    if plant is not None:
        plant.broken.clear()
        plant.runs.clear()
    world.rewind()
    return world.go_on(world.turn())
