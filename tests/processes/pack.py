"""A pack of worker processes, from the test's side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent.parent


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Pack:
    """Workers that can be started and killed within milliseconds."""

    SETTINGS = "tests.processes.settings"

    def __init__(self, environment: dict[str, str], log: Path, **settings: Any) -> None:
        self._log = log
        self._stderr = log.open("w")
        self.environment = environment | {
            "DJANGO_SETTINGS_MODULE": self.SETTINGS,
            "DURABLE_DJANGO": json.dumps(settings),
        }
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.launcher"],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self.pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in list(self.pids):
            self.kill(pid)
        self._launcher.communicate()
        self._stderr.close()

    def start(self, *options: str) -> int:
        """Start a worker and return its process id."""
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.write(" ".join(["--verbosity=0", *options]) + "\n")
        self._launcher.stdin.flush()
        pid = int(self._launcher.stdout.readline())
        self.pids.append(pid)
        return pid

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill a worker, and wait until it is gone."""
        self.pids.remove(pid)
        if is_alive(pid):
            os.kill(pid, number)
        self.wait(pid)

    def wait(self, pid: int, seconds: float = 30.0) -> None:
        """Wait until a worker is gone."""
        deadline = time.monotonic() + seconds
        while is_alive(pid):
            assert time.monotonic() < deadline, f"process {pid} does not end"
            time.sleep(0.002)

    def log(self) -> str:
        """Return what the workers have logged."""
        return self._log.read_text()
