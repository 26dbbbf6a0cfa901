from __future__ import annotations

import dataclasses
import inspect
import json
from datetime import datetime
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.decisions import SCHEDULING_EVENTS, describe
from durable_django.core.errors import FailureDetails

NOW = datetime(2026, 1, 2, 3, 4, 5, 678)

KINDS: list[type[events.HistoryEvent]] = [
    kind
    for _, kind in inspect.getmembers(events, inspect.isclass)
    if issubclass(kind, events.HistoryEvent) and kind is not events.HistoryEvent
]


def example(kind: type[events.HistoryEvent]) -> events.HistoryEvent:
    """An event of ``kind`` with its required fields alone."""
    samples: dict[str, Any] = {
        "int": 7,
        "str": "x",
        "datetime": NOW,
        "list[str]": ["a"],
        "dict[str, Any]": {"k": 1},
    }
    required = {
        field.name: samples[str(field.type)]
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
    }
    return kind(**required)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_has_slots_and_the_fields_its_row_names(kind: type[events.HistoryEvent]) -> None:
    event = example(kind)
    names = {field.name for field in dataclasses.fields(kind)}

    assert not hasattr(event, "__dict__")
    assert {name for name in kind.ROW if name} <= names
    assert kind.__name__.endswith("Event")


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_becomes_plain_values(kind: type[events.HistoryEvent]) -> None:
    event = example(kind)
    fields = event.to_dict()

    assert fields == events.to_dict(event)
    assert set(fields) == {field.name for field in dataclasses.fields(kind)}
    assert fields["timestamp"] == NOW.isoformat()
    assert json.loads(json.dumps(fields)) == fields


def test_nested_values_become_plain_too() -> None:
    parent = events.ParentInstanceInfo(3, orchestration_instance=events.OrchestrationInstance("p"))
    started = events.ExecutionStartedEvent(
        -1,
        NOW,
        "x",
        parent_instance=parent,
        scheduled_start_timestamp=NOW,
        tags={"a": "b"},
    )
    failed = events.TaskFailedEvent(-1, NOW, 1, FailureDetails("m", "t", "s"), finished_at=NOW)

    assert started.to_dict()["parent_instance"]["orchestration_instance"] == {
        "instance_id": "p",
        "execution_id": None,
    }
    assert started.to_dict()["scheduled_start_timestamp"] == NOW.isoformat()
    assert failed.to_dict()["failure_details"] == {"message": "m", "error_type": "t", "stack_trace": "s"}
    assert failed.to_dict()["finished_at"] == NOW.isoformat()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in SCHEDULING_EVENTS])
def test_a_scheduling_event_has_a_task_id_and_a_description(
    kind: type[events.HistoryEvent],
) -> None:
    assert kind.ROW.task_id == "event_id"
    assert describe(example(kind))
