"""The entity alone: no database, and a clock that is a parameter."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import durable_django
from durable_django import scheduled
from durable_django.core.entity import Effects, EntityContext, Start, perform
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.scheduled import (
    ScheduleClientValidationError,
    ScheduleCreationOptions,
    ScheduleDescription,
    ScheduleInvalidTransitionError,
    ScheduleNotFoundError,
    ScheduleQuery,
    ScheduleStatus,
    ScheduleUpdateOptions,
)
from durable_django.scheduled.definitions import Schedule, ScheduleState, grid_after, register
from durable_django.scheduled.options import entity_id
from durable_django.worker import DurableTaskWorker

HOUR = timedelta(hours=1)
NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)
AFTER_THE_CALENDAR = datetime.max.replace(tzinfo=timezone(-5 * HOUR))
BEFORE_THE_CALENDAR = datetime.min.replace(tzinfo=timezone(5 * HOUR))
CODEC = PayloadCodec()


def at(hours: float) -> datetime:
    return NOON + hours * HOUR


class Hand:
    """One schedule, whose operations a test performs."""

    def __init__(self) -> None:
        registry = Registry()
        register(registry)
        self.registered = registry.entity("schedule")
        self.state: str | None = None
        self.effects = Effects(None)

    def do(self, operation: str, value: object = None, *, now: datetime = NOON) -> Hand:
        context = EntityContext(
            "", operation, entity_id("daily"), self.state, CODEC, now.replace(tzinfo=None)
        )
        perform(self.registered, context, CODEC.dumps(value, "the input"))
        self.effects = context._effects
        self.state = self.effects.state
        return self

    def create(self, now: datetime = NOON, **options: Any) -> Hand:
        chosen: dict[str, Any] = {"interval": HOUR, "orchestration_name": "report"} | options
        return self.do("create_schedule", ScheduleCreationOptions("daily", **chosen), now=now)

    def run(self, now: datetime, token: str | None = None) -> Hand:
        return self.do("run_schedule", token or self.told.execution_token, now=now)

    @property
    def told(self) -> ScheduleDescription:
        assert self.state is not None
        return ScheduleState.from_json(json.loads(self.state)).describe()

    @property
    def signalled_at(self) -> datetime:
        (signal,) = self.effects.signals
        assert (str(signal.target), signal.operation) == ("@schedule@daily", "run_schedule")
        assert signal.due is not None
        return signal.due.replace(tzinfo=UTC)

    @property
    def started(self) -> list[str]:
        return [start.instance_id for start in self.effects.starts]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (-2.5, 0),
        (-0.5, 0),
        (0, 1),
        (0.5, 1),
        (1, 2),
        (7.99, 8),
        (24 * 365, 24 * 365 + 1),
    ],
)
def test_the_grid_goes_on_from_its_anchor(now: float, expected: float) -> None:
    assert grid_after(at(now), NOON, HOUR) == at(expected)


def test_the_grid_ends_with_the_calendar() -> None:
    assert grid_after(NOON, NOON, timedelta(days=3_000_000)) is None
    assert grid_after(datetime(9999, 12, 31, tzinfo=UTC), NOON, timedelta(days=2)) is None


def test_the_grid_is_exact_after_a_billion_steps() -> None:
    odd = timedelta(seconds=1, microseconds=1)
    assert grid_after(NOON + 10**9 * odd, NOON, odd) == NOON + (10**9 + 1) * odd


class TestPlans:
    @pytest.mark.parametrize(
        ("options", "due"),
        [
            ({}, 1),
            ({"start_at": at(3.5)}, 3.5),
            ({"start_at": at(0)}, 0),
            ({"start_at": at(-0.25)}, 0.75),
            ({"start_at": at(-5)}, 1),
            ({"start_at": at(-5), "start_immediately_if_late": True}, 0),
            ({"start_at": at(5), "start_immediately_if_late": True}, 5),
            ({"start_immediately_if_late": True}, 0),
            ({"start_at": at(-0.25).replace(tzinfo=None)}, 0.75),
        ],
    )
    def test_the_first_run(self, options: dict[str, Any], due: float) -> None:
        hand = Hand().create(**options)
        assert (hand.told.next_run_at, hand.signalled_at) == (at(due), at(due))
        assert (hand.told.status, hand.started) == (ScheduleStatus.ACTIVE, [])

    def test_a_run_starts_the_orchestration_and_plans_the_next(self) -> None:
        hand = Hand().create(orchestration_input={"a": 1}).run(at(1.01))
        assert hand.effects.starts == [Start("report", "daily-2030-05-01T13:00:00+00:00", '{"a": 1}')]
        assert (hand.told.last_run_at, hand.told.next_run_at, hand.signalled_at) == (at(1), at(2), at(2))

    def test_after_an_outage_one_run_is_late_and_the_others_are_left_out(self) -> None:
        hand = Hand().create().run(at(5.5))
        assert hand.started == ["daily-2030-05-01T13:00:00+00:00"]
        assert hand.told.next_run_at == at(6)

    def test_an_immediate_run_is_followed_by_the_grid(self) -> None:
        hand = Hand().create(start_at=at(-5.5), start_immediately_if_late=True).run(at(0))
        assert hand.started == ["daily-2030-05-01T12:00:00+00:00"]
        assert hand.told.next_run_at == at(0.5)

    def test_a_run_at_its_start_is_not_repeated(self) -> None:
        hand = Hand().create(start_at=at(0)).run(at(0))
        assert hand.told.next_run_at == at(1)

    def test_a_signal_that_comes_early_is_sent_again(self) -> None:
        hand = Hand().create().run(at(0.99))
        assert (hand.started, hand.signalled_at) == ([], at(1))

    def test_a_fixed_instance_id(self) -> None:
        hand = Hand().create(orchestration_instance_id="the-one").run(at(1))
        (start,) = hand.effects.starts
        assert (start.name, start.instance_id) == (
            "start_scheduled_orchestration",
            "daily-2030-05-01T13:00:00+00:00",
        )
        assert json.loads(start.payload or "") == {"name": "report", "input": None, "instance_id": "the-one"}

    def test_a_run_that_cannot_be_started_is_logged_and_the_next_is_planned(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        hand = Hand().create()
        assert hand.state is not None
        hand.state = hand.state.replace('"report"', f'"{"r" * 300}"')  # from before names were looked at
        hand.run(at(1))
        assert (hand.started, hand.told.next_run_at, hand.signalled_at) == ([], at(2), at(2))
        assert "daily cannot start its run of 2030-05-01 13:00:00+00:00" in caplog.text
        assert "300 characters" in caplog.text

    def test_an_immediate_run_that_cannot_be_started_is_not_tried_for_ever(self) -> None:
        hand = Hand().create(start_immediately_if_late=True)
        assert hand.state is not None
        hand.state = hand.state.replace('"report"', '""')
        assert hand.run(at(0)).signalled_at == at(1)

    def test_an_update_repairs_what_could_not_be_started(self) -> None:
        hand = Hand().create()
        assert hand.state is not None
        hand.state = hand.state.replace('"report"', '"re\\nport"')
        hand.do("update_schedule", ScheduleUpdateOptions(orchestration_name="report")).run(at(1))
        assert len(hand.started) == 1


class TestEnd:
    def test_a_run_at_the_end_is_the_last(self) -> None:
        hand = Hand().create(end_at=at(1)).run(at(1.2))
        assert len(hand.started) == 1
        assert (hand.told.next_run_at, hand.signalled_at) == (None, at(1.2))

        hand.run(at(1.2))
        assert (hand.state, hand.started, hand.effects.signals) == (None, [], [])

    def test_it_goes_at_its_end_however_far_the_next_run_would_be(self) -> None:
        hand = Hand().create(end_at=at(24), interval=timedelta(days=365))
        assert (hand.told.next_run_at, hand.signalled_at) == (None, at(24))
        assert hand.run(at(24)).state is None

    def test_a_run_that_was_missed_before_the_end_is_late(self) -> None:
        hand = Hand().create(end_at=at(3.5)).run(at(9))
        assert hand.started == ["daily-2030-05-01T13:00:00+00:00"]
        assert (hand.told.next_run_at, hand.signalled_at) == (None, at(9))
        assert hand.run(at(9)).state is None

    def test_a_later_end_brings_runs_back(self) -> None:
        hand = Hand().create(end_at=at(1.5)).run(at(1))
        hand.do("update_schedule", ScheduleUpdateOptions(end_at=at(3)), now=at(1.2))
        assert hand.told.next_run_at == at(2)

    def test_the_end_of_the_calendar_is_one(self) -> None:
        hand = Hand().create(start_at=at(24), interval=timedelta(days=3_000_000)).run(at(24))
        assert len(hand.started) == 1
        assert (hand.told.next_run_at, hand.signalled_at) == (None, at(24))
        assert hand.run(at(24)).state is None


class TestChanges:
    def test_a_stale_signal_does_nothing(self) -> None:
        hand = Hand().create()
        before = hand.told.execution_token
        hand.do("update_schedule", ScheduleUpdateOptions(interval=2 * HOUR))
        state = hand.state
        hand.run(at(1), before)
        assert (hand.started, hand.effects.signals, hand.state) == ([], [], state)
        assert hand.run(at(2)).started == ["daily-2030-05-01T14:00:00+00:00"]

    def test_a_pause_and_its_end(self) -> None:
        hand = Hand().create()
        before = hand.told.execution_token
        hand.do("pause_schedule", now=at(0.5))
        assert (hand.told.status, hand.told.next_run_at) == (ScheduleStatus.PAUSED, None)
        assert hand.run(at(1), before).started == []
        hand.do("resume_schedule", now=at(3.25))
        assert (hand.told.status, hand.told.next_run_at) == (ScheduleStatus.ACTIVE, at(4))
        assert hand.run(at(4), before).started == []
        assert len(hand.run(at(4)).started) == 1

    def test_an_update_while_paused_plans_nothing(self) -> None:
        hand = Hand().create().do("pause_schedule")
        hand.do("update_schedule", ScheduleUpdateOptions(orchestration_name="other"))
        assert (hand.effects.signals, hand.told.orchestration_name) == ([], "other")
        assert hand.told.status is ScheduleStatus.PAUSED

    def test_an_update_that_changes_nothing_keeps_the_token(self) -> None:
        hand = Hand().create()
        before = hand.state
        hand.do("update_schedule", ScheduleUpdateOptions(interval=HOUR))
        assert (hand.state, hand.effects.signals) == (before, [])

    def test_creating_again_replaces_the_options_and_activates(self) -> None:
        hand = Hand().create().do("pause_schedule").create(at(5), interval=2 * HOUR)
        assert (hand.told.status, hand.told.interval) == (ScheduleStatus.ACTIVE, 2 * HOUR)
        assert (hand.told.created_at, hand.told.next_run_at) == (NOON, at(6))

    def test_after_deletion_signals_do_nothing(self) -> None:
        hand = Hand().create()
        token = hand.told.execution_token
        hand.do("delete")
        assert hand.run(at(1), token).started == []
        hand.create(at(0.5))
        assert hand.run(at(1.5), token).started == []

    def test_options_survive_to_the_microsecond(self) -> None:
        moment = at(5) + timedelta(microseconds=123_457)
        hand = Hand().create(start_at=moment, interval=timedelta(seconds=1, microseconds=1))
        assert (hand.told.start_at, hand.told.next_run_at) == (moment, moment)
        assert hand.told.interval == timedelta(seconds=1, microseconds=1)


class TestRefusals:
    @pytest.mark.parametrize("operation", ["pause_schedule", "resume_schedule", "update_schedule"])
    def test_of_what_does_not_exist(self, operation: str) -> None:
        with pytest.raises(ScheduleNotFoundError, match="no schedule 'daily'"):
            Hand().do(operation, ScheduleUpdateOptions() if operation == "update_schedule" else None)

    def test_a_second_pause(self) -> None:
        with pytest.raises(ScheduleInvalidTransitionError, match="is Paused: pause_schedule cannot"):
            Hand().create().do("pause_schedule").do("pause_schedule")

    def test_a_resumption_of_what_runs(self) -> None:
        with pytest.raises(ScheduleInvalidTransitionError) as refusal:
            Hand().create().do("resume_schedule")
        assert (refusal.value.from_status, refusal.value.operation_name) == ("Active", "resume_schedule")

    def test_an_update_that_ends_before_it_starts(self) -> None:
        hand = Hand().create(start_at=at(5))
        with pytest.raises(ScheduleClientValidationError, match="start_at must not be after end_at"):
            hand.do("update_schedule", ScheduleUpdateOptions(end_at=at(4)))

    def test_a_schedule_that_would_never_run(self) -> None:
        ages = timedelta(days=3_000_000)
        with pytest.raises(ScheduleClientValidationError, match="beyond the calendar"):
            Hand().create(interval=ages)
        with pytest.raises(ScheduleClientValidationError, match="beyond the calendar"):
            Hand().create().do("update_schedule", ScheduleUpdateOptions(interval=ages))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"schedule_id": ""}, "not blank"),
            ({"schedule_id": " "}, "not blank"),
            ({"schedule_id": None}, "not blank"),
            ({"schedule_id": "a@b"}, "'@'"),
            ({"schedule_id": "x" * 201}, "longer than 200"),
            ({"orchestration_name": ""}, "orchestration_name"),
            ({"orchestration_name": None}, "orchestration_name must be given"),
            ({"orchestration_name": "j" * 300}, "orchestration name has 300 characters"),
            ({"orchestration_name": "j\n"}, r"orchestration name contains U\+000A"),
            ({"orchestration_instance_id": ""}, "orchestration_instance_id"),
            ({"orchestration_instance_id": "i" * 300}, "orchestration_instance_id has 300 characters"),
            ({"orchestration_instance_id": "a\0b"}, r"orchestration_instance_id contains U\+0000"),
            ({"orchestration_instance_id": "@x@y"}, "must not start with '@'"),
            ({"interval": timedelta(seconds=0.999)}, "at least 1 second"),
            ({"interval": -HOUR}, "at least 1 second"),
            ({"interval": timedelta.max}, "interval must be .* at most 3652058 days"),
            ({"interval": 60}, "must be a timedelta"),
            ({"start_at": "tomorrow"}, "start_at must be a datetime"),
            ({"start_at": AFTER_THE_CALENDAR}, "start_at .* lies beyond the calendar"),
            ({"end_at": BEFORE_THE_CALENDAR}, "end_at .* lies beyond the calendar"),
            ({"start_at": at(2), "end_at": at(1)}, "start_at must not be after end_at"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        good: dict[str, Any] = {"schedule_id": "daily", "orchestration_name": "report", "interval": HOUR}
        with pytest.raises(ScheduleClientValidationError, match=message) as refusal:
            ScheduleCreationOptions(**good | options)
        assert isinstance(refusal.value, ValueError)

    def test_updates(self) -> None:
        with pytest.raises(ScheduleClientValidationError, match="at least 1 second"):
            ScheduleUpdateOptions(interval=timedelta(0))
        with pytest.raises(ScheduleClientValidationError, match="300 characters"):
            ScheduleUpdateOptions(orchestration_name="j" * 300)
        with pytest.raises(ScheduleClientValidationError, match=r"end_at .* lies beyond the calendar"):
            ScheduleUpdateOptions(end_at=AFTER_THE_CALENDAR)
        with pytest.raises(TypeError, match="interval must be a timedelta, not int"):
            ScheduleUpdateOptions(interval=5)  # type: ignore[arg-type]

    def test_queries(self) -> None:
        with pytest.raises(ValueError, match=r"created_to .* lies beyond the calendar"):
            ScheduleQuery(created_to=AFTER_THE_CALENDAR)


class TestRegistration:
    def test_twice_is_once(self) -> None:
        registry = Registry()
        worker = DurableTaskWorker(registry=registry)
        worker.configure_scheduled_tasks()
        worker.configure_scheduled_tasks()
        assert registry.entity("schedule").fn is Schedule
        assert sorted(registry.orchestrators) == [
            "execute_schedule_operation",
            "start_scheduled_orchestration",
        ]

    def test_a_schedule_of_ones_own_stays(self) -> None:
        registry = Registry()
        registry.add_entity(Hand, "schedule")
        with pytest.raises(ValueError, match="'schedule' is taken"):
            register(registry)
        assert not registry.orchestrators


@pytest.mark.parametrize("name", scheduled.__all__)
def test_public_names_say_where_they_are_imported_from(name: str) -> None:
    assert getattr(scheduled, name).__module__ == "durable_django.scheduled"
    assert name in dir(scheduled)


def test_definitions_need_no_django() -> None:
    code = (
        "import sys; sys.modules['django'] = None\n"
        "from durable_django.scheduled import ScheduleCreationOptions, ScheduleError\n"
        "import durable_django.scheduled.definitions\n"
    )
    root = Path(str(durable_django.__file__)).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=True)
