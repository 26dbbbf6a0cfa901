"""What the demo prints: headings, progress and tables, in plain ASCII."""

from __future__ import annotations

import time
from collections.abc import Sequence

from django.core.management.base import OutputWrapper

_WIDTH = 78
_BAR = 30
_LINE_SECONDS = 1.0


class Screen:
    """Writes to a terminal, where progress is one line that changes, or to a file: a line a second."""

    def __init__(self, out: OutputWrapper) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._printed_at = 0.0

    def heading(self, text: str) -> None:
        """Begin a part of the demo."""
        self._out.write(f"\n{text}\n{'-' * _WIDTH}")

    def line(self, text: str = "") -> None:
        """Write a line of a part."""
        self._out.write(f"  {text}" if text else "")

    def check(self, passed: bool, text: str) -> None:
        """Write what was checked, and how that went."""
        self.line(f"[{'ok' if passed else 'FAILED'}] {text}")

    def progress(self, done: int, total: int, seconds: float, *, last: bool = False) -> None:
        """Show how far something has come; ``last`` says that it goes no further."""
        if not total:
            return
        now = time.monotonic()
        if not (last or self._is_terminal or now - self._printed_at >= _LINE_SECONDS):
            return
        self._printed_at = now
        share = done / total
        bar = "#" * int(share * _BAR)
        text = f"  {seconds:5.1f} s  [{bar:<{_BAR}}] {share:4.0%}  {done:,} of {total:,} files"
        if self._is_terminal:
            self._out.write(f"\r{text:<{_WIDTH}}", ending="\n" if last else "")
            self._out.flush()
        else:
            self._out.write(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """Write a table; the columns numbered in ``right`` are flush right."""
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        for row in (head, ["-" * width for width in widths], *rows):
            cells = [
                f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.line("  ".join(cells).rstrip())
