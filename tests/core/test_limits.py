"""Limits of queues, as the settings have them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from durable_django.core.limits import Limits, Rate


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("20/s", 20, 1), ("100/5m", 100, 300), (" 3 / 2h ", 3, 7200), ("1000/d", 1000, 86_400)],
)
def test_rates_are_read(text: str, count: int, seconds: int) -> None:
    assert Rate.parse(text) == Rate(count, seconds)


@pytest.mark.parametrize("text", ["", "20", "20/", "/s", "0/s", "20/0s", "-1/s", "20/w", "1.5/s", "20/s/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="A rate has the form count/period"):
        Rate.parse(text)


@pytest.mark.parametrize("text", ["1/s", "20/s", "999/s", "100/5m", "1000/d"])
def test_starts_are_spaced_so_that_no_period_has_too_many_though_one_is_late(text: str) -> None:
    limits = Limits.parse({"rate": text})
    rate = Rate.parse(text)
    period = timedelta(seconds=rate.seconds)
    between = rate.count * rate.spacing  # from a start to the first that is one too many
    assert between - limits.latest > period * 1.01, "the first was late, and took its time to its first line"
    assert between < period * 1.06


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "limits are a dictionary with some of concurrency, rate, key_concurrency, key_rate"),
        ({"concurency": 3}, "there is no limit concurency; there are concurrency, rate"),
        ({"concurrency": 0}, "concurrency is a positive number of activities, not 0"),
        ({"key_concurrency": True}, "key_concurrency is a positive number"),
        ({"rate": 20}, "rate is a text such as '20/s', not 20"),
        ({"key_rate": "20"}, "A rate has the form"),
    ],
)
def test_what_is_no_limit_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limits.parse(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (None, None)),
        ({"rate": "20/s"}, (20, None)),
        ({"rate": "5/m"}, (1, None)),
        ({"rate": "20/s", "concurrency": 3}, (3, None)),
        ({"key_rate": "1/s", "key_concurrency": 2}, (None, 1)),
        ({"key_rate": "100/s", "key_concurrency": 2}, (None, 2)),
    ],
)
def test_other_engines_get_as_many_as_begin_in_a_second(given: Any, expected: Any) -> None:
    found = Limits.parse(given).for_engines
    assert (found.concurrency, found.key_concurrency) == expected
