"""Redis servers and clusters of django-q2, in processes that tests may kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis

ROOT = Path(__file__).resolve().parent.parent.parent


class Server:
    """A process, and all that it has started, to be killed at once and started again."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill it with SIGKILL, and its children with it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """Return what it has said."""
        return self._log.read_text(errors="replace")

    def _until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert self._process is not None
            assert self._process.poll() is None, f"it has ended:\n{self.log()[-3000:]}"
            assert time.monotonic() < deadline, f"it does not start:\n{self.log()[-3000:]}"
            time.sleep(0.02)


class Redis(Server):
    """A Redis of the test's own, which forgets everything when it is killed."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.fail("These tests need Redis: redis-server is not installed.")
        self.port = _free_port()
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
        command = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        super().__init__([binary, *command], folder / "redis.log")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        super().start()
        client = redis.Redis(port=self.port)
        try:
            self._until(lambda: _answers(client))
        finally:
            client.close()

    def waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        client = redis.Redis(port=self.port)
        try:
            return int(client.llen(queue))
        finally:
            client.close()


class Cluster(Server):
    """A cluster of django-q2."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        super().__init__([sys.executable, "manage.py", "qcluster"], folder / "cluster.log", environment)

    def start(self) -> None:
        """Start it, and wait until its processes are there."""
        before = self._running()
        super().start()
        self._until(lambda: self._running() > before)

    def _running(self) -> int:
        return self.log().count("ready for work") if self._log.exists() else 0


class TasksWorker(Server):
    """A worker of django-tasks-db, a backend of Django's Tasks framework."""

    def __init__(self, environment: dict[str, str], folder: Path, number: int) -> None:
        command = [sys.executable, "manage.py", "db_worker", "--interval", "0.05", "--no-startup-delay"]
        super().__init__(command, folder / f"tasks-{number}.log", environment)

    def start(self) -> None:
        """Make the backend's tables, if they are not there, and start it."""
        migrate = [sys.executable, "manage.py", "migrate", "django_tasks_database", "--verbosity", "0"]
        subprocess.run(migrate, cwd=ROOT, env=self._environment, check=True)
        super().start()
        self._until(lambda: "Starting worker" in self.log())


def cluster_settings(broker: dict[str, Any]) -> str:
    """Return ``Q_CLUSTER`` as the environment has it."""
    common = {"workers": 3, "timeout": 30, "retry": 60, "poll": 0.05, "scheduler": False, "guard_cycle": 0.5}
    return json.dumps({"name": "engines", **common, **broker})


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
