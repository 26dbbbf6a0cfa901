"""Checks of what callers hand in, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from numbers import Real
from typing import Any, TypeVar

from durable_django.client.types import OrchestrationIdReusePolicy
from durable_django.core.errors import scrub
from durable_django.core.ids import MAX_NAME_LENGTH, check_name, check_text
from durable_django.core.serialization import PayloadCodec
from durable_django.core.status import OrchestrationStatus
from durable_django.core.times import naive_utc

Q = TypeVar("Q")

_HIGHEST_COUNT = 2**31 - 1
_LONGEST_PREFIX = 2 * MAX_NAME_LENGTH + len("@@")
_IN_NO_ID = "\x1a"  # Every database takes this character, and no id may have it.


def check_tags(tags: Any, codec: PayloadCodec) -> dict[str, str] | None:
    """Return ``tags`` as a dictionary of strings; None for none."""
    if tags is None:
        return None
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a mapping of str to str, not {type(tags).__name__}")
    for key, value in tags.items():
        for text in (key, value):
            if not isinstance(text, str):
                raise TypeError(f"tags must map str to str; {key!r}: {value!r} has a {type(text).__name__}")
            codec.check(text, "tag", key)
    return dict(tags)


def check_version(version: str | None) -> str | None:
    """Return ``version`` if it is one or None; an empty one is none."""
    return check_name("version", version) if version else None


def sought_id(value: object, what: str = "instance_id") -> str:
    """Return an id to look for.

    One that no database holds becomes one that nothing has, lest a database refuse the question: nothing has
    either of them, which the caller is told as of any other id.

    Raises:
        TypeError: It is no text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    storable = scrub(value)
    return value if storable == value else storable + _IN_NO_ID


def check_timeout(value: object) -> float | None:
    """Return how many seconds to wait; None for None, which is for ever.

    Raises:
        TypeError: ``value`` is no number.
        ValueError: It is NaN, or more than a clock can count.
    """
    if value is None:
        return None
    if not isinstance(value, Real):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError("timeout must be a number of seconds that a clock can count, or None") from None
    if math.isnan(seconds):
        raise ValueError(f"timeout must be a number of seconds or None, not {value}")
    return seconds


def check_reuse_policy(policy: object) -> frozenset[OrchestrationStatus]:
    """Return the statuses of those whose ids may be taken over; none for None."""
    if policy is None:
        return frozenset()
    if not isinstance(policy, OrchestrationIdReusePolicy):
        raise TypeError(
            f"reuse_id_policy must be an OrchestrationIdReusePolicy or None, not {type(policy).__name__}"
        )
    return policy.replaceable_status


def check_time(what: str, value: object) -> datetime | None:
    """Return a time, aware or naive UTC, as naive UTC; None for None."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise TypeError(f"{what} must be a datetime, not {type(value).__name__}")
    return naive_utc(what, value)


def check_statuses(statuses: object) -> Sequence[OrchestrationStatus] | None:
    """Return the statuses to look for; None for none, which is any."""
    if statuses is None:
        return None
    if isinstance(statuses, str) or not isinstance(statuses, Iterable):
        raise TypeError(f"runtime_status must be a list of OrchestrationStatus, not {statuses!r}")
    found = []
    for status in statuses:
        try:
            found.append(OrchestrationStatus(status))
        except ValueError:
            raise TypeError(
                f"runtime_status must be a list of OrchestrationStatus; {status!r} is none"
            ) from None
    return found or None


def check_prefix(what: str, value: object) -> str:
    """Return what something is to begin with; None is nothing."""
    return "" if value is None or value == "" else check_text(what, value, _LONGEST_PREFIX)


def check_query(what: str, value: object, cls: type[Q]) -> Q:
    """Return a query; for None, the one that asks for all."""
    if value is None:
        return cls()
    if not isinstance(value, cls):
        raise TypeError(f"{what} must be an {cls.__name__} or None, not {type(value).__name__}")
    return value


def check_count(what: str, value: object, default: int) -> int:
    """Return a positive count; ``default`` for None."""
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, not {value}")
    if value > _HIGHEST_COUNT:
        raise ValueError(f"{what} must be at most {_HIGHEST_COUNT}, not {value}")
    return value
