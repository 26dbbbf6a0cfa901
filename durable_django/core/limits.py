"""Limits of queues: how many activities at once, and how many within some time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9})?\s*([smhd])\s*")
_LATE = 0.03
"""How late a start may be found to be, as a part of the period, and not be put off."""
_MARGIN = 1.05
"""By how much starts are spaced wider: one that is late makes no period one too full.

That is the lateness, and as much again as an activity may take from there to its first line.
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` within any ``seconds``: they begin one by one, evenly spaced."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate such as ``20/s``, ``100/5m`` or ``1000/d``: seconds, minutes, hours or days.

        Raises:
            ValueError: It has another form, or allows nothing.
        """
        found = _RATE.fullmatch(text)
        if found is None or not int(found[1]) or found[2] == "0":
            raise ValueError(f"A rate has the form count/period, such as '20/s' or '100/5m', not {text!r}")
        return cls(int(found[1]), int(found[2] or 1) * _UNITS[found[3]])

    @property
    def per_second(self) -> int:
        """How many begin in a second, rounded up."""
        return -(-self.count // self.seconds)

    @property
    def spacing(self) -> timedelta:
        """How long after one the next may begin."""
        return timedelta(seconds=self.seconds / self.count * _MARGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for all activities of a queue together, and for those of each limit key; None is no limit.

    They hold across all workers and all other engines that run activities of the queue.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    key_concurrency: int | None = None
    key_rate: Rate | None = None

    @classmethod
    def parse(cls, given: Any) -> Limits:
        """Read limits as the settings have them, rates as text.

        Raises:
            ValueError: A key is unknown, or a value no limit.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            raise ValueError(f"limits are a dictionary with some of {', '.join(names)}, not {given!r}")
        if unknown := sorted(map(str, given.keys() - set(names))):
            raise ValueError(f"there is no limit {', '.join(unknown)}; there are {', '.join(names)}")
        return cls(**{name: _limit(name, value) for name, value in given.items()})

    @property
    def has_rates(self) -> bool:
        """Whether it matters when an activity begins."""
        return not (self.rate is None and self.key_rate is None)

    @property
    def latest(self) -> timedelta:
        """How late an activity may be sent off and make no one too many for the rates: 3% of their time."""
        rates = [rate for rate in (self.rate, self.key_rate) if rate is not None]
        return timedelta(seconds=min((rate.seconds for rate in rates), default=0) * _LATE)

    @property
    def for_engines(self) -> Limits:
        """The same for engines that begin activities by themselves: as many as begin in a second, at most."""
        return replace(
            self,
            concurrency=_lower(self.concurrency, self.rate),
            key_concurrency=_lower(self.key_concurrency, self.key_rate),
        )


def _lower(most: int | None, rate: Rate | None) -> int | None:
    return most if rate is None else min(most or rate.per_second, rate.per_second)


def _limit(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith("rate"):
        if isinstance(value, str):
            return Rate.parse(value)
        raise ValueError(f"{name} is a text such as '20/s', not {value!r}")
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"{name} is a positive number of activities, not {value!r}")
