"""Upkeep: what a worker does beside its work, and how often."""

from __future__ import annotations

from unittest.mock import Mock, patch

import pytest

from durable_django.core.registry import Registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import bundles, queues, retention
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.bundles import Bundles
from durable_django.worker.pool import ActivityPool
from durable_django.worker.upkeep import Upkeep, Watch

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_is_left_over_is_swept_away_more_rarely_than_hearts_beat() -> None:
    pool = ActivityPool(
        ActivityRunner(Registry(), PayloadCodec(), "w"), lambda _: None, threads=1, concurrent=1
    )
    beat = Mock()
    upkeep = Upkeep("default", "w", pool, Bundles("default", "w"), Watch(), tend=lambda: False, beat=beat)
    with (
        patch.object(retention, "sweep") as of_orphans,
        patch.object(queues, "sweep") as of_limits,
        patch.object(bundles, "sweep") as of_bundles,
    ):
        for swept in (0, 1):
            for _ in range(3):
                upkeep._beat_at = 0.0
                upkeep._keep_up()
            assert beat.call_count == 3 + 3 * swept
            assert [sweep.call_count for sweep in (of_orphans, of_limits, of_bundles)] == [swept] * 3
            upkeep._sweep_at = 0.0
