"""The bundles that a worker holds: how many activities of each are still to be recorded, and since when."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from durable_django.store import activities, bundles
from durable_django.store.activities import Leased
from durable_django.worker.leases import lease_end

LONGEST_SECONDS = 1.0
"""How long a bundle is kept: what takes longer is worth a row, in which others see it."""


@dataclass(slots=True)
class _Held:
    size: int
    left: int
    since: float


class Bundles:
    """Keeps count of one worker's bundles. Thread-safe: turns empty them, and upkeep dissolves them.

    Whether a bundle is still there only its row says; a count that is wrong costs a row until the sweep. What
    a turn has locked is left for the next time: it may last, and signs of life must not wait for it.
    """

    def __init__(self, using: str, worker: str) -> None:
        self._using = using
        self._worker = worker
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._returned: list[int] = []

    def open(self, leased: Iterable[Leased]) -> None:
        """Count activities that were leased in a bundle: they are committed, and have not begun."""
        counts = _counts(leased)
        now = time.monotonic()
        with self._lock:
            self._held |= {token: _Held(count, count, now) for token, count in counts.items()}

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
        """Dissolve the bundles that have been held for ``after`` seconds, but for those that are locked."""
        since = time.monotonic() - after
        with self._lock:
            tokens = [token for token, held in self._held.items() if held.since <= since]
        if tokens:
            locked = bundles.dissolve(self._using, tokens, lease_until=lease_end())
            self._forget(token for token in tokens if token not in locked)

    def dissolve_all(self) -> None:
        """Dissolve all bundles that the tables have of this worker, those of doubtful commits included."""
        with self._lock:
            tokens = list(self._held)
        bundles.dissolve_of_worker(self._using, self._worker, wait=True, lease_until=lease_end())
        self._forget(tokens)

    def give_back(self, tokens: Iterable[int] = ()) -> None:
        """Give back activities that have not begun, by the tokens of their leases, bundled or not.

        What is in a bundle that is locked is given back when this is called the next time.
        """
        with self._lock:
            returned, self._returned = [*self._returned, *tokens], []
        if not returned:
            return
        try:
            self.dissolve()
            with self._lock:
                held = [range(token, token + one.size) for token, one in self._held.items()]
            bundled = {token for token in returned if any(token in tokens for tokens in held)}
            activities.release(self._using, [token for token in returned if token not in bundled])
            returned = list(bundled)
        finally:
            with self._lock:
                self._returned += returned

    def _forget(self, tokens: Iterable[int]) -> None:
        with self._lock:
            for token in tokens:
                self._held.pop(token, None)


def _counts(leased: Iterable[Leased]) -> Counter[int]:
    return Counter([one.bundle for one in leased if one.bundle is not None])
