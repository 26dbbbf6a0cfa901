"""Live executions, kept between turns so that history is not read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from durable_django.core.replay import Execution
from durable_django.store.claims import Claimed


class _Entry(NamedTuple):
    execution: Execution
    execution_id: str
    next_sequence: int
    instance: Claimed | None


class ExecutionCache:
    """The live executions by their instance's primary key, the least recently moved dropped first.

    One is taken *out* to be fed, and put back when its turn is committed: whatever happens in between, nobody
    can find an execution here that is ahead of its history.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[int, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, key: int, execution_id: str, next_sequence: int) -> bool:
        """Tell whether the execution is here, just as far as its history."""
        entry = self._entries.get(key)
        return entry is not None and entry[1:3] == (execution_id, next_sequence)

    def instance(self, key: int) -> Claimed | None:
        """Return the instance as its last turn has left it, if that was kept with its execution."""
        entry = self._entries.get(key)
        return None if entry is None else entry.instance

    def take(self, key: int, execution_id: str, next_sequence: int) -> Execution | None:
        """Take an execution out; one that history has left behind is dropped."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        if entry[1:3] != (execution_id, next_sequence):
            entry.execution.close()
            return None
        return entry.execution

    def put(
        self,
        key: int,
        execution: Execution,
        execution_id: str,
        next_sequence: int,
        instance: Claimed | None = None,
    ) -> None:
        """Keep an execution whose turn is committed, and perhaps how that has left the instance."""
        self._entries[key] = _Entry(execution, execution_id, next_sequence, instance)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            _, oldest = self._entries.popitem(last=False)
            oldest.execution.close()

    def drop(self, key: int) -> None:
        """Forget an execution."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.execution.close()

    def clear(self) -> None:
        """Forget all."""
        for key in list(self._entries):
            self.drop(key)
