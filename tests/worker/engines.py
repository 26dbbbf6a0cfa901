"""Another engine, for tests: threads that run what they are handed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from durable_django.worker.dispatch import ActivityDispatcher, Handed
from durable_django.worker.remote import execute_activity
from tests.worker.byhand import elsewhere


class Threads(ActivityDispatcher):
    """Runs each activity in a thread of its own; keeps it for the test to run if ``holds`` is set."""

    holds: ClassVar[bool] = False
    refuses: ClassVar[int] = 0
    held: ClassVar[list[Handed]] = []

    @classmethod
    def reset(cls) -> None:
        cls.holds, cls.refuses, cls.held = False, 0, []

    def dispatch(self, activities: Sequence[Handed]) -> None:
        if Threads.refuses:
            Threads.refuses -= 1
            raise ConnectionError("nobody there")
        Threads.held += activities
        if not self.holds:
            for handed in activities:
                threading.Thread(target=run_in_thread, args=(handed,)).start()


def run(handed: Handed) -> bool:
    """Run what was handed over, as an engine does, in this thread."""
    return execute_activity(handed.using, handed.token, engine="threads")


def run_in_thread(handed: Handed) -> bool:
    """Run it in a thread of its own, and wait for that."""
    return elsewhere(lambda: run(handed))


class Wrong:
    """No dispatcher."""

    def __init__(self, *_: Any) -> None: ...
