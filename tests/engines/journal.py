"""A journal that activities in many processes keep of when they begin and end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Journal:
    """A folder with a file for each activity that is running, and one file with all that happened."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._running = self._folder / "running"
        self._log = self._folder / "log"

    @classmethod
    def new(cls, folder: Path) -> Journal:
        """Begin a journal in a folder that is empty."""
        (folder / "running").mkdir()
        (folder / "log").touch()
        return cls(folder)

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Note the beginning, and the end."""
        mark = self._running / uuid.uuid4().hex
        self._note("begin")
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()
            self._note("end")

    def _note(self, what: str) -> None:
        at = time.time()
        with self._log.open("a") as log:  # A short line is written at once, after all others.
            log.write(f"{at:.6f} {what}\n")

    def running(self) -> int:
        """Return how many activities are running."""
        return sum(1 for _ in self._running.iterdir())

    def begins(self) -> list[float]:
        """Return when activities began, in order."""
        return sorted(at for at, what in self._entries() if what == "begin")

    def most_at_once(self) -> int:
        """Return how many activities ran at once, at most."""
        running = most = 0
        # What ends at the very moment at which another begins has ended before.
        for _at, what in sorted(self._entries(), key=lambda entry: (entry[0], entry[1] == "begin")):
            running += 1 if what == "begin" else -1
            most = max(most, running)
        return most

    def _entries(self) -> list[tuple[float, str]]:
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [(float(at), what) for at, what in lines]


def most_within(seconds: float, times: list[float]) -> int:
    """Return how many of ``times``, which are in order, lie within any ``seconds`` at most."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
