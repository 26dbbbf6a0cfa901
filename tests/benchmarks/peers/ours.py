"""durable_django, on PostgreSQL and on SQLite, with the settings that it comes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management import call_command
from django.db import connections

from durable_django.client import DurableTaskClient
from durable_django.models import Instance, InstanceStatus, Timer
from durable_django.store import rows, wakeup
from tests.benchmarks import orchestrations, processes
from tests.benchmarks.peers.copies import copy_rows
from tests.benchmarks.peers.system import DAYS_AHEAD, Program, System, wait_until
from tests.benchmarks.pipes import Running

if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server

_FAILED = (InstanceStatus.FAILED, InstanceStatus.TERMINATED)
_INSTANCE = "durable_django_instance"
_EVENT = "durable_django_historyevent"
# Far above what a measurement gets to.
_FIRST_COPY = 1_000_000
_SECONDS_A_DAY = 86_400


class Ours(System):
    """The package on PostgreSQL."""

    name = "ours"
    packages: ClassVar[tuple[str, ...]] = ("durable_django", "Django", "psycopg")
    configuration = "the default settings, LISTEN and NOTIFY among them"
    alias: ClassVar[str] = "default"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._client = DurableTaskClient(using=self.alias)
        self._instances = Instance.objects.using(self.alias)

    def set_up(self) -> None:
        call_command("migrate", database=self.alias, verbosity=0)

    def close(self) -> None:
        wakeup.hub(self.alias).close()  # it would miss the server

    def clear(self) -> None:
        processes.empty_tables(self.alias)

    def start(self, program: Program, number: int) -> str:
        return self._client.schedule_new_orchestration(_orchestrator(program), input=number)

    def start_in_bulk(self, program: Program, number: int, count: int) -> list[str]:
        return self._client.schedule_new_orchestrations(_orchestrator(program), [number] * count)

    def workers(self, program: Program, count: int = 1) -> AbstractContextManager[Running]:
        return processes.workers(self.alias, count=count)

    def caching_worker(self, executions: int) -> AbstractContextManager[Running]:
        """Run a worker whose cache holds so many live orchestrations."""
        return processes.workers(self.alias, settings={"CACHE_EXECUTIONS": executions})

    def result(self, orchestration: str) -> object:
        state = self._client.wait_for_orchestration_completion(orchestration, timeout=180)
        state.raise_if_failed()
        return state.get_output()

    def unfinished(self, orchestrations: Sequence[str]) -> int:
        condition, ids = rows.any_of(connections[self.alias].vendor, "instance_id", orchestrations)
        query = f"SELECT status FROM {_INSTANCE} WHERE {condition} AND status <> {InstanceStatus.COMPLETED:d}"
        statuses = [status for (status,) in rows.fetch_again(self.alias, query, ids)]
        if any(status in _FAILED for status in statuses):
            raise RuntimeError("an orchestration has failed")
        return len(statuses)

    def put_to_sleep(self, count: int) -> None:
        self.start_many(Program.SLEEP, DAYS_AHEAD * _SECONDS_A_DAY, count)
        wait_until(lambda: Timer.objects.using(self.alias).count() == count)

    def have_waiting(self, count: int) -> None:
        """Have so many orchestrations, and no others, wait for an event. A worker runs."""
        self.start_many(Program.WAIT, 0, count)
        wait_until(lambda: self._instances.filter(status=InstanceStatus.RUNNING).count() == count)

    def fill(self, finished: int, waiting: int) -> None:
        with self.workers(Program.WAIT):
            self.result(self.start(Program.CHAIN, 3))
            self.have_waiting(1)
        with self.server.connect(self.database) as connection:
            first = _FIRST_COPY
            for status, count in ((InstanceStatus.COMPLETED, finished), (InstanceStatus.RUNNING, waiting)):
                template = self._instances.get(status=status).pk
                changes = {"id": f"{first} + n", "instance_id": f"'copy-' || {first} + n"}
                copy_rows(connection, _INSTANCE, f"id = {template}", changes, count)
                changes = {"instance_id": f"{first} + n"}
                copy_rows(connection, _EVENT, f"instance_id = {template}", changes, count)
                first += count
            connection.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [_INSTANCE, first])


class OursOnSQLite(Ours):
    """The package on SQLite."""

    name = "ours-sqlite"
    packages = ("durable_django", "Django")
    configuration = "the default settings; SQLite commits with synchronous=NORMAL in WAL mode"
    only = frozenset({"w1-500", "w1-5000", "w4", "w4-local"})
    alias = "sqlite"


def _orchestrator(program: Program) -> Callable[..., Any]:
    orchestrator: Callable[..., Any] = getattr(orchestrations, program)
    return orchestrator
