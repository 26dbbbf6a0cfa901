"""What a system must be able to do to be measured.

Each one is a `System` in a module of this package, and knows how its own worker processes are run.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from tests.benchmarks.pipes import Running

if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server

DAYS_AHEAD = 30
"""How far ahead a sleeping orchestration is to wake."""

_LOOK_SECONDS = 0.01
_LAST = 20
_CHUNK = 1000
_PATIENCE_SECONDS = 180.0


class Program(StrEnum):
    """What orchestrations do. Each takes a number, and ends with what is said here."""

    CHAIN = "chain"
    """Run so many activities one after the other, each of which returns its input. Ends with the number."""

    TIMED_CHAIN = "timed_chain"
    """The same with activities that return `time.time()`, which costs no more. Ends with their results."""

    LOCAL_CHAIN = "timed_local_chain"
    """`TIMED_CHAIN` with activities that the orchestration's own transaction runs."""

    FAN_OUT = "fan_out"
    """Run so many activities at once. Ends with the number."""

    WAIT = "wait"
    """Wait for an event that does not come."""

    SLEEP = "sleep"
    """Sleep so many seconds. Ends with `time.time()`."""


class CannotError(Exception):
    """The system has no means for this; the message says why. ``figures`` were measured all the same."""

    def __init__(self, reason: str, figures: Mapping[str, float] = MappingProxyType({})) -> None:
        super().__init__(reason)
        self.figures = dict(figures)


class System(ABC):
    """A system on its own database, seen from the process that starts orchestrations and measures."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    configuration: ClassVar[str]
    """What was chosen where there is a choice, in a sentence."""

    notes: ClassVar[dict[str, str]] = {}
    """What is different in a workload, by the workload's name or its first part."""

    only: ClassVar[frozenset[str] | None] = None
    """The workloads that are measured, by name; None is all."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.versions = {package: version(package) for package in self.packages}

    @property
    def database(self) -> str:
        """The name of this system's own database on the server."""
        return f"bench_{self.name}"

    @abstractmethod
    def set_up(self) -> None:
        """Make what `clear` empties."""

    @abstractmethod
    def clear(self) -> None:
        """Delete all that was started. No worker runs."""

    def close(self) -> None:  # noqa: B027  (there may be nothing to close)
        """Let go of what this process holds."""

    @abstractmethod
    def start(self, program: Program, number: int) -> str:
        """Start one orchestration in a transaction of its own, and return its id."""

    @abstractmethod
    def start_in_bulk(self, program: Program, number: int, count: int) -> list[str]:
        """Start orchestrations together, the fastest way that there is, and return their ids."""

    def start_many(self, program: Program, number: int, count: int) -> list[str]:
        """Start orchestrations whose start is not measured."""
        return self.start_in_bulk(program, number, count)

    @abstractmethod
    def workers(self, program: Program, count: int = 1) -> AbstractContextManager[Running]:
        """Run worker processes that can do ``program`` and `Program.CHAIN`."""

    @abstractmethod
    def result(self, orchestration: str) -> object:
        """Wait for an orchestration and return its result, as fast as the system tells."""

    @abstractmethod
    def unfinished(self, orchestrations: Sequence[str]) -> int:
        """Count those of some orchestrations that have not ended; RuntimeError if one has failed."""

    @abstractmethod
    def put_to_sleep(self, count: int) -> None:
        """Have so many orchestrations sleep for `DAYS_AHEAD`. One worker runs."""

    @abstractmethod
    def fill(self, finished: int, waiting: int) -> None:
        """Add so many finished `Program.CHAIN`s and so many `Program.WAIT`s. No worker runs."""

    def wait_for_all(self, orchestrations: Sequence[str]) -> None:
        """Wait until all have ended: first the last few, which end last, since to look has its price."""
        others = orchestrations[:-_LAST]
        chunks = [others[start : start + _CHUNK] for start in range(0, len(others), _CHUNK)]
        for chunk in (orchestrations[-_LAST:], *chunks):
            wait_until(lambda chunk=chunk: not self.unfinished(chunk))  # type: ignore[misc]

    def round_trips(self, count: int, pause: float) -> list[float]:
        """Run chains of one activity on an idle system; milliseconds from each one's start to its result."""
        with self.workers(Program.CHAIN):
            for _ in range(5):
                self.result(self.start(Program.CHAIN, 1))
            return [self.round_trip(pause) for _ in range(count)]

    def round_trip(self, pause: float) -> float:
        """Run one such chain after a pause in seconds."""
        time.sleep(pause)
        started = time.perf_counter()
        self.result(self.start(Program.CHAIN, 1))
        return (time.perf_counter() - started) * 1000

    def start_one_by_one(self, count: int) -> float:
        """Start chains of three one by one while a worker runs.

        Returns the seconds from the first start to the last end.
        """
        with self.workers(Program.CHAIN):
            self.result(self.start(Program.CHAIN, 3))
            started = time.perf_counter()
            self.wait_for_all([self.start(Program.CHAIN, 3) for _ in range(count)])
            return time.perf_counter() - started


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again; TimeoutError after three minutes."""
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not finished after {_PATIENCE_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)
