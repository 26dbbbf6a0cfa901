"""Retention: rows that nobody will ever look at."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.models import ActivityBundle, HistoryEvent, Instance, InstanceStatus, Message, Timer
from durable_django.store import rows
from durable_django.store.rows import table

BATCH_ROWS = 1000
_ACTIVE = (InstanceStatus.RUNNING.value, InstanceStatus.PENDING.value, InstanceStatus.SUSPENDED.value)


def forget_executions(cursor: CursorWrapper, kept: Mapping[int, str]) -> None:
    """Delete the history of all past executions of these instances but the one that is ``kept``.

    What starts over for years would fill the table; its last execution is there for people to look at. Those
    that bundles have activities of are needed once more.
    """
    if not kept:
        return
    vendor = cursor.db.vendor
    condition, parameters = rows.any_of(vendor, "instance_id", sorted(kept))
    execution_in, executions = rows.any_of(vendor, "execution_id", sorted(kept.values()))
    history, bundle = table(HistoryEvent, vendor), table(ActivityBundle, vendor)
    position = "strpos" if vendor == "postgresql" else "instr"
    cursor.execute(
        f"DELETE FROM {history} WHERE {condition} AND NOT {execution_in} AND NOT EXISTS"
        f" (SELECT 1 FROM {bundle} b WHERE {position}(b.tasks, {history}.execution_id) > 0)",
        [*parameters, *executions],
    )


def sweep(using: str) -> int:
    """Delete messages and timers whose instance has ended or is gone, and return how many there were.

    One bounded batch of each; what is left goes with the next sweep.
    """
    vendor = connections[using].vendor
    active = ", ".join(str(status) for status in _ACTIVE)
    lock = " FOR UPDATE SKIP LOCKED" if vendor != "sqlite" else ""
    swept = 0
    for model in (Message, Timer):
        found = rows.fetch(
            using,
            f"SELECT m.id FROM {table(model, vendor)} m LEFT JOIN {table(Instance, vendor)} i"
            f" ON i.id = m.instance_id AND i.status IN ({active})"
            f" WHERE i.id IS NULL ORDER BY m.id LIMIT {BATCH_ROWS}",
        )
        if not found:
            continue
        keys = [pk for (pk,) in found]
        condition, parameters = rows.any_of(vendor, "id", keys)
        with transaction.atomic(using), connections[using].cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {table(model, vendor)} WHERE {condition} ORDER BY id{lock}", parameters
            )
            locked = [pk for (pk,) in cursor.fetchall()]
            rows.delete(cursor, model, "id", locked)
        swept += len(locked)
    return swept
