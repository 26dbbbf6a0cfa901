"""Which of an execution's task failures brought it down: what a rewind has to undo."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from weakref import ref


@dataclass(slots=True, eq=False)
class Failure:
    """A task's failure: its position in the history, and the position from which on the code knew of it.

    ``error`` refers to the exception without keeping it alive: what is gone leads to nothing any more.
    """

    position: int
    error: ref[BaseException] | None = None
    known_from: int | None = None

    def leads_to(self, errors: Container[int]) -> bool:
        """Whether the failure's exception is among ``errors``, given by identity."""
        error = self.error and self.error()
        return error is not None and id(error) in errors

    def is_known_since(self, decision: int) -> bool:
        """Whether the code learned of the failure when its next decision stood at ``decision``, or later."""
        return self.known_from is not None and self.known_from >= decision

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

    def blame(self, cause: BaseException, last_step: int) -> tuple[list[int] | None, int | None]:
        """Return the positions of the failures to undo, and the position from which on decisions are undone.

        To undo are the failures that led to ``cause``, and those that the code did not know of before:
        undoing these changes nothing that is kept. A ``cause`` that is chained to none of them comes from
        what the code learned in its last step, whose decisions begin at ``last_step``.
        """
        chain = {id(error) for error in _chain(cause)}
        causes = [failure for failure in self._failures if failure.leads_to(chain)]
        causes = causes or [failure for failure in self._failures if failure.is_known_since(last_step)]
        undo_from = min(
            (failure.known_from for failure in causes if failure.known_from is not None), default=None
        )
        positions = {failure.position for failure in causes}
        for failure in self._failures:
            if failure.known_from is None or (undo_from is not None and failure.is_known_since(undo_from)):
                positions.add(failure.position)
        return sorted(positions) or None, undo_from


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
