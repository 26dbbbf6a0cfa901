"""Workers are killed at random, again and again, while orchestrations run: nothing is lost, or done twice."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection

from durable_django.client import DurableTaskClient
from durable_django.core import events
from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus, Message, Timer
from durable_django.store import histories, retention
from tests.processes.pack import Pack

pytestmark = [pytest.mark.stress, pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

USING = "default"
KILLS = 50
WORKERS = 2
SECONDS_TO_FINISH = 90.0

_SETTINGS = {
    "LEASE_SECONDS": 3,
    "HEARTBEAT_SECONDS": 0.5,
    "POLL_INTERVAL": 0.2,
    "ACTIVITY_THREADS": 8,
    "LOCAL_ACTIVITIES": 2,
}


@dataclass
class Storm:
    """Orchestrations with what each is to return, and the events that have yet to be sent."""

    rng: random.Random
    expected: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, list[int]] = field(default_factory=dict)
    client: DurableTaskClient = field(default_factory=DurableTaskClient)

    def start(self) -> None:
        """Start one more orchestration."""
        name, given, expected = self._draw()
        instance_id = f"{name}-{len(self.expected)}"
        self.expected[instance_id] = expected
        self.client.schedule_new_orchestration(name, input=given, instance_id=instance_id)
        if name in ("collector", "relay"):
            self.pending[instance_id] = list(expected)

    def _draw(self) -> tuple[str, Any, Any]:
        size = self.rng.randint(1, 8)
        names = ["chain", "fan_out", "retries", "naps", "family", "collector", "relay", "pingpong", "ledger"]
        name = self.rng.choices(names, [2, 1, 1, 1, 1, 1, 1, 1, 2])[0]
        match name:
            case "fan_out":
                return name, size * 8, list(range(1, size * 8 + 1))
            case "family":
                return name, 1 + size // 2, list(range(1, 2 + size // 2))
            case "collector":
                return name, size, list(range(size))
            case "relay":
                return name, {"seen": [], "count": size}, list(range(size))
        return name, size, size

    def send_some(self, most: int) -> None:
        """Send up to ``most`` of the events that are still to be sent, each instance's in order."""
        for _ in range(most):
            if not self.pending:
                return
            instance_id = self.rng.choice(list(self.pending))
            self.client.raise_orchestration_event(
                instance_id, "number", data=self.pending[instance_id].pop(0)
            )
            if not self.pending[instance_id]:
                del self.pending[instance_id]

    def unfinished(self) -> int:
        """Return how many instances have not ended."""
        ended = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)
        return Instance.objects.exclude(status__in=ended).count()


@pytest.fixture
def seed() -> int:
    """Give the storm's seed: ``STORM_SEED``, or always the same. It is printed if the test fails."""
    chosen = int(os.environ.get("STORM_SEED", "1"))
    print(f"STORM_SEED={chosen}")  # noqa: T201 - pytest shows it with a failure
    return chosen


def test_nothing_is_lost_and_nothing_done_twice(
    seed: int, command_environment: dict[str, str], tmp_path: Path
) -> None:
    count = 100 if connection.vendor == "sqlite" else 300
    storm = Storm(random.Random(seed))
    with Pack(command_environment, tmp_path / "workers.log", **_SETTINGS) as pack:
        for _ in range(WORKERS):
            pack.start()
        for number in range(KILLS):
            while len(storm.expected) < count * (number + 1) // KILLS:
                storm.start()
            storm.send_some(count // KILLS * 3)
            time.sleep(storm.rng.uniform(0.05, 0.45))
            pack.kill(storm.rng.choice(pack.pids))
            pack.start()
        storm.send_some(count * 8)
        assert not storm.pending
        deadline = time.monotonic() + SECONDS_TO_FINISH
        while storm.unfinished():
            assert time.monotonic() < deadline, f"{describe_unfinished()}\n{pack.log()[-5000:]}"
            time.sleep(0.05)
        log = pack.log()
    check_results(storm)
    check_tables()
    check_entries(storm)
    assert "durable_history_sequence" not in log, "the tripwire is for the case that all else fails"


def describe_unfinished() -> list[dict[str, Any]]:
    """Say what is known of the instances that have not ended."""
    return [
        {
            "id": instance.instance_id,
            "status": instance.get_status_display(),
            "tries": instance.tries,
            "waiting_for": instance.waiting_for,
            "messages": list(Message.objects.filter(instance=instance).values()),
            "timers": Timer.objects.filter(instance=instance).count(),
            "activities": list(ActivityTask.objects.filter(instance=instance).values()),
            "history": histories.read(USING, instance.pk, instance.execution_id)[-6:],
        }
        for instance in Instance.objects.filter(status__in=[0, 6, 7])
    ]


def check_results(storm: Storm) -> None:
    """Check that all have completed, with the results that were expected."""
    found = {instance.instance_id: instance for instance in Instance.objects.all()}
    assert found.keys() >= storm.expected.keys()
    for instance in found.values():
        assert instance.status == InstanceStatus.COMPLETED, (instance.instance_id, instance.failure)
    for instance_id, expected in storm.expected.items():
        output = found[instance_id].output
        assert output is not None
        assert json.loads(output) == expected, instance_id


def check_entries(storm: Storm) -> None:
    """Check that each local activity has written its row, once; the rows are unique."""
    expected = [
        f"{instance_id} {number}"
        for instance_id, length in storm.expected.items()
        if instance_id.startswith("ledger-")
        for number in range(length)
    ]
    assert expected
    assert sorted(Group.objects.values_list("name", flat=True)) == sorted(expected)


def check_tables() -> None:
    """Check what must hold of the tables when all is done."""
    executions = defaultdict(list)
    for key, execution_id, sequence in HistoryEvent.objects.order_by("sequence").values_list(
        "instance_id", "execution_id", "sequence"
    ):
        executions[key, execution_id].append(sequence)
    for sequences in executions.values():
        assert sequences == list(range(len(sequences)))
    for instance in Instance.objects.all():
        assert instance.next_sequence == len(executions[instance.pk, instance.execution_id])
        check_history(instance)
    retention.sweep(USING)
    for model in (Message, Timer, ActivityTask):
        assert list(model._default_manager.values()) == []


def check_history(instance: Instance) -> None:
    """Check that each decision of an instance has one result."""
    history = histories.read(USING, instance.pk, instance.execution_id)
    scheduled: Counter[tuple[str, int]] = Counter()
    answered: Counter[tuple[str, int]] = Counter()
    for event in history:
        match event:
            case events.TaskScheduledEvent():
                scheduled["activity", event.event_id] += 1
            case events.TaskCompletedEvent() | events.TaskFailedEvent():
                answered["activity", event.task_scheduled_id] += 1
            case events.SubOrchestrationInstanceCreatedEvent():
                scheduled["child", event.event_id] += 1
            case (
                events.SubOrchestrationInstanceCompletedEvent() | events.SubOrchestrationInstanceFailedEvent()
            ):
                answered["child", event.task_scheduled_id] += 1
            case events.TimerCreatedEvent():
                scheduled["timer", event.event_id] += 1
            case events.TimerFiredEvent():
                answered["timer", event.timer_id] += 1
    assert scheduled == answered, (instance.instance_id, history)
