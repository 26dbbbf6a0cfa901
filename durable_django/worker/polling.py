"""How long to wait before the tables are looked at again, if no wake-up comes."""

from __future__ import annotations

SHORTEST = 0.02
_STEPS = 16


def longer(pause: float, longest: float) -> float:
    """Return the pause, in seconds, that comes after one in which nothing happened: at least twice as long.

    What ``longest`` allows is reached within a few looks: where it is long, wake-ups arrive.
    """
    return min(max(pause * 2, longest / _STEPS), longest)
