"""The bundles that a worker holds: how many activities of each are still to be recorded, and since when."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from durable_django.store import activities, bundles
from durable_django.store.activities import Leased

LONGEST_SECONDS = 1.0
"""How long a bundle is kept: what takes longer is worth a row, in which others see it."""


@dataclass(slots=True)
class _Held:
    left: int
    since: float


class Bundles:
    """Keeps count of one worker's bundles. Thread-safe: turns empty them, and upkeep dissolves them.

    Whether a bundle is still there only its row says; a count that is wrong costs a row until the sweep.
    """

    def __init__(self, using: str, worker: str) -> None:
        self._using = using
        self._worker = worker
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}

    def open(self, leased: Iterable[Leased]) -> None:
        """Count activities that were leased in a bundle: they are committed, and have not begun."""
        counts = _counts(leased)
        now = time.monotonic()
        with self._lock:
            self._held |= {token: _Held(count, now) for token, count in counts.items()}

    def emptied_by(self, finished: Iterable[Leased]) -> list[int]:
        """Return the bundles that have no activities left but these."""
        counts = _counts(finished)
        with self._lock:
            held = {token: self._held.get(token) for token in counts}
        return [token for token, one in held.items() if one is not None and one.left <= counts[token]]

    def take_out(self, finished: Iterable[Leased]) -> None:
        """Count off activities: their results are committed."""
        counts = _counts(finished)
        with self._lock:
            for token, count in counts.items():
                held = self._held.get(token)
                if held is not None:
                    held.left -= count
                    if held.left <= 0:
                        del self._held[token]

    def dissolve(self, after: float = 0.0) -> None:
        """Dissolve the bundles that have been held for ``after`` seconds."""
        since = time.monotonic() - after
        with self._lock:
            tokens = [token for token, held in self._held.items() if held.since <= since]
        bundles.dissolve(self._using, tokens)
        self._forget(tokens)

    def dissolve_all(self) -> None:
        """Dissolve all bundles that the tables have of this worker, those of doubtful commits included."""
        with self._lock:
            tokens = list(self._held)
        bundles.dissolve_of_worker(self._using, self._worker)
        self._forget(tokens)

    def give_back(self, tokens: Sequence[int]) -> None:
        """Give back activities that have not begun: by the tokens of their leases, bundled or not."""
        if tokens:
            self.dissolve()
            activities.release(self._using, tokens)

    def _forget(self, tokens: Iterable[int]) -> None:
        with self._lock:
            for token in tokens:
                self._held.pop(token, None)


def _counts(leased: Iterable[Leased]) -> Counter[int]:
    return Counter([one.bundle for one in leased if one.bundle is not None])
