"""Processes that the benchmark starts and speaks to through their pipes.

Such a process says "ready" once it has loaded, starts its work when it is told to by a line, says since when
it works, and ends with its input.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType

_SECONDS_TO_END = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """Processes that run at once: their ids, and since when (`time.time()`) the first of them works."""

    pids: tuple[int, ...]
    started_at: float


@contextmanager
def running(
    module: str,
    *arguments: str,
    count: int = 1,
    environment: Mapping[str, str] = MappingProxyType({}),
    attach: Callable[[int], Callable[[], object]] | None = None,
) -> Iterator[Running]:
    """Run ``count`` processes of a module that calls `serve`, ``environment`` added to this process's own.

    All are loaded before the first one starts, so that none has a lead. ``attach``, if given, is called with
    the id of the first before it starts, and what that returns once all have ended.

    Raises:
        ChildProcessError: one of them ended before it worked.
    """
    command = [sys.executable, "-m", module, *arguments]
    with ExitStack() as detachments, ExitStack() as stack:
        processes = [stack.enter_context(_process(command, environment)) for _ in range(count)]
        for process in processes:
            _hear(process)
        if attach is not None:
            detachments.callback(attach(processes[0].pid))
        for process in processes:
            _tell(process)
        started_at = min(float(_hear(process)) for process in processes)
        yield Running(tuple(process.pid for process in processes), started_at)


def serve(work: Callable[[], AbstractContextManager[float | None]]) -> None:
    """Be such a process: enter ``work`` once told to, and leave it when the input ends.

    It yields the time (`time.time()`) since when it works; None is the moment at which it was told to.
    """
    say("ready")
    if sys.stdin.readline():
        told_at = time.time()
        with work() as since:
            say(str(told_at if since is None else since))
            sys.stdin.read()


def say(line: str) -> None:
    """Write a line to the parent process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def _process(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment),
    ) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ChildProcessError(f"{process.args!r} ended with {process.wait()}")
    return line


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("start\n")
    process.stdin.flush()
