"""Absurd: the SDK from absurd-sdk, the SQL functions from the first migration of django-absurd.

A worker process has four threads, each with a connection of its own, that claim ten tasks at a time: that
was the fastest of 1, 4, 8 and 16 threads, of the SDK's own thread pool on one connection, and of its asyncio
worker. There is no LISTEN and NOTIFY, so that worker and client look every 10 and every 2 ms.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from absurd_sdk import Absurd, AsyncAbsurd

from tests.benchmarks import pipes
from tests.benchmarks.peers.copies import copy_rows
from tests.benchmarks.peers.system import DAYS_AHEAD, CannotError, Program, System, wait_until
from tests.benchmarks.pipes import Running

if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server

_SCHEMA = "0001_initial_0_5_0.sql"
_QUEUE = "bench"
_TASKS = f"absurd.t_{_QUEUE}"
_RUNS = f"absurd.r_{_QUEUE}"
_THREADS = 4
_BATCH = 10
_POLL_SECONDS = 0.01
_LOOK_SECONDS = 0.002
_SECONDS_A_DAY = 86_400


class Peer(System):
    """Absurd, a task being an orchestration and a step of it an activity."""

    name = "absurd"
    packages = ("absurd-sdk", "django-absurd", "psycopg")
    configuration = f"{_THREADS} threads and connections a worker, {_BATCH} tasks a claim, polls every 10 ms"
    notes = {
        "w2": "steps of one task on the asyncio worker: a child task may not be awaited in its own queue",
        "w6": "polls as in the other workloads",
        "w5-bulk": "spawn_task() by executemany in one transaction",
    }

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._url = server.url(self.database)

    def set_up(self) -> None:
        self.server.create(self.database)
        self._connection = self.server.connect(self.database)
        schema = importlib.resources.files("django_absurd.migrations").joinpath(_SCHEMA)
        self._connection.execute(schema.read_bytes())
        self._client = Absurd(self._connection, queue_name=_QUEUE)

    def close(self) -> None:
        self._connection.close()

    def clear(self) -> None:
        self._client.drop_queue()
        self._client.create_queue()

    def start(self, program: Program, number: int) -> str:
        return str(self._client.spawn(_name(program), number, queue=_QUEUE)["task_id"])

    def start_in_bulk(self, program: Program, number: int, count: int) -> list[str]:
        query = "SELECT task_id::text FROM absurd.spawn_task(%s, %s, %s::text::jsonb)"
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(query, [(_QUEUE, _name(program), str(number))] * count, returning=True)
            return [row[0] for results in cursor.results() for row in results]

    def workers(self, program: Program, count: int = 1) -> AbstractContextManager[Running]:
        kind = "asyncio" if program is Program.FAN_OUT else "threads"
        return pipes.running(__name__, self._url, kind, count=count)

    def result(self, orchestration: str) -> object:
        while True:
            task = self._client.fetch_task_result(orchestration)
            assert task is not None
            if task.state == "completed":
                return task.result
            if task.state in ("failed", "cancelled"):
                raise RuntimeError(f"the task has {task.state}: {task.failure}")
            time.sleep(_LOOK_SECONDS)

    def unfinished(self, orchestrations: Sequence[str]) -> int:
        query = f"SELECT state FROM {_TASKS} WHERE task_id = ANY(%s::uuid[]) AND state <> 'completed'"
        states = [state for (state,) in self._connection.execute(query, [list(orchestrations)])]
        if "failed" in states:
            raise RuntimeError("a task has failed")
        return len(states)

    def put_to_sleep(self, count: int) -> None:
        self.start_many(Program.SLEEP, DAYS_AHEAD * _SECONDS_A_DAY, count)
        wait_until(lambda: self._sleeping() == count)

    def fill(self, finished: int, waiting: int) -> None:
        with self.workers(Program.WAIT):
            self.result(self.start(Program.CHAIN, 3))
            self.start(Program.WAIT, 0)
            wait_until(lambda: self._sleeping() == 1)
        for state, count in (("completed", finished), ("sleeping", waiting)):
            row = self._connection.execute(
                f"SELECT task_id FROM {_TASKS} WHERE state = %s", [state]
            ).fetchone()
            assert row is not None
            own = f"task_id = '{row[0]}'"
            task = {"task_id": f"md5('task {state} ' || n)::uuid"}
            run = {"run_id": f"md5('run {state} ' || n)::uuid"}
            for letter, changes in (
                ("t", task | {"last_attempt_run": run["run_id"]}),
                ("r", task | run),
                ("c", task | {"owner_run_id": run["run_id"]}),
                ("w", task | run),
            ):
                copy_rows(self._connection, f"absurd.{letter}_{_QUEUE}", own, changes, count)

    def _sleeping(self) -> int:
        row = self._connection.execute(f"SELECT count(*) FROM {_RUNS} WHERE state = 'sleeping'").fetchone()
        assert row is not None
        return int(row[0])


def _name(program: Program) -> str:
    if program is Program.LOCAL_CHAIN:
        raise CannotError("each step commits on its own")
    return str(program)


def _chain(length: int, task: Any) -> int:
    for number in range(length):
        task.step("nothing", lambda number=number: number)
    return length


def _timed_chain(length: int, task: Any) -> list[float]:
    return [task.step("now", time.time) for _ in range(length)]


def _wait(_: int, task: Any) -> None:
    task.await_event("never")


def _sleep(seconds: float, task: Any) -> float:
    task.sleep_for("sleep", seconds)
    return time.time()


async def _fan_out(width: int, task: Any) -> int:
    async def nothing(number: int) -> int:
        return number

    await asyncio.gather(*[task.step(f"nothing {n}", lambda n=n: nothing(n)) for n in range(width)])
    return width


async def _async_chain(length: int, task: Any) -> int:
    async def nothing() -> int:
        return 0

    for _ in range(length):
        await task.step("nothing", nothing)
    return length


@contextmanager
def _in_threads(url: str) -> Iterator[None]:
    apps = [Absurd(url, queue_name=_QUEUE) for _ in range(_THREADS)]
    for app in apps:
        for program, task in (
            (Program.CHAIN, _chain),
            (Program.TIMED_CHAIN, _timed_chain),
            (Program.WAIT, _wait),
            (Program.SLEEP, _sleep),
        ):
            app.register_task(program)(task)
    threads = [
        _daemon(partial(app.start_worker, batch_size=_BATCH, poll_interval=_POLL_SECONDS)) for app in apps
    ]
    yield
    for app in apps:
        app.stop_worker()
    for thread in threads:
        thread.join()


@contextmanager
def _in_asyncio(url: str) -> Iterator[None]:
    app = AsyncAbsurd(url, queue_name=_QUEUE)
    app.register_task(Program.CHAIN)(_async_chain)
    app.register_task(Program.FAN_OUT)(_fan_out)
    thread = _daemon(lambda: asyncio.run(app.start_worker(concurrency=_BATCH, poll_interval=_POLL_SECONDS)))
    yield
    app.stop_worker()
    thread.join()


def _daemon(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


if __name__ == "__main__":
    _, url, kind = sys.argv
    pipes.serve(lambda: _in_asyncio(url) if kind == "asyncio" else _in_threads(url))
