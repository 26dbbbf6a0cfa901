"""Upkeep: what a worker does beside its work, and how often."""

from __future__ import annotations

from unittest.mock import Mock, patch

import pytest

from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import queues, retention
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.pool import ActivityPool
from durable_django.worker.upkeep import Upkeep, Watch

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_has_ended_is_swept_away_with_the_first_heartbeat_and_then_more_rarely() -> None:
    pool = ActivityPool(
        ActivityRunner(Registry(), PayloadCodec(), "w"), lambda _: None, threads=1, concurrent=1
    )
    beat = Mock()
    upkeep = Upkeep("default", "w", pool, Watch(), tend=lambda: False, beat=beat)
    with patch.object(retention, "sweep") as of_orphans, patch.object(queues, "sweep") as of_limits:
        for _ in range(3):
            upkeep._beat_at = 0.0
            upkeep._keep_up()
        assert (beat.call_count, of_orphans.call_count, of_limits.call_count) == (3, 1, 1)
        upkeep._sweep_at = upkeep._beat_at = 0.0
        upkeep._keep_up()
        assert (beat.call_count, of_orphans.call_count, of_limits.call_count) == (4, 2, 2)
