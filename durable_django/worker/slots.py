"""Slots: how many more activities a worker may lease now."""

from __future__ import annotations

from collections.abc import Iterator

from durable_django.store.scope import Served


class Slots:
    """Counts down as activities are leased: plain ones, and ``async def`` ones, which need no thread each.

    Without a count of their own (``on_loop`` None) the latter take the slots of plain ones.
    """

    def __init__(self, plain: int, on_loop: int | None, served: Served, async_names: frozenset[str]) -> None:
        self._plain = plain
        self._on_loop = on_loop or 0
        self._served = served
        self._async_names = frozenset() if on_loop is None else async_names

    def take(self, queue: str, name: str, version: str | None) -> bool:
        """Take a slot for an activity, if there is one and this worker runs such."""
        if not self._served.takes(queue, name, version):
            return False
        return self.count(name) >= 0

    def count(self, name: str) -> int:
        """Take a slot for an activity that is leased, and return how many are left of its sort."""
        if name in self._async_names:
            self._on_loop -= 1
            return self._on_loop
        self._plain -= 1
        return self._plain

    def left(self) -> Iterator[tuple[Served, int]]:
        """Yield the sorts of activities that are counted by themselves, each with how many slots are left."""
        yield self._served.but(self._async_names), max(0, self._plain)
        if self._async_names:
            yield self._served.only(self._async_names), max(0, self._on_loop)
