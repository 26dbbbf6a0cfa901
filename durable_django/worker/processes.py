"""Processes: a worker that is one, until a signal ends it, and a supervisor that keeps several running.

The supervisor starts its workers as commands of their own. A fork would hand the parent's open connections to
every child.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from durable_django.worker.worker import DurableTaskWorker

logger = logging.getLogger("durable_django.worker")

_LOOK_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_STABLE_SECONDS = 60.0
_YOUNG_OBJECTS = 25_000
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """What SIGTERM, SIGINT and SIGHUP have asked for. Only the thread that made it may wait for it."""

    def __init__(self) -> None:
        # The one queue that a signal handler may use: it may interrupt whoever is using it.
        self._queue: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        self.first: signal.Signals | None = None

    def wait(self, seconds: float) -> signal.Signals | None:
        """Return the next signal, or None if there was none within ``seconds``."""
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            return None

    def add(self, received: signal.Signals) -> None:
        """Take in a signal."""
        self.first = self.first or received
        self._queue.put(received)


@contextmanager
def stop_requests(*, exit_on_second: bool) -> Iterator[StopRequests]:
    """Turn SIGTERM, SIGINT and SIGHUP into requests; with ``exit_on_second``, the second ends this process.

    SIGHUP comes first or not at all: when a terminal closes it may come twice, and service managers may send
    it after SIGTERM. Outside the main thread, which alone can handle signals, there are no requests.
    """
    requests = StopRequests()

    def handle(number: int, _: FrameType | None) -> None:
        if requests.first is not None:
            if number == _HANGUP:
                return
            if exit_on_second:
                os._exit(128 + number)
        requests.add(signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in _handled_signals()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handled_signals() -> tuple[signal.Signals, ...]:
    if threading.current_thread() is not threading.main_thread():
        return ()
    # Under nohup it is ignored, and the process is to outlive its terminal.
    if _HANGUP is None or signal.getsignal(_HANGUP) is signal.SIG_IGN:
        return _STOP_SIGNALS
    return (*_STOP_SIGNALS, _HANGUP)


def settle() -> None:
    """Keep what is loaded by now out of the garbage collector's way. For a process that is a worker alone.

    It is there for good, and a busy worker would have all of it looked through every few seconds. A batch of
    turns makes tens of thousands of objects that live until it is committed, and then go without a collector:
    to look for garbage after every few hundred of them takes a tenth of the worker's time.
    """
    gc.collect()
    gc.freeze()
    young, *older = gc.get_threshold()
    if young:  # Else somebody has switched it off.
        gc.set_threshold(max(young, _YOUNG_OBJECTS), *older)


def serve(
    worker: DurableTaskWorker, requests: StopRequests, *, until_idle: bool = False, parent: int | None = None
) -> str:
    """Wait until a started worker is to be stopped, and return why.

    Reasons are a stop request, that nothing is ready and nothing runs (``until_idle``), and that the process
    ``parent``, which has started this one, is gone.
    """
    while True:
        if until_idle and worker.wait_until_idle(_LOOK_SECONDS):
            return "nothing left to do"
        received = requests.wait(0 if until_idle else _LOOK_SECONDS)
        if received is not None:
            return received.name
        if parent is not None and os.getppid() != parent:
            return "the supervisor is gone"


@dataclass(slots=True)
class _Child:
    """One of the supervisor's places: its process, if it has one, and when it gets the next one."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    crashes: int = 0
    is_done: bool = False


class Supervisor:
    """Keeps ``count`` processes of one command running until a stop signal, or until each has exited with 0.

    A process that crashes is started again: after half a second, and after twice as long with each crash that
    follows soon, up to half a minute. ``until_done`` says that exit code 0 means that there is no more to do;
    else a process that ends unasked is started again, whatever its code. The first signal is passed on, and
    the processes may drain; the second kills them.
    """

    def __init__(self, command: Sequence[str], count: int, *, until_done: bool) -> None:
        self._command = list(command)
        self._until_done = until_done
        self._children = [_Child(number) for number in range(1, count + 1)]

    def run(self, requests: StopRequests) -> int:
        """Supervise in this thread, the main one, and return the exit code: 0 if all processes ended well."""
        try:
            while not all(child.is_done for child in self._children):
                self._start_due()
                if requests.wait(_LOOK_SECONDS) is not None:
                    return self._stop(requests)
                self._look()
            return 0
        finally:
            self._kill()

    def _start_due(self) -> None:
        for child in self._children:
            if child.process is None and not child.is_done and time.monotonic() >= child.start_at:
                child.started_at = time.monotonic()
                # In a process group of its own, or Ctrl-C would reach it twice, once from here.
                child.process = subprocess.Popen(  # noqa: S603 - the command is this process's own
                    self._command, process_group=0
                )
                logger.info("Process %s started (pid %s)", child.number, child.process.pid)

    def _look(self) -> None:
        for child in self._children:
            code = child.process.poll() if child.process else None
            if child.process is None or code is None:
                continue
            pid, child.process = child.process.pid, None
            if code == 0 and self._until_done:
                child.is_done = True
            else:
                self._plan_restart(child, pid, code)

    def _plan_restart(self, child: _Child, pid: int, code: int) -> None:
        was_stable = time.monotonic() - child.started_at >= _STABLE_SECONDS
        child.crashes = 1 if was_stable else child.crashes + 1
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** (child.crashes - 1), _LONGEST_PAUSE_SECONDS)
        child.start_at = time.monotonic() + pause
        logger.error(
            "Process %s (pid %s) %s; it is started again in %g s",
            child.number,
            pid,
            _describe_exit(code),
            pause,
        )

    def _stop(self, requests: StopRequests) -> int:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        while any(process.poll() is None for process in running):
            if requests.wait(_LOOK_SECONDS) is not None:
                logger.warning("A second signal: the processes are killed")
                return 128 + (requests.first or signal.SIGTERM)
        # One that dies of the signal has not come as far as handling it: it has not begun to work.
        bad = [process for process in running if process.returncode not in (0, -signal.SIGTERM)]
        for process in bad:
            logger.error("The process with pid %s %s", process.pid, _describe_exit(process.returncode))
        return 1 if bad else 0

    def _kill(self) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.kill()
                child.process.wait()


def _describe_exit(code: int) -> str:
    """Say how a process ended, from its return code as ``subprocess`` has it."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
