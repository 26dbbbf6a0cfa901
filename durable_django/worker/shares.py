"""Shares: how much of a backlog's end one worker takes, so that all come to its end together.

Who takes new orchestrations takes as many as fit into a batch. Where fewer than that are left for each
worker, one of them would be at work long after the others have nothing left to do.
"""

from __future__ import annotations

import time
from datetime import datetime

from django.db.backends.utils import CursorWrapper

from durable_django.store import claims, workers
from durable_django.store.scope import Served

LEAST = 100
"""The smallest share: of less, each batch would cost more than a worker that waits."""

_STRETCH = 4
"""By which part, one in so many, a batch grows for a rest that would else be a small one, step after step."""

_KNOWN_SECONDS = 2.0
"""How long the number of workers is known: what they serve, which is compared, may be long."""


class Shares:
    """What of a backlog's end is one worker's. Not thread-safe."""

    def __init__(self, using: str, worker: str) -> None:
        self._using = using
        self._worker = worker
        self._fellows = 1
        self._counted_at = float("-inf")
        self._has_left = False

    def starts(self, cursor: CursorWrapper, served: Served, now: datetime, room: int) -> tuple[int, bool]:
        """Return how many pending instances to start where there is ``room`` for so many.

        These are fewer if others could take them as well, and somewhat more if they are the last. With it
        comes whether some are left to others now. What was left to others once, and is there the next time,
        is left to nobody.
        """
        if room < LEAST:
            return room, False
        if self._has_left:
            self._has_left = False
            return room, False
        fellows = self._count_fellows()
        most = room + room // _STRETCH
        pending = claims.count_pending(cursor, served, now, most * fellows + 1)
        if pending > most * fellows:
            return room, False
        share = max(LEAST, -(-pending // fellows))
        self._has_left = share < min(room, pending)
        return min(share, pending), self._has_left

    def _count_fellows(self) -> int:
        present = time.monotonic()
        if present - self._counted_at > _KNOWN_SECONDS:
            self._fellows = workers.count_fellows(self._using, self._worker)
            self._counted_at = present
        return self._fellows
