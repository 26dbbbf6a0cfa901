from __future__ import annotations

import pickle
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_django.core.retry import RetryPolicy

START = datetime(2026, 1, 1)
SECOND = timedelta(seconds=1)


def policy(**options: Any) -> RetryPolicy:
    return RetryPolicy(**{"first_retry_interval": SECOND, "max_number_of_attempts": 5, **options})


def test_the_delay_grows_by_the_coefficient() -> None:
    retry = policy(first_retry_interval=2 * SECOND, backoff_coefficient=3)

    assert [retry.next_delay(attempt, START, START) for attempt in (1, 2, 3, 4)] == [
        2 * SECOND,
        6 * SECOND,
        18 * SECOND,
        54 * SECOND,
    ]


def test_the_delay_stays_the_same_by_default() -> None:
    assert {policy().next_delay(attempt, START, START) for attempt in (1, 2, 3, 4)} == {SECOND}


def test_the_delay_is_capped() -> None:
    retry = policy(backoff_coefficient=10, max_retry_interval=25 * SECOND)

    assert [retry.next_delay(attempt, START, START) for attempt in (1, 2, 3)] == [
        SECOND,
        10 * SECOND,
        25 * SECOND,
    ]


def test_the_first_attempt_counts() -> None:
    retry = policy(max_number_of_attempts=3)

    assert retry.next_delay(2, START, START) == SECOND
    assert retry.next_delay(3, START, START) is None
    assert policy(max_number_of_attempts=1).next_delay(1, START, START) is None


def test_no_attempt_starts_at_the_timeout_or_later() -> None:
    retry = policy(retry_timeout=10 * SECOND)

    assert retry.next_delay(1, START + timedelta(seconds=8.999), START) == SECOND
    assert retry.next_delay(1, START + 9 * SECOND, START) is None
    assert retry.next_delay(1, START + 60 * SECOND, START) is None


def test_an_enormous_backoff_is_capped_and_never_overflows() -> None:
    retry = policy(
        max_number_of_attempts=10**6, backoff_coefficient=1e300, max_retry_interval=timedelta(hours=1)
    )

    assert retry.next_delay(900_000, START, START) == timedelta(hours=1)


def test_a_delay_beyond_the_calendar_gives_up() -> None:
    assert policy(max_number_of_attempts=999, backoff_coefficient=2).next_delay(900, START, START) is None
    assert policy(first_retry_interval=timedelta.max).next_delay(1, START, START) is None


def test_no_interval_means_no_delay_whatever_the_coefficient() -> None:
    retry = policy(first_retry_interval=timedelta(0), max_number_of_attempts=10**6, backoff_coefficient=1e300)

    assert retry.next_delay(900_000, START, START) == timedelta(0)


@given(
    first=st.timedeltas(min_value=timedelta(0)),
    coefficient=st.floats(min_value=1, allow_nan=False, allow_infinity=False),
    limit=st.none() | st.timedeltas(min_value=timedelta(0)),
    timeout=st.none() | st.timedeltas(min_value=timedelta(0)),
    attempt=st.integers(min_value=1, max_value=10**6),
    now=st.datetimes(),
)
def test_a_delay_always_leads_to_a_date(
    first: timedelta,
    coefficient: float,
    limit: timedelta | None,
    timeout: timedelta | None,
    attempt: int,
    now: datetime,
) -> None:
    retry = RetryPolicy(
        first_retry_interval=first,
        max_number_of_attempts=10**7,
        backoff_coefficient=coefficient,
        max_retry_interval=limit,
        retry_timeout=timeout,
    )
    delay = retry.next_delay(attempt, now, now)

    if delay is not None:
        assert now + delay >= now
        assert limit is None or delay <= limit
        assert timeout is None or delay < timeout


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("first_retry_interval", -SECOND),
        ("max_number_of_attempts", 0),
        ("backoff_coefficient", 0.99),
        ("backoff_coefficient", float("nan")),
        ("backoff_coefficient", float("inf")),
        ("max_retry_interval", -SECOND),
        ("retry_timeout", -SECOND),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        policy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("first_retry_interval", 5),
        ("max_number_of_attempts", 2.0),
        ("max_number_of_attempts", True),
        ("backoff_coefficient", "2"),
        ("max_retry_interval", 5),
        ("retry_timeout", 5),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=field):
        policy(**{field: value})


def test_policies_are_values() -> None:
    retry = policy(backoff_coefficient=2.0)

    assert retry == policy(backoff_coefficient=2)
    assert hash(retry) == hash(policy(backoff_coefficient=2))
    assert retry != policy()
    assert policy(backoff_coefficient=None) == policy()
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert "backoff_coefficient=2.0" in repr(retry)
    with pytest.raises(AttributeError):
        retry.max_number_of_attempts = 1  # type: ignore[misc]
