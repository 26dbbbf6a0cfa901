"""The rows of worker processes: signs of life, marks that drain, and whom to suspect when one dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import connections, transaction
from django.db.models import F

from durable_django.models import EntityOperation, Instance, Worker
from durable_django.store import activities, bundles, clock, wakeup

_VITAL = ("identity", "host", "pid", "pid_namespace", "last_heartbeat_at", "suspect", "suspect_operations")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a worker's row says of it from its start to its end; see `Worker`."""

    identity: str
    name: str
    queues: Sequence[str] | None
    versioning: dict[str, str | None] | None
    names: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Load:
    """How much a worker has to do.

    ``activities_running`` and ``activities_waiting`` are those in its hands, ``threads`` and ``async_slots``
    how many plain and ``async def`` ones it runs at once. ``instances`` are those in its cache, ``entities``
    those that perform operations now. ``turns_per_minute`` is since the heartbeat before.
    """

    activities_running: int = 0
    activities_waiting: int = 0
    threads: int = 0
    async_slots: int = 0
    instances: int = 0
    entities: int = 0
    turns_per_minute: int = 0


def add(using: str, worker: Identity, load: Load, draining_since: datetime | None = None) -> None:
    """Enter this process; ``draining_since`` where it had been marked before somebody took it for dead."""
    present = clock.aware(clock.now())
    Worker.objects.using(using).create(
        identity=worker.identity,
        name=worker.name,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_namespace=_pid_namespace(),
        queues=None if worker.queues is None else list(worker.queues),
        versioning=worker.versioning,
        names=worker.names,
        load=asdict(load),
        draining_since=None if draining_since is None else clock.aware(draining_since),
        started_at=present,
        last_heartbeat_at=present,
    )


def beat(
    using: str, identity: str, load: Load, draining_since: datetime | None, drained_at: datetime | None
) -> tuple[bool, datetime | None]:
    """Show that this process is alive, and how it does.

    ``draining_since`` is the mark as this process knows it. Returned is whether the row is there, or somebody
    has taken the process for dead and removed it, and the mark as it is now. One statement, unless the mark
    has come or gone.
    """
    row = Worker.objects.using(using).filter(identity=identity)
    signs = {"last_heartbeat_at": clock.aware(clock.now()), "load": asdict(load)}
    drained = None if drained_at is None else clock.aware(drained_at)
    if row.filter(draining_since__isnull=draining_since is None).update(**signs, drained_at=drained):
        return True, draining_since
    row.update(**signs, drained_at=None)
    marks = list(row.values_list("draining_since", flat=True))
    if not marks:
        return False, draining_since
    return True, None if marks[0] is None else clock.from_orm(marks[0])


def count_fellows(using: str, identity: str) -> int:
    """Count the workers that take the same work as one, itself among them, and do not drain."""
    working = Worker.objects.using(using).filter(draining_since__isnull=True)
    known = working.values_list("identity", "queues", "names", "versioning")
    taken = {name: what for name, *what in known}
    return max(1, sum(what == taken.get(identity) for what in taken.values()))


def mark(using: str, identity: str, *, is_draining: bool) -> bool:
    """Mark a worker so that it takes on nothing new, or take the mark away; False if there is no such worker.

    The worker follows at its next heartbeat, where wake-ups arrive at once. One that is marked so already
    stays as it is.
    """
    row = Worker.objects.using(using).filter(identity=identity)
    since = clock.aware(clock.now()) if is_draining else None
    if row.filter(draining_since__isnull=is_draining).update(draining_since=since, drained_at=None):
        wakeup.announce_changes(using, [marked(identity)])
        return True
    return row.exists()


def marked(identity: str) -> str:
    """Return what a change of a worker's mark is announced as; see `wakeup.announce_changes`."""
    return f"mark of worker {identity}"


def suspect(using: str, identity: str, instance: int | None) -> None:
    """Note which instance is to blame if this process dies now."""
    Worker.objects.using(using).filter(identity=identity).update(suspect_id=instance)


def suspect_operations(using: str, identity: str, operations: list[int]) -> None:
    """Note which operations of entities may be to blame if this process dies now."""
    Worker.objects.using(using).filter(identity=identity).update(suspect_operations=operations or None)


def remove(using: str, identity: str) -> None:
    """Take this process out: it ends as it should."""
    Worker.objects.using(using).filter(identity=identity).delete()


def bury_dead(using: str, silence: timedelta) -> int:
    """Remove processes that died, and return how many there were.

    Their activities are given back, and a try is counted against whom they suspected.

    Dead is who has been silent for longer than ``silence``, or whose process is gone from this host.
    """
    now = clock.now()
    buried = 0
    with transaction.atomic(using):
        skip_locked = connections[using].features.has_select_for_update_skip_locked
        workers = Worker.objects.using(using).select_for_update(skip_locked=skip_locked)
        # Not what they serve: it may be long, and everybody looks with each heartbeat.
        for worker in workers.only(*_VITAL).order_by("pk"):
            silent = now - clock.from_orm(worker.last_heartbeat_at) > silence
            if not silent and not _is_gone(worker):
                continue
            if not bundles.dissolve_of_worker(using, worker.identity):
                continue  # Something of it is still at work on the database: next time.
            activities.release_of(using, worker.identity)
            if worker.suspect_id is not None:
                Instance.objects.using(using).filter(pk=worker.suspect_id).update(tries=F("tries") + 1)
            if worker.suspect_operations:
                suspected = EntityOperation.objects.using(using).filter(pk__in=worker.suspect_operations)
                suspected.update(tries=F("tries") + 1)
            worker.delete()
            buried += 1
    return buried


def _is_gone(worker: Worker) -> bool:
    here = (socket.gethostname(), _pid_namespace())
    if (worker.host, worker.pid_namespace) != here or worker.pid == os.getpid():
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _pid_namespace() -> str:
    """Return what tells process ids of one container from those of another, where there is such a thing."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
