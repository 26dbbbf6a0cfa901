"""What the demo has found out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from testproject.demo.screen import Screen


@dataclass
class Step:
    """A part of the demo: what it checked, and how long it took."""

    title: str
    started_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    summary: str = ""
    checks: list[bool] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all of its checks went well, and there were some."""
        return bool(self.checks) and all(self.checks)

    def check(self, screen: Screen, passed: bool, text: str) -> None:
        """Note and show the outcome of a check."""
        self.checks.append(passed)
        screen.check(passed, text)

    def end(self, summary: str) -> None:
        """Stop the clock, and say in a few words what was done."""
        self.seconds = time.monotonic() - self.started_at
        self.summary = summary
