"""Which of an execution's task failures brought it down: what a rewind has to undo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Failure:
    """A task's failure: its position in the history, and the position from which on the code knew of it."""

    position: int
    error: BaseException | None = None
    known_from: int | None = None

    def observe(self, next_decision: int) -> None:
        """Note that the code has seen the failure, its next decision to stand at ``next_decision``."""
        if self.known_from is None:
            self.known_from = next_decision


class FailureLog:
    """The failures of one execution's tasks."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []

    def add(self, position: int) -> Failure:
        """Enter a failure that stands at ``position`` in the history."""
        failure = Failure(position)
        self._failures.append(failure)
        return failure

    def blame(self, cause: BaseException) -> tuple[list[int] | None, int | None]:
        """Return the positions of the failures to undo, and the position from which on decisions are undone.

        To undo are the failures that led to ``cause``, and those that the code has never seen: undoing these
        changes nothing that it did.
        """
        chain = {id(error) for error in _chain(cause)}
        causes = [failure for failure in self._failures if id(failure.error) in chain]
        unseen = [failure for failure in self._failures if failure.known_from is None]
        positions = sorted({failure.position for failure in (*causes, *unseen)})
        known = [failure.known_from for failure in causes if failure.known_from is not None]
        return positions or None, min(known, default=None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that led to it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
