"""Recorded histories: written to a file, read back, and held against the present code."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from durable_django.conf import data_converter
from durable_django.core import events
from durable_django.core.decisions import SCHEDULING_EVENTS, TurnOutcome, describe
from durable_django.core.errors import NonDeterminismError, qualified_name
from durable_django.core.events import HistoryEvent
from durable_django.core.json_decoding import rebuild
from durable_django.core.options import DEFAULT_MAXIMUM_TIMER_INTERVAL, ExecutionOptions
from durable_django.core.registry import Registry, default_registry
from durable_django.core.replay import Execution
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, DataConverter, PayloadCodec
from durable_django.core.status import OrchestrationStatus
from durable_django.worker.guard import no_queries

Orchestrator = Callable[..., Any]

_TYPES = {cls.__name__: cls for cls in HistoryEvent.__subclasses__()}
_TURN_MARKS = (events.OrchestratorStartedEvent, events.OrchestratorCompletedEvent)
_INVALID = "not a history that dump_history() has written"


def dump_history(history: Iterable[HistoryEvent]) -> str:
    """Return a history as JSON text: a list of its events, each an object of its ``type`` and its fields."""
    objects = [{"type": type(event).__name__, **event.to_dict()} for event in history]
    return json.dumps(objects, indent=1)


def load_history(text: str) -> list[HistoryEvent]:
    """Return the history that `dump_history` has written.

    Raises:
        ValueError: It has not.
    """
    objects = json.loads(text)
    if not isinstance(objects, list):
        raise ValueError(f"This is {_INVALID}: a JSON {type(objects).__name__}.")
    return [_event(position, fields) for position, fields in enumerate(objects)]


def _event(position: int, fields: Any) -> HistoryEvent:
    if not isinstance(fields, dict) or fields.get("type") not in _TYPES:
        raise ValueError(f"This is {_INVALID}: event {position} has no known type.")
    given = {name: value for name, value in fields.items() if name != "type"}
    try:
        event = rebuild(given, _TYPES[fields["type"]], DEFAULT_DATA_CONVERTER)
    except Exception as error:
        raise ValueError(f"This is {_INVALID}: event {position} does not fit: {error}") from error
    assert isinstance(event, HistoryEvent)
    return event


def replay_history(
    orchestrator: Orchestrator | str,
    history: Sequence[HistoryEvent] | str,
    *,
    instance_id: str | None = None,
    registry: Registry | None = None,
    converter: DataConverter | None = None,
    maximum_timer_interval: timedelta | None = DEFAULT_MAXIMUM_TIMER_INTERVAL,
) -> None:
    """Check that an orchestrator's present code does what a recorded history says that it did.

    Take histories from production with ``client.get_orchestration_history``, keep them as `dump_history`
    writes them, and replay them in the tests: they fail when a change of the code would break instances that
    are running. ``history`` is a list of events or the JSON text; it may be complete or not.

    ``orchestrator`` is the function, or a name in ``registry`` (app-wide by default), which also knows the
    retry policies of activities that are called by name. ``instance_id`` is needed where the history does not
    have it. ``converter`` and ``maximum_timer_interval`` are those of the worker.

    Raises:
        NonDeterminismError: The code decides differently; or it ends, fails or goes on where the history does
            not.
        ValueError: ``history`` is none.
    """
    recorded = load_history(history) if isinstance(history, str) else list(history)
    recorded = [copy.copy(event) for event in recorded if not isinstance(event, _TURN_MARKS)]
    started = next((event for event in recorded if isinstance(event, events.ExecutionStartedEvent)), None)
    if started is None:
        raise ValueError("The history does not begin with an ExecutionStartedEvent.")
    if instance_id is None:
        instance = started.orchestration_instance
        instance_id = instance.instance_id if instance is not None else "replayed"
    options = ExecutionOptions(
        _registry(orchestrator, started.name, default_registry if registry is None else registry),
        PayloadCodec(converter or data_converter()),
        maximum_timer_interval,
    )
    execution = Execution(instance_id, options)
    try:
        with no_queries():
            execution.replay(recorded)
            outcome = execution.turn(execution.now, [])
    finally:
        execution.close()
    _check(recorded, outcome)


def _registry(orchestrator: Orchestrator | str, name: str, known: Registry) -> Registry:
    """Return a registry with the orchestrator under the name that it had, and the known activities."""
    function = known.orchestrator(orchestrator).fn if isinstance(orchestrator, str) else orchestrator
    registry = Registry()
    for other, registered in known.orchestrators.items():
        if other != name:
            registry.add_orchestrator(registered.fn, name=other)
    registry.add_orchestrator(function, name=name)
    for activity in known.activities.values():
        registry.add_activity(activity.fn, name=activity.name, retry_policy=activity.retry_policy)
    return registry


def _check(recorded: Sequence[HistoryEvent], outcome: TurnOutcome) -> None:
    """Compare how code and history have ended; that they agreed on the way is the engine's own check."""
    failure = outcome.failure
    if failure is not None and failure.error_type == qualified_name(NonDeterminismError):
        raise NonDeterminismError(failure.message)
    expected = _end(recorded)
    if expected is OrchestrationStatus.FAILED or expected is OrchestrationStatus.TERMINATED:
        return  # Code that has been mended since may go on from there.
    for event in outcome.events:
        if type(event) in SCHEDULING_EVENTS:
            raise NonDeterminismError(
                f"History and code differ at task #{event.event_id}: expected the end of the history, found "
                f"that the code goes on with {describe(event)}."
            )
    if outcome.status is not expected:
        reason = f": {failure.error_type}: {failure.message}\n{failure.stack_trace}" if failure else ""
        raise NonDeterminismError(
            f"History and code differ at the end: expected {expected}, found {outcome.status}{reason}"
        )


def _end(recorded: Sequence[HistoryEvent]) -> OrchestrationStatus:
    """Return the status in which a history leaves its execution."""
    for event in reversed(recorded):
        match event:
            case events.ExecutionCompletedEvent():
                return OrchestrationStatus(event.orchestration_status)
            case events.ContinueAsNewEvent():
                return OrchestrationStatus.CONTINUED_AS_NEW
            case events.ExecutionTerminatedEvent():
                return OrchestrationStatus.TERMINATED
            case events.ExecutionRewoundEvent():
                return OrchestrationStatus.FAILED  # What was rewound is decided anew, by the next turn.
    return OrchestrationStatus.RUNNING
