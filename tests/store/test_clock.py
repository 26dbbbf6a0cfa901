"""Datetimes on their way to the database and back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from durable_django.client import DurableTaskClient
from durable_django.models import Instance
from durable_django.store import clock
from tests.factories import NOW


@pytest.fixture
def _local_times() -> Iterator[None]:
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Kolkata"), timezone.override("Asia/Tokyo"):
        yield


@pytest.mark.usefixtures("_local_times")
def test_without_zones_the_projects_own_counts_and_not_the_requests() -> None:
    local = NOW + timedelta(hours=5, minutes=30)

    assert clock.aware(NOW) == local
    assert clock.from_orm(local) == NOW
    assert clock.from_orm(local.isoformat()) == NOW


@pytest.mark.django_db
def test_a_start_in_one_zone_is_read_in_another() -> None:
    start_at: datetime = NOW + timedelta(days=1)
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Kolkata"):
        with timezone.override("Asia/Tokyo"):
            DurableTaskClient().schedule_new_orchestration("flow", start_at=start_at)

        assert clock.from_orm(Instance.objects.get().start_at) == start_at
