"""procrastinate, a job queue: what one plain queued job costs, without steps, results or histories.

A worker process runs async jobs, ten at a time, woken by LISTEN and NOTIFY, on a pool of ten connections.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from tests.benchmarks import pipes
from tests.benchmarks.peers.copies import copy_rows
from tests.benchmarks.peers.system import DAYS_AHEAD, CannotError, Program, System
from tests.benchmarks.pipes import Running

if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server

_AT_ONCE = 10
_LOOK_SECONDS = 0.002
_SECONDS_A_DAY = 86_400
_WITHOUT = {
    Program.TIMED_CHAIN: "a job has no steps",
    Program.LOCAL_CHAIN: "a job has no steps",
    Program.FAN_OUT: "a job cannot wait for others",
    Program.WAIT: "a job cannot wait for an event",
}


class Peer(System):
    """procrastinate, one plain job being an orchestration."""

    name = "procrastinate"
    packages = ("procrastinate", "psycopg")
    configuration = f"async jobs, {_AT_ONCE} at a time, LISTEN and NOTIFY, pool of {_AT_ONCE}"
    notes = {
        "w1": "one plain job in place of three steps",
        "w3": "one plain job",
        "w5-bulk": "batch_defer()",
        "w6": "jobs scheduled for later, which the default poll every 5 s finds",
        "w7": "one plain job; those that wait are jobs scheduled for later",
    }

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._url = server.url(self.database)
        self._app = App(connector=SyncPsycopgConnector(conninfo=self._url))

    def set_up(self) -> None:
        self.server.create(self.database)
        self._app.open()
        self._app.schema_manager.apply_schema()
        self._connection = self.server.connect(self.database)

    def close(self) -> None:
        self._app.close()
        self._connection.close()

    def clear(self) -> None:
        self._connection.execute(
            "TRUNCATE procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers"
        )

    def start(self, program: Program, number: int) -> str:
        return str(self._job(program, number).defer(number=number))

    def start_in_bulk(self, program: Program, number: int, count: int) -> list[str]:
        return [str(job) for job in self._job(program, number).batch_defer(*[{"number": number}] * count)]

    def workers(self, program: Program, count: int = 1) -> AbstractContextManager[Running]:
        return pipes.running(__name__, self._url, count=count)

    def result(self, orchestration: str) -> object:
        while self.unfinished([orchestration]):
            time.sleep(_LOOK_SECONDS)
        row = self._connection.execute(
            "SELECT extract(epoch FROM max(at)) FROM procrastinate_events WHERE job_id = %s", [orchestration]
        ).fetchone()
        assert row is not None
        return float(row[0])

    def unfinished(self, orchestrations: Sequence[str]) -> int:
        query = (
            "SELECT status::text FROM procrastinate_jobs"
            " WHERE id = ANY(%s::bigint[]) AND status <> 'succeeded'"
        )
        statuses = [status for (status,) in self._connection.execute(query, [list(orchestrations)])]
        if "failed" in statuses:
            raise RuntimeError("a job has failed")
        return len(statuses)

    def put_to_sleep(self, count: int) -> None:
        self.start_many(Program.SLEEP, DAYS_AHEAD * _SECONDS_A_DAY, count)

    def fill(self, finished: int, waiting: int) -> None:
        with self.workers(Program.CHAIN):
            job = self.start(Program.CHAIN, 3)
            self.result(job)
        copies = {"id": "1000000 + n"}
        copy_rows(self._connection, "procrastinate_jobs", f"id = {job}", copies, finished)
        copies = {"job_id": "1000000 + n"}
        copy_rows(self._connection, "procrastinate_events", f"job_id = {job}", copies, finished)
        self._connection.execute("SELECT setval('procrastinate_jobs_id_seq', %s)", [1_000_000 + finished])
        self.put_to_sleep(waiting)

    def _job(self, program: Program, number: int) -> Any:
        if program in _WITHOUT:
            raise CannotError(_WITHOUT[program])
        options = {"schedule_in": {"seconds": number}} if program is Program.SLEEP else {}
        return self._app.configure_task("nothing", **options)


@contextmanager
def _worker(url: str) -> Iterator[None]:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=_AT_ONCE, max_size=_AT_ONCE))

    async def nothing(number: int) -> int:
        return number

    app.task(name="nothing")(nothing)

    async def work() -> None:
        async with app.open_async():
            await app.run_worker_async(
                concurrency=_AT_ONCE, install_signal_handlers=False, listen_notify=True
            )

    threading.Thread(target=lambda: asyncio.run(work()), daemon=True).start()
    yield


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    pipes.serve(lambda: _worker(sys.argv[1]))
