"""Real worker processes: what ``manage.py durable_worker`` starts in production, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

_STOP_SECONDS = 30


class WorkerProcess:
    """A worker in a process of its own, its log in ``directory``."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "durable_worker"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*command, "--name", name, "--concurrency", "4"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def check(self) -> None:
        """Do nothing while the worker is running, and raise a ``CommandError`` with its last words if not."""
        code = self._process.poll()
        if code is not None:
            raise CommandError(f"The worker has ended with code {code}:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the worker's log."""
        return "\n".join(self._log.read_text().splitlines()[-20:])

    def kill(self) -> int:
        """Kill the process with SIGKILL: it cannot say good-bye, and loses all that it has not committed."""
        self._process.kill()
        return self._process.wait()

    def stop(self) -> int:
        """Ask the process to drain, with SIGTERM, unless it has ended, and return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
