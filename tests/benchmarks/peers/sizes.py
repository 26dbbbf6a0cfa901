"""How much is measured: less of what is slow, so that a run ends in reasonable time."""

from __future__ import annotations

from dataclasses import dataclass

_SIGNIFICANT = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each thing is measured."""

    few: int = 500
    many: int = 5_000
    seconds: float = 10.0
    """How long a backlog may take, unless it is of the few."""
    fan_out: int = 1_000
    chain: int = 1_000
    round_trips: int = 100
    starts: int = 2_000
    sleeping: int = 10_000
    idle_seconds: float = 10.0
    finished: int = 100_000
    waiting: int = 10_000
    live: int = 10_000


QUICK = Sizes(
    few=100,
    many=500,
    seconds=2.0,
    fan_out=200,
    chain=200,
    round_trips=20,
    starts=200,
    sleeping=500,
    idle_seconds=3.0,
    finished=2_000,
    waiting=200,
    live=500,
)


def scaled(wanted: int, rate: float, seconds: float) -> int:
    """Return how many of the wanted ones end within so many seconds: all, or a round number, 10 at least.

    ``rate`` is how many end in a second.
    """
    affordable = int(rate * seconds)
    if affordable >= wanted:
        return wanted
    unit: int = 10 ** max(1, len(str(affordable)) - _SIGNIFICANT)
    return max(10, affordable // unit * unit)
