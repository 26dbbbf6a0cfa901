"""Entities: their rows, their locks, and the operations that wait for them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.core.entity import EntityInstanceId
from durable_django.models import Entity, EntityOperation, EntityOperationKind, Instance, InstanceStatus
from durable_django.store import clock, rows
from durable_django.store.operations import AT_ONCE, Address
from durable_django.store.rows import any_of, table
from durable_django.store.scope import Served


class Holder(NamedTuple):
    """Who holds a lock: a critical section of an execution of an instance."""

    instance: int
    execution_id: str
    request: str


@dataclass(slots=True)
class LockedEntity:
    """An entity whose row is locked by this transaction; changes are written by `save`."""

    pk: int
    entity_id: EntityInstanceId
    state: str | None
    holder: Holder | None


class Operation(NamedTuple):
    """One operation that waits for an entity."""

    pk: int
    kind: int
    operation: str | None
    input: str | None
    instance: int | None
    instance_id: str | None
    execution_id: str | None
    task_id: int | None
    request: str | None
    lock_set: list[str]
    position: int
    tries: int

    def is_of(self, holder: Holder) -> bool:
        """Tell whether the operation comes from the execution that holds the lock."""
        return (self.instance, self.execution_id) == holder[:2]


def ready(using: str, served: Served, now: datetime, limit: int) -> list[Address]:
    """Return entities with operations that can be performed now, the longest waiting first.

    What a lock holds back does not count.
    """
    vendor = connections[using].vendor
    condition, parameters = served.condition(vendor, "o.")
    return [
        (name, key)
        for name, key, _ in rows.fetch(
            using,
            f"SELECT o.name, o.key, MIN(o.id) FROM {table(EntityOperation, vendor)} o"
            f" LEFT JOIN {table(Entity, vendor)} e ON e.name = o.name AND e.key = o.key"
            f" WHERE o.visible_at <= %s{condition} AND (e.lock_instance_id IS NULL"
            f" OR (o.instance_id = e.lock_instance_id AND o.execution_id = e.lock_execution_id))"
            f" GROUP BY o.name, o.key ORDER BY MIN(o.id) LIMIT %s",
            [clock.to_database(using, now), *parameters, limit],
        )
    ]


def next_due(using: str, now: datetime) -> datetime | None:
    """Return when the next signal is due, after ``now``."""
    later = EntityOperation.objects.using(using).filter(visible_at__gt=clock.aware(now))
    first = later.order_by("visible_at").values_list("visible_at", flat=True).first()
    return None if first is None else clock.from_orm(first)


def create(using: str, address: Address, now: datetime) -> None:
    """Make sure that an entity has a row. In its own transaction: nobody shall wait for the operations."""
    name, key = address
    with transaction.atomic(using):
        Entity.objects.using(using).bulk_create(
            [Entity(name=name, key=key, last_modified_at=clock.aware(now))], ignore_conflicts=True
        )


def lock(cursor: CursorWrapper, address: Address) -> LockedEntity | None:
    """Lock an entity's row; None if there is none, or somebody else holds it. First in its transaction."""
    vendor = cursor.db.vendor
    entity = table(Entity, vendor)
    condition = f"name = %s AND {rows.column(Entity, 'key', vendor)} = %s"
    if vendor == "mysql":
        # By its primary key: a lock in the index of names would hold up whoever creates its neighbour there.
        condition = f"id = (SELECT id FROM {entity} WHERE {condition})"
    skip = "" if vendor == "sqlite" else " FOR UPDATE SKIP LOCKED"
    cursor.execute(
        f"SELECT id, state, lock_instance_id, lock_execution_id, lock_request FROM {entity}"
        f" WHERE {condition}{skip}",
        address,
    )
    row = cursor.fetchone()
    if row is None:
        return None
    pk, state, *held = row
    holder = None if held[0] is None else Holder(*held)
    return LockedEntity(pk, EntityInstanceId(*address), state, holder)


def exists(using: str, address: Address) -> bool:
    """Tell whether an entity has a row."""
    name, key = address
    return Entity.objects.using(using).filter(name=name, key=key).exists()


def operations(cursor: CursorWrapper, entity: LockedEntity, now: datetime, limit: int) -> list[Operation]:
    """Return the oldest operations that the locked entity may perform now: while it is held, the holder's.

    They come in the order in which they were sent, and signals that were sent for later among what was sent
    when they became due. The clocks of senders differ; the numbers of rows tell better who was first.
    """
    vendor = cursor.db.vendor
    held = ""
    parameters: list[Any] = [*_address(entity)]
    if entity.holder is not None:
        held = " AND o.instance_id = %s AND o.execution_id = %s"
        parameters += entity.holder[:2]
    select = (
        f"SELECT o.id, o.kind, o.operation, o.input, o.instance_id,"
        f" (SELECT i.instance_id FROM {table(Instance, vendor)} i WHERE i.id = o.instance_id) sender,"
        f" o.execution_id, o.task_id, o.request, o.lock_set, o.position, o.tries, o.created_at, o.visible_at"
        f" FROM {table(EntityOperation, vendor)} o"
        f" WHERE o.name = %s AND o.{rows.column(EntityOperation, 'key', vendor)} = %s{held}"
    )
    present, at_once = (clock.to_database(cursor.db.alias, at) for at in (now, AT_ONCE))
    # Apart, each is read in the order of the index, and no further than it has to be.
    cursor.execute(
        f"SELECT a.*, 0 FROM ({select} AND o.visible_at = %s ORDER BY o.id LIMIT %s) a"
        f" UNION ALL SELECT b.*, 1 FROM ({select} AND o.visible_at > %s AND o.visible_at <= %s"
        f" ORDER BY o.visible_at, o.id LIMIT %s) b",
        [*parameters, at_once, limit, *parameters, at_once, present, limit],
    )
    return [
        Operation._make((*row[:9], json.loads(row[9]) if row[9] else [], *row[10:12]))
        for row in _in_order(cursor.fetchall())[:limit]
    ]


def _in_order(found: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Order operations as they were sent; those for later come after what was sent until they were due."""
    at_once = sorted(row for row in found if not row[-1])
    later = deque(sorted((row for row in found if row[-1]), key=lambda row: (row[-2], row[0])))
    ordered = []
    latest = None
    for row in at_once:
        latest = row[-3] if latest is None else max(latest, row[-3])
        while later and later[0][-2] < latest:
            ordered.append(later.popleft())
        ordered.append(row)
    return [*ordered, *later]


def live_executions(cursor: CursorWrapper, instances: Sequence[int]) -> dict[int, str]:
    """Return the current execution of each of these instances that has not ended."""
    if not instances:
        return {}
    vendor = cursor.db.vendor
    condition, parameters = any_of(vendor, "id", sorted(set(instances)))
    ended = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)
    is_ended, statuses = any_of(vendor, "status", [status.value for status in ended])
    cursor.execute(
        f"SELECT id, execution_id FROM {table(Instance, vendor)} WHERE {condition} AND NOT {is_ended}",
        [*parameters, *statuses],
    )
    return dict(cursor.fetchall())


def save(cursor: CursorWrapper, entity: LockedEntity, now: datetime) -> None:
    """Write a locked entity's state and holder."""
    holder = entity.holder or (None, None, None)
    rows.update(
        cursor,
        Entity,
        ("state", "lock_instance", "lock_execution_id", "lock_request", "last_modified_at"),
        [(entity.state, *holder, clock.to_database(cursor.db.alias, now), entity.pk)],
    )


def delete_operations(cursor: CursorWrapper, keys: Sequence[int]) -> bool:
    """Delete operations that have been performed; False if somebody has withdrawn one meanwhile."""
    rows.delete(cursor, EntityOperation, "id", keys)
    return not keys or cursor.rowcount == len(keys)


def are_waiting(using: str, keys: Sequence[int]) -> bool:
    """Tell whether all of these operations are still to be performed."""
    return EntityOperation.objects.using(using).filter(pk__in=keys).count() == len(keys)


def clean(using: str, *, remove_empty: bool, release_orphans: bool) -> tuple[int, int]:
    """Remove entities without state, lock and operations; unlock those whose holder has ended or is gone.

    Returns how many of each there were.
    """
    removed = released = 0
    with transaction.atomic(using), connections[using].cursor() as cursor:
        skip_locked = connections[using].features.has_select_for_update_skip_locked
        rows_now = Entity.objects.using(using).select_for_update(skip_locked=skip_locked)
        if release_orphans:
            held = list(rows_now.filter(lock_instance__isnull=False).order_by("pk"))
            keys = [entity.lock_instance_id for entity in held if entity.lock_instance_id is not None]
            live = live_executions(cursor, keys)
            orphans = [
                entity.pk
                for entity in held
                if live.get(entity.lock_instance_id or 0) != entity.lock_execution_id
            ]
            released = Entity.objects.using(using).filter(pk__in=orphans).update(
                lock_instance=None, lock_execution_id=None, lock_request=None
            )  # fmt: skip
        if remove_empty:
            empty = rows_now.filter(state__isnull=True, lock_instance__isnull=True).order_by("pk")
            for entity in empty:
                waiting = EntityOperation.objects.using(using).filter(name=entity.name, key=entity.key)
                if not waiting.exists():
                    entity.delete()
                    removed += 1
    return removed, released


def delete(using: str, address: Address) -> bool | None:
    """Delete an entity's state; False if an orchestration holds it, None if there is no such entity.

    Operations that wait for it are performed afterwards, on a new one.
    """
    name, key = address
    with transaction.atomic(using):
        found = Entity.objects.using(using).select_for_update().filter(name=name, key=key).first()
        if found is None:
            return None
        if found.lock_instance_id is not None:
            return False
        found.delete()
        return True


def _address(entity: LockedEntity) -> Address:
    return entity.entity_id.entity, entity.entity_id.key


LOCK = EntityOperationKind.LOCK.value
RELEASE = EntityOperationKind.RELEASE.value
CALL = EntityOperationKind.CALL.value
