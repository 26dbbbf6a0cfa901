"""The Durable Task SDK on its in-memory test backend, which keeps nothing: a floor, not a durable peer.

The backend is a gRPC server in a process of its own, the worker is in another, the client in this one. The
worker has the SDK's default concurrency, no trace spans and no log.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.task import when_all
from durabletask.testing import create_test_backend
from durabletask.worker import TaskHubGrpcWorker

from tests.benchmarks import pipes
from tests.benchmarks.peers.system import CannotError, Program, System
from tests.benchmarks.pipes import Running

if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server

_PATIENCE_SECONDS = 180


class Peer(System):
    """The SDK, whose orchestrations and activities are these very ones."""

    name = "durabletask"
    packages = ("durabletask", "grpcio")
    configuration = "in memory, NOT durable; the backend, the worker and the client are a process each"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._backend = ExitStack()

    def set_up(self) -> None:
        """Everything is in the backend's memory, which `clear` makes anew."""

    def close(self) -> None:
        self._backend.close()

    def clear(self) -> None:
        self._backend.close()
        self._address = f"localhost:{_free_port()}"
        self._backend.enter_context(pipes.running(__name__, "backend", self._address))
        self._client = TaskHubGrpcClient(
            host_address=self._address, logger=_quiet_logger(), emit_trace_spans=False
        )
        self._backend.callback(self._client.close)

    def start(self, program: Program, number: int) -> str:
        if program is Program.LOCAL_CHAIN:
            raise CannotError("each activity is a work item of its own")
        return str(self._client.schedule_new_orchestration(str(program), input=number))

    def start_many(self, program: Program, number: int, count: int) -> list[str]:
        return [self.start(program, number) for _ in range(count)]

    def start_in_bulk(self, program: Program, number: int, count: int) -> list[str]:
        raise CannotError("the client starts one at a time")

    def workers(self, program: Program, count: int = 1) -> AbstractContextManager[Running]:
        return pipes.running(__name__, "worker", self._address, count=count)

    def result(self, orchestration: str) -> object:
        state = self._client.wait_for_orchestration_completion(orchestration, timeout=_PATIENCE_SECONDS)
        assert state is not None
        state.raise_if_failed()
        return state.get_output()

    def unfinished(self, orchestrations: Sequence[str]) -> int:
        for orchestration in orchestrations:
            state = self._client.wait_for_orchestration_completion(
                orchestration, fetch_payloads=False, timeout=_PATIENCE_SECONDS
            )
            if state is None or state.runtime_status is not OrchestrationStatus.COMPLETED:
                raise RuntimeError("an orchestration has failed")
        return 0

    def put_to_sleep(self, count: int) -> None:
        raise CannotError("the test backend keeps a thread for every timer")

    def fill(self, finished: int, waiting: int) -> None:
        raise CannotError("there are no tables: the backend would have to run them all, at some 100/s")


Steps = Generator[Any, Any, Any]


def nothing(_: Any, number: int) -> int:
    """Return the input."""
    return number


def now(_: Any, _number: int) -> float:
    """Return the time."""
    return time.time()


def chain(ctx: Any, length: int) -> Steps:
    """See `Program.CHAIN`."""
    for number in range(length):
        yield ctx.call_activity(nothing, input=number)
    return length


def timed_chain(ctx: Any, length: int) -> Steps:
    """See `Program.TIMED_CHAIN`."""
    times: list[float] = []
    while len(times) < length:
        times.append((yield ctx.call_activity(now, input=len(times))))
    return times


def fan_out(ctx: Any, width: int) -> Steps:
    """See `Program.FAN_OUT`."""
    yield when_all([ctx.call_activity(nothing, input=number) for number in range(width)])
    return width


def wait(ctx: Any, _: int) -> Steps:
    """See `Program.WAIT`."""
    yield ctx.wait_for_external_event("never")


def sleep(ctx: Any, seconds: float) -> Steps:
    """See `Program.SLEEP`."""
    yield ctx.create_timer(timedelta(seconds=seconds))
    return (yield ctx.call_activity(now, input=0))


@contextmanager
def _backend(address: str) -> Iterator[None]:
    backend = create_test_backend(port=int(address.rpartition(":")[2]))
    yield
    backend.stop()


@contextmanager
def _worker(address: str) -> Iterator[None]:
    with TaskHubGrpcWorker(host_address=address, emit_trace_spans=False) as worker:
        for orchestrator in (chain, timed_chain, fan_out, wait, sleep):
            worker.add_orchestrator(orchestrator)
        for activity in (nothing, now):
            worker.add_activity(activity)
        worker.start()
        yield


def _quiet_logger() -> logging.Logger:
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.ERROR)
    return logger


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    _, kind, address = sys.argv
    pipes.serve(lambda: _backend(address) if kind == "backend" else _worker(address))
