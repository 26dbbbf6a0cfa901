"""A month of a schedule in virtual time, with two workers that race for every signal."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connections

from durable_django.client import DurableTaskClient
from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.scheduled import ScheduleCreationOptions, ScheduleUpdateOptions
from durable_django.scheduled.definitions import register
from durable_django.scheduled.options import entity_id
from durable_django.store import clock
from durable_django.store.scope import Served
from durable_django.worker.entities import EntityProcessor

pytestmark = pytest.mark.django_db(transaction=True)

ID = "daily"


def january(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2030, 1, 1, hour, minute) + timedelta(days=day - 1)


class TwoWorkers:
    """Two entity processors that look for work at the same moments."""

    def __init__(self) -> None:
        registry = Registry()
        register(registry)
        self.processors = [
            EntityProcessor(DEFAULT_DB_ALIAS, registry, PayloadCodec(), Served()) for _ in range(2)
        ]
        self.client = DurableTaskClient()
        self.errors: list[BaseException] = []

    def send(self, operation: str, value: Any = None) -> None:
        self.client.signal_entity(entity_id(ID), operation, value)

    def pass_time(self, until: datetime) -> None:
        """Work until then, at every instant at which something is due."""
        while True:
            self.settle()
            due = self.processors[0].next_due()
            clock.move(min(due or until, until) - clock.now())
            if clock.now() >= until:
                self.settle()
                return

    def be_away(self, until: datetime) -> None:
        clock.move(until - clock.now())

    def settle(self) -> None:
        together = threading.Barrier(2)
        threads = [threading.Thread(target=self._work, args=(each, together)) for each in self.processors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.errors

    def _work(self, processor: EntityProcessor, together: threading.Barrier) -> None:
        try:
            while True:
                together.wait(20)
                addresses = processor.ready(10)
                for address in addresses:
                    processor.run(address)
                # Both have seen the same, or one has been faster: a round without work for either ends it.
                together.wait(20)
                if not processor.ready(10):
                    return
        except threading.BrokenBarrierError:
            return
        except BaseException as error:  # noqa: BLE001 - the test tells of it
            self.errors.append(error)
        finally:
            together.abort()
            connections.close_all()


def test_the_instants_are_those_of_the_table() -> None:
    with clock.frozen(january(1)):
        workers = TwoWorkers()
        workers.send(
            "create_schedule",
            ScheduleCreationOptions(ID, "report", timedelta(days=1), start_at=january(2, 9)),
        )
        workers.pass_time(january(5, 12))
        workers.send("pause_schedule")
        workers.pass_time(january(8, 12))
        workers.send("resume_schedule")
        workers.pass_time(january(10, 10))
        workers.be_away(until=january(13, 15))
        workers.pass_time(january(15, 20))
        workers.send("update_schedule", ScheduleUpdateOptions(interval=timedelta(hours=12)))
        workers.pass_time(january(18))
        workers.send(
            "update_schedule", ScheduleUpdateOptions(start_at=january(20, 0, 30), interval=timedelta(days=2))
        )
        workers.pass_time(january(25))
        workers.send("pause_schedule")
        workers.pass_time(january(25, 12))
        workers.send("resume_schedule")
        workers.pass_time(january(29))
        workers.send("update_schedule", ScheduleUpdateOptions(end_at=january(30, 0, 30)))
        workers.pass_time(january(40))

    table = {
        # The run's own time: when it was started.
        january(2, 9): january(2, 9),
        january(3, 9): january(3, 9),
        january(4, 9): january(4, 9),
        january(5, 9): january(5, 9),
        # Paused: 6, 7, 8.
        january(9, 9): january(9, 9),
        january(10, 9): january(10, 9),
        # Nobody is there: the run of the 11th is late, those of the 12th and the 13th are left out.
        january(11, 9): january(13, 15),
        january(14, 9): january(14, 9),
        january(15, 9): january(15, 9),
        # Every twelve hours.
        january(15, 21): january(15, 21),
        january(16, 9): january(16, 9),
        january(16, 21): january(16, 21),
        january(17, 9): january(17, 9),
        january(17, 21): january(17, 21),
        # Every two days from another start.
        january(20, 0, 30): january(20, 0, 30),
        january(22, 0, 30): january(22, 0, 30),
        january(24, 0, 30): january(24, 0, 30),
        # A pause that no run falls into.
        january(26, 0, 30): january(26, 0, 30),
        january(28, 0, 30): january(28, 0, 30),
        # The last one.
        january(30, 0, 30): january(30, 0, 30),
    }
    happened = {
        state.instance_id: state.created_at for state in workers.client.get_all_orchestration_states()
    }
    assert happened == {
        f"{ID}-{planned.replace(tzinfo=UTC).isoformat()}": started for planned, started in table.items()
    }
    assert workers.client.get_entity(entity_id(ID)) is None
    assert workers.processors[0].next_due() is None


def test_it_goes_at_its_end() -> None:
    with clock.frozen(january(1)):
        workers = TwoWorkers()
        yearly = ScheduleCreationOptions(
            ID, "report", timedelta(days=365), start_at=january(2), end_at=january(4)
        )
        workers.send("create_schedule", yearly)
        workers.pass_time(january(3, 23))
        assert workers.client.get_entity(entity_id(ID)) is not None
        workers.pass_time(january(4))

    (run,) = workers.client.get_all_orchestration_states()
    assert run.created_at == january(2)
    assert workers.client.get_entity(entity_id(ID)) is None
    assert workers.processors[0].next_due() is None


def test_an_outage_over_its_end_costs_no_run() -> None:
    with clock.frozen(january(1)):
        workers = TwoWorkers()
        daily = ScheduleCreationOptions(ID, "report", timedelta(days=1), end_at=january(4))
        workers.send("create_schedule", daily)
        workers.pass_time(january(1, 12))
        workers.be_away(until=january(20))
        workers.pass_time(january(20, 1))

    (run,) = workers.client.get_all_orchestration_states()
    assert run.instance_id == f"{ID}-2030-01-02T00:00:00+00:00"
    assert run.created_at == january(20)
    assert workers.client.get_entity(entity_id(ID)) is None
