"""Commands in processes of their own, gates that hold activities, and waiting for both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durable_django.models import Worker

MANAGE = Path(__file__).parents[2] / "manage.py"
TIMEOUT = 30.0


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def worker_pids() -> set[int]:
    """Return the processes of all workers that have entered and not left."""
    return set(Worker.objects.values_list("pid", flat=True))


class Gate:
    """Holds the activities that wait at it until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def pids(self) -> list[int]:
        """The process of each activity that has ever waited."""
        waiting = Path(f"{self.path}.waiting")
        return [int(line) for line in waiting.read_text().split()] if waiting.exists() else []

    def wait_for(self, count: int = 1) -> None:
        """Wait until ``count`` activities have come."""
        eventually(lambda: len(self.pids) >= count, f"{count} activities wait at the gate")

    def open(self) -> None:
        """Let all through, now and later."""
        self.path.touch()


class Command:
    """``manage.py durable_worker`` in a process of its own."""

    def __init__(self, environment: dict[str, str], log: Path, *options: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(MANAGE), "durable_worker", *options],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What the process has written."""
        return self._log.read_text()

    def wait_for_log(self, text: str) -> None:
        """Wait until the process has written ``text``."""
        eventually(lambda: text in self.log, f"{text!r} in the log:\n{self.log}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"The command does not end:\n{self.log}")


Start = Callable[..., Command]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate, open at the end, whatever happens."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def start(command_environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts workers: ``start("--burst", LEASE_SECONDS=9)``; what is left of them is killed at the end."""
    commands: list[Command] = []

    def make(*options: str, **settings: Any) -> Command:
        environment = command_environment | {
            "DJANGO_SETTINGS_MODULE": "tests.management.settings",
            "DURABLE_DJANGO": json.dumps({"POLL_INTERVAL": 0.1, **settings}),
        }
        command = Command(environment, tmp_path / f"log-{len(commands)}", *options)
        commands.append(command)
        return command

    yield make
    for pid in worker_pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for command in commands:
        command.process.kill()
        command.process.wait()
