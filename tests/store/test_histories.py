"""Events become rows of histories and come back, whatever is in them and however many there are."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.models import HistoryEvent
from durable_django.store import clock, histories, pipeline
from durable_django.store.histories import Appended
from tests import factories
from tests.store.test_rows import ODD_TEXTS

USING = "default"

FILLED: dict[str, Any] = {
    "int": 7,
    "str": 'a "quoted" text, \\ and ü',
    "bool": True,
    "datetime": datetime(2026, 1, 2, 3, 4, 5, 600),
    "FailureDetails": FailureDetails("it broke", "builtins.ValueError", 'File "flow.py"'),
    "OrchestrationInstance": events.OrchestrationInstance("flow", "e1"),
    "ParentInstanceInfo": events.ParentInstanceInfo(3, "flow", None, events.OrchestrationInstance("p", "e2")),
    "TraceContext": events.TraceContext("00-1", "2"),
    "dict[str, str]": {"team": 'b"l\\ue'},
    "list[int]": [1, 2],
    "list[str]": ["@a@b", "@c@d"],
}


EVENTS = [
    value
    for value in vars(events).values()
    if isinstance(value, type) and issubclass(value, events.HistoryEvent) and value in histories._BY_CLASS
]


def filled(cls: type[events.HistoryEvent], *, optional: bool) -> events.HistoryEvent:
    """Return an event with a value in each field, or in each that must have one."""
    values: dict[str, Any] = {"event_id": -1, "timestamp": factories.NOW}
    for field in dataclasses.fields(cls):
        has_default = not (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if field.name not in values and (optional or not has_default):
            values[field.name] = FILLED[str(field.type).removesuffix(" | None")]
    # The id of a scheduling event is its task's.
    if cls.ROW.task_id == "event_id":
        values["event_id"] = 4
    return cls(**values)


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("cls", EVENTS)
def test_events_come_back_as_they_were(cls: type[events.HistoryEvent], optional: bool) -> None:
    event = filled(cls, optional=optional)
    assert histories.event_from_columns(event.timestamp, *histories.event_columns(event)) == event


@pytest.mark.parametrize("cls", EVENTS)
def test_each_attribute_comes_back_alone_and_is_missed_alone(cls: type[events.HistoryEvent]) -> None:
    none, every = filled(cls, optional=False), filled(cls, optional=True)
    for name in {field.name for field in dataclasses.fields(cls)} - {"event_id", "timestamp"}:
        for event in (
            dataclasses.replace(none, **{name: getattr(every, name)}),
            dataclasses.replace(every, **{name: getattr(none, name)}),
        ):
            assert histories.event_from_columns(event.timestamp, *histories.event_columns(event)) == event


def test_attributes_that_nobody_has_set_take_no_room() -> None:
    event = events.TaskScheduledEvent(1, factories.NOW, "greet", input='"x"')
    assert histories.event_columns(event) == (10, 1, "greet", '"x"', None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("copies", [1, 2, 10])  # One statement, arrays in a pipeline, and COPY.
class TestInsert:
    def test_texts_are_kept_as_they_are(self, copies: int, small: bool) -> None:
        instance = factories.make_instance()
        happened = [
            events.EventSentEvent(1, factories.NOW, "a", "b", input=text) for text in ODD_TEXTS * copies
        ]
        self.insert(small, Appended(instance.pk, "execution", 0, self.stamp(), 1, happened))
        assert histories.read(USING, instance.pk, "execution") == happened

    def test_each_turn_has_its_own_place(self, copies: int, small: bool) -> None:
        keys = [factories.make_instance(f"flow-{number}").pk for number in range(copies * 8)]
        happened = [events.GenericEvent(-1, factories.NOW, "said"), events.GenericEvent(-1, factories.NOW)]
        turns = [Appended(key, f"of\\{key}", key, self.stamp(), key + 5, happened) for key in keys]
        self.insert(small, *turns)
        stored = HistoryEvent.objects.filter(execution_id__startswith="of").order_by("instance", "sequence")
        assert list(stored.values_list("instance_id", "execution_id", "sequence", "turn", "data")) == [
            (key, f"of\\{key}", key + number, key + 5, data)
            for key in keys
            for number, data in enumerate(["said", None])
        ]
        assert {clock.from_orm(row.timestamp) for row in stored} == {factories.NOW}

    @staticmethod
    def stamp() -> Any:
        return clock.to_database(USING, factories.NOW)

    @staticmethod
    def insert(small: bool, *turns: Appended) -> None:
        made: list[str] = []
        with pipeline.begin(USING, small=small) as cursor:
            histories.insert(cursor, turns, then=lambda: made.append("all"))
        assert made == ["all"]


@pytest.mark.django_db(transaction=True)
def test_long_texts_are_sent_piece_by_piece() -> None:
    instance = factories.make_instance()
    happened = [events.GenericEvent(-1, factories.NOW, str(number) * 40_000) for number in range(10, 30)]
    TestInsert.insert(False, Appended(instance.pk, "execution", 0, TestInsert.stamp(), 1, happened))
    assert histories.read(USING, instance.pk, "execution") == happened
