"""The overview: how the service does, on the app's index page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from durable_django.admin import words
from durable_django.conf import settings
from durable_django.models import InstanceStatus
from durable_django.store import clock, monitoring
from durable_django.store.monitoring import Backlog, WorkerState

HOURS = 24
_HEIGHT = 80
_STEP = 20
_LONGEST = 5


@dataclass(frozen=True, slots=True)
class Column:
    """What ended within an hour, as a column of the chart."""

    begin: datetime
    total: int
    failed: int
    x: int
    height: float
    failed_height: float

    @property
    def y(self) -> float:
        """Where it begins, from above."""
        return _HEIGHT - self.height

    @property
    def failed_y(self) -> float:
        """Where its failures begin."""
        return _HEIGHT - self.failed_height


def overview() -> dict[str, Any]:
    """Return what the page shows."""
    using, now = settings.DATABASE_ALIAS, clock.now()
    hours = monitoring.ended_by_hour(using, HOURS)
    most = max(1, *(total for _begin, total, _failed in hours))
    backlogs = monitoring.backlogs(using)
    return {
        "counts": [
            {"status": status, "name": status.name.lower(), "count": count}
            for status, count in monitoring.live_counts(using).items()
        ],
        "columns": [
            Column(
                begin,
                total,
                failed,
                place * _STEP,
                round(total / most * _HEIGHT, 1),
                round(failed / most * _HEIGHT, 1),
            )
            for place, (begin, total, failed) in enumerate(hours)
        ],
        "width": HOURS * _STEP,
        "height": _HEIGHT,
        "ended": sum(total for _begin, total, _failed in hours),
        "failed": sum(failed for _begin, _total, failed in hours),
        "failed_status": InstanceStatus.FAILED.value,
        "backlogs": [
            _backlog(_("Orchestrations to start"), backlogs.pending, now),
            _backlog(_("Activities to claim"), backlogs.activities, now),
            _backlog(_("Entity operations"), backlogs.entity_operations, now),
            _backlog(_("Timers due"), backlogs.timers_due, now),
        ],
        "workers": [
            {
                "worker": worker,
                "is_alive": state is not WorkerState.SILENT,
                "badge": words.worker_badge(worker),
                "load": words.load(worker),
                "silence": words.duration(max(now - clock.from_orm(worker.last_heartbeat_at), words.NO_TIME)),
            }
            for worker, state in monitoring.workers(using)
        ],
        "activities": [
            {"name": name, "instance_id": instance_id, "key": key, "since": words.duration(now - since)}
            for name, instance_id, key, since in monitoring.longest_activities(using, _LONGEST)
        ],
        "slowest": [
            {
                "name": times.name,
                "count": times.count,
                "median": words.duration(times.median),
                "longest": words.duration(times.longest),
            }
            for times in monitoring.slowest_activities(using, _LONGEST)
        ],
    }


def _backlog(title: str, backlog: Backlog, now: datetime) -> dict[str, Any]:
    oldest = None if backlog.oldest is None else words.duration(max(now - backlog.oldest, now - now))
    return {"title": title, "count": backlog.count, "oldest": oldest}
