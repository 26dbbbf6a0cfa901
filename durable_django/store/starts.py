"""Starts: pending instances come into being, in place of others where they may be, and workers are woken.

What is refused leaves the caller's transaction usable.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from django.db import OperationalError, connections, transaction

from durable_django.core.errors import OrchestrationAlreadyExistsError
from durable_django.core.status import OrchestrationStatus
from durable_django.store import clock, control, families, instances, wakeup
from durable_django.store.instances import NewInstance
from durable_django.store.savepoints import is_conflict

Statuses = Collection[OrchestrationStatus]

_DEADLOCKS = 5
"""How many deadlocks a start survives."""

_NAMED = 10
"""How many taken ids an error names."""


def start(using: str, new: NewInstance, replaceable: Statuses = ()) -> None:
    """Insert a pending instance, in place of one of the same id whose status is among ``replaceable``.

    Raises:
        OrchestrationAlreadyExistsError: The id is taken by somebody who stays.
    """
    now = clock.now()
    with connections[using].cursor() as cursor:
        # Outside a transaction this is all: one exchange with the server.
        if instances.add_and_announce(cursor, new, now):
            return
    if not replaceable or _add(using, [new], now, replaceable):
        raise _already_exist([new.instance_id])


def start_all(using: str, new: Sequence[NewInstance], replaceable: Statuses = ()) -> None:
    """Insert pending instances of different ids as `start` does, but all of them or none.

    A few statements serve hundreds of them, those in whose place they come included.

    Raises:
        OrchestrationAlreadyExistsError: Ids are taken by somebody who stays.
    """
    now = clock.now()
    taken = _add(using, new, now)
    if taken and replaceable:
        taken = _add(using, new, now, replaceable)
    if taken:
        raise _already_exist(taken)


def _add(using: str, new: Sequence[NewInstance], now: datetime, replaceable: Statuses = ()) -> Sequence[str]:
    """Insert pending instances, all or none, and return the ids that kept it from that.

    MariaDB and MySQL lock the gaps between ids, too, so that calls which replace the same ids may deadlock in
    whatever order they lock. The loser tries again, unless the transaction is its caller's to repeat.
    """
    for _ in range(_DEADLOCKS):
        try:
            return _try_to_add(using, new, now, replaceable)
        except OperationalError as error:
            if connections[using].in_atomic_block or not is_conflict(error):
                raise
    return _try_to_add(using, new, now, replaceable)


def _try_to_add(
    using: str, new: Sequence[NewInstance], now: datetime, replaceable: Statuses
) -> Sequence[str]:
    with transaction.atomic(using):
        taken = _make_way(using, [instance.instance_id for instance in new], replaceable)
        if not taken:
            with connections[using].cursor() as cursor:
                added = instances.add(cursor, new, now)
            taken = [instance.instance_id for instance in new if instance.instance_id not in added]
        if taken:
            transaction.set_rollback(True, using)
        else:
            wakeup.announce_start(using)
    return taken


def _make_way(using: str, instance_ids: Sequence[str], replaceable: Statuses) -> Sequence[str]:
    """Delete the holders of ids if the status of each allows it; else return the ids of those who stay."""
    if not replaceable:
        return []
    holders = families.lock_all(using, instance_ids)
    stay = [one.instance_id for one in holders if OrchestrationStatus(one.status) not in replaceable]
    if stay:
        return stay
    control.terminate_all(using, holders)
    with connections[using].cursor() as cursor:
        instances.delete(cursor, [holder.pk for holder in holders])
    return []


def _already_exist(taken: Sequence[str]) -> OrchestrationAlreadyExistsError:
    if len(taken) == 1:
        return OrchestrationAlreadyExistsError(
            f"There is an orchestration instance {taken[0]!r} already. Choose another id, or list its "
            "status in a reuse_id_policy."
        )
    named = ", ".join(map(repr, taken[:_NAMED]))
    more = f" and {len(taken) - _NAMED} more" if len(taken) > _NAMED else ""
    return OrchestrationAlreadyExistsError(
        f"There are orchestration instances {named}{more} already. Choose other ids, or list their statuses "
        "in a reuse_id_policy."
    )
