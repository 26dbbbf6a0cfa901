"""What ``OPTIONS`` of the backend may hold: ``retry``, the policy by which failed tasks are tried again."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from durable_django.core.retry import RetryPolicy

RETRY = "retry"

_INTERVALS = ("first_retry_interval", "max_retry_interval")
_FIELDS = ("max_number_of_attempts", "backoff_coefficient", *_INTERVALS)


def retry_policy(options: object) -> RetryPolicy | None:
    """Return the policy in ``OPTIONS``, or None where there is none.

    It is a `RetryPolicy`, or a mapping of its parameters with intervals in seconds or as ``timedelta``.

    Raises:
        TypeError: ``OPTIONS`` or something in it is of the wrong type.
        ValueError: There is an unknown key, or a value is out of bounds.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"must be a dictionary, not {options!r}")
    _check_keys(options, [RETRY], "key")
    given = options.get(RETRY)
    policy = given if given is None or isinstance(given, RetryPolicy) else policy_of(given)
    if policy is not None and policy.retry_timeout is not None:
        # Each attempt has to know whether it is the last one: the others send no `task_finished`.
        raise ValueError("retry: retry_timeout is not supported. Limit max_number_of_attempts instead")
    return policy


def policy_of(given: object) -> RetryPolicy:
    """Return the policy that a mapping describes.

    Raises:
        TypeError: Something is of the wrong type, or missing.
        ValueError: There is an unknown key, or a value is out of bounds.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"retry must be a RetryPolicy or a dictionary, not {given!r}")
    _check_keys(given, [*_FIELDS, "retry_timeout"], "retry: key")
    if missing := [name for name in ("first_retry_interval", "max_number_of_attempts") if name not in given]:
        raise TypeError(f"retry: {' and '.join(missing)} must be given")
    try:
        return RetryPolicy(**{**given, **{name: _interval(given.get(name)) for name in _INTERVALS}})
    except (TypeError, ValueError) as error:
        raise type(error)(f"retry: {error}") from error


def describe(policy: RetryPolicy) -> dict[str, Any]:
    """Return a policy as a JSON object that `policy_of` reads."""
    described: dict[str, Any] = {
        "max_number_of_attempts": policy.max_number_of_attempts,
        "first_retry_interval": policy.first_retry_interval.total_seconds(),
        "backoff_coefficient": policy.backoff_coefficient,
    }
    if policy.max_retry_interval is not None:
        described["max_retry_interval"] = policy.max_retry_interval.total_seconds()
    return described


def _interval(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except OverflowError:
            raise ValueError(f"{value} seconds are longer than any interval can be") from None
    return value  # A timedelta; what is none, the policy refuses by name.


def _check_keys(given: Mapping[Any, Any], known: Iterable[str], what: str) -> None:
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There is {', '.join(map(repr, names))}."
            raise ValueError(f"{what} {name!r} is unknown. {hint}")
