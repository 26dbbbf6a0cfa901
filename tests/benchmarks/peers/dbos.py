"""DBOS: sync workflows and steps, started through a queue by a client in another process.

A worker process has 16 threads and runs eight workflows of the queue at a time: more ran no faster. Queues
are polled, here every 10 ms in place of 1 s; LISTEN and NOTIFY are on, but wake no queue. Where a start is
timed until its result, or starts go on while others run, the worker itself starts the workflows, without a
queue, as that is quicker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from dbos import DBOS, DBOSClient
from sqlalchemy import create_engine

from tests.benchmarks import pipes
from tests.benchmarks.peers.copies import copy_rows
from tests.benchmarks.peers.system import DAYS_AHEAD, CannotError, Program, System, wait_until
from tests.benchmarks.pipes import Running

if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server

_QUEUE = "bench"
_THREADS = 16
_AT_ONCE = 8
_POLL_SECONDS = 0.01
_LOOK_SECONDS = 0.002
_SECONDS_A_DAY = 86_400
_TABLES = ("workflow_status", "operation_outputs", "workflow_input", "workflow_output")


class Peer(System):
    """DBOS, a workflow being an orchestration and a step of it an activity."""

    name = "dbos"
    packages = ("dbos", "psycopg")
    configuration = (
        f"sync workflows, {_THREADS} threads, pool of 20, {_AT_ONCE} at a time, queue polled every 10 ms"
    )
    notes = {
        "w1-single": "started by the worker process itself, without a queue",
        "w2": "async steps of one workflow",
        "w3": "started by the worker process itself, without a queue",
        "w5-bulk": "enqueue_in_transaction() in one transaction",
        "w6": "polls as in the other workloads; enqueued with a delay: one that sleeps holds a thread",
        "w7": "those that wait belong to another executor, since one that waits holds a thread",
    }

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._url = server.url(self.database).replace("postgresql:", "postgresql+psycopg:")

    def set_up(self) -> None:
        self.server.create(self.database)
        self._connection = self.server.connect(self.database)
        with self.workers(Program.CHAIN):
            """It makes the tables."""
        self._client = DBOSClient(system_database_url=self._url)
        self._engine = create_engine(self._url)

    def close(self) -> None:
        self._client.destroy()
        self._engine.dispose()
        self._connection.close()

    def clear(self) -> None:
        tables = self._connection.execute(
            "SELECT string_agg('dbos.' || relname, ', ') FROM pg_stat_user_tables WHERE schemaname = 'dbos'"
            " AND relname NOT IN ('dbos_migrations', 'queues', 'application_versions')"
        ).fetchone()
        assert tables is not None
        self._connection.execute(f"TRUNCATE {tables[0]}")

    def start(self, program: Program, number: int) -> str:
        return str(self._client.enqueue(_options(program, number), number).workflow_id)

    def start_in_bulk(self, program: Program, number: int, count: int) -> list[str]:
        with self._engine.begin() as transaction:
            handles = [
                self._client.enqueue_in_transaction(transaction, _options(program, number), number)
                for _ in range(count)
            ]
        return [handle.workflow_id for handle in handles]

    def workers(self, program: Program, count: int = 1) -> AbstractContextManager[Running]:
        return pipes.running(__name__, self._url, count=count)

    def result(self, orchestration: str) -> object:
        return self._client.retrieve_workflow(orchestration).get_result(polling_interval_sec=_LOOK_SECONDS)

    def unfinished(self, orchestrations: Sequence[str]) -> int:
        query = (
            "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = ANY(%s) AND status <> 'SUCCESS'"
        )
        statuses = [status for (status,) in self._connection.execute(query, [list(orchestrations)])]
        if "ERROR" in statuses:
            raise RuntimeError("a workflow has failed")
        return len(statuses)

    def round_trips(self, count: int, pause: float) -> list[float]:
        return [float(milliseconds) for milliseconds in self._measured("round_trips", count, pause)]

    def start_one_by_one(self, count: int) -> float:
        return float(self._measured("start_one_by_one", count, 0)[0])

    def put_to_sleep(self, count: int) -> None:
        self.start_many(Program.SLEEP, DAYS_AHEAD * _SECONDS_A_DAY, count)

    def fill(self, finished: int, waiting: int) -> None:
        with self.workers(Program.WAIT):
            self.result(self.start(Program.CHAIN, 3))
            self.start(Program.WAIT, 0)
            wait_until(lambda: self._id("PENDING") is not None)
        self._connection.execute(
            "UPDATE dbos.workflow_status SET executor_id = 'other' WHERE status = 'PENDING'"
        )
        for status, count in (("SUCCESS", finished), ("PENDING", waiting)):
            own = f"workflow_uuid = '{self._id(status)}'"
            for table in _TABLES:
                changes = {"workflow_uuid": f"'{status}-' || n"}
                copy_rows(self._connection, f"dbos.{table}", own, changes, count)

    def _id(self, status: str) -> str | None:
        query = "SELECT workflow_uuid FROM dbos.workflow_status WHERE status = %s AND started_at_epoch_ms > 0"
        row = self._connection.execute(query, [status]).fetchone()
        return None if row is None else str(row[0])

    def _measured(self, measurement: str, count: int, pause: float) -> list[Any]:
        command = [sys.executable, "-m", __name__, self._url, measurement, str(count), str(pause)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found: list[Any] = json.loads(output.splitlines()[-1])
        return found


def _options(program: Program, number: int) -> Any:
    if program is Program.LOCAL_CHAIN:
        raise CannotError("each step commits on its own")
    options = {"workflow_name": str(program), "queue_name": _QUEUE}
    return options | {"delay_seconds": number} if program is Program.SLEEP else options


@contextmanager
def _launched(url: str) -> Iterator[dict[str, Any]]:
    """The workflows by their names, in a running DBOS."""
    logging.disable(logging.WARNING)
    config = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "max_executor_threads": _THREADS,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    workflows = _registered()
    DBOS.launch()
    yield workflows
    DBOS.destroy()


def _registered() -> dict[str, Any]:
    def return_input(number: int) -> int:
        return number

    def return_time() -> float:
        return time.time()

    async def return_soon(number: int) -> int:
        return number

    nothing, now, soon = (DBOS.step()(function) for function in (return_input, return_time, return_soon))

    def chain(length: int) -> int:
        for number in range(length):
            nothing(number)
        return length

    def timed_chain(length: int) -> list[float]:
        return [now() for _ in range(length)]

    async def fan_out(width: int) -> int:
        await asyncio.gather(*[soon(number) for number in range(width)])
        return width

    def wait(_: int) -> None:
        DBOS.recv("never", timeout_seconds=_SECONDS_A_DAY)

    def sleep(_: int) -> float:
        return float(now())

    programs = (chain, timed_chain, fan_out, wait, sleep)
    return {program.__name__: DBOS.workflow(name=program.__name__)(program) for program in programs}


@contextmanager
def _worker(url: str) -> Iterator[float]:
    with _launched(url):
        DBOS.register_queue(_QUEUE, worker_concurrency=_AT_ONCE, polling_interval_sec=_POLL_SECONDS)
        yield time.time()


def _round_trips(chain: Any, count: int, pause: float) -> list[float]:
    milliseconds = []
    for _ in range(count + 5):
        time.sleep(pause)
        started = time.perf_counter()
        DBOS.start_workflow(chain, 1).get_result()
        milliseconds.append((time.perf_counter() - started) * 1000)
    return milliseconds[5:]


def _start_one_by_one(chain: Any, count: int) -> list[float]:
    DBOS.start_workflow(chain, 3).get_result()
    started = time.perf_counter()
    for handle in [DBOS.start_workflow(chain, 3) for _ in range(count)]:
        handle.get_result()
    return [time.perf_counter() - started]


def _measure(url: str, measurement: str, count: int, pause: float) -> None:
    with _launched(url) as workflows:
        chain = workflows["chain"]
        found = (
            _round_trips(chain, count, pause)
            if measurement == "round_trips"
            else _start_one_by_one(chain, count)
        )
    pipes.say(json.dumps(found))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [url]:
            pipes.serve(lambda: _worker(url))
            os._exit(0)  # not waiting for the threads of workflows that wait
        case [url, measurement, count, pause]:
            _measure(url, measurement, int(count), float(pause))
