"""The rows of worker processes: signs of life, and whom to suspect when one dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from django.db import connections, transaction
from django.db.models import F

from durable_django.models import Instance, Worker
from durable_django.store import activities, clock


def add(using: str, identity: str, name: str, queues: Sequence[str] | None) -> None:
    """Enter this process."""
    present = clock.aware(clock.now())
    Worker.objects.using(using).create(
        identity=identity,
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_namespace=_pid_namespace(),
        queues=None if queues is None else list(queues),
        started_at=present,
        last_heartbeat_at=present,
    )


def beat(using: str, identity: str) -> bool:
    """Show that this process is alive; False if somebody took it for dead."""
    present = clock.aware(clock.now())
    return bool(Worker.objects.using(using).filter(identity=identity).update(last_heartbeat_at=present))


def suspect(using: str, identity: str, instance: int | None) -> None:
    """Note which instance is to blame if this process dies now."""
    Worker.objects.using(using).filter(identity=identity).update(suspect_id=instance)


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
        for worker in workers.order_by("pk"):
            silent = now - clock.from_orm(worker.last_heartbeat_at) > silence
            if not silent and not _is_gone(worker):
                continue
            activities.release_of(using, worker.identity)
            if worker.suspect_id is not None:
                Instance.objects.using(using).filter(pk=worker.suspect_id).update(tries=F("tries") + 1)
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
