"""Families: instances locked together with the children that they have started.

Rows are locked by ascending primary key, everywhere, so that nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from django.db import connections
from django.db.models import QuerySet

from durable_django.core.errors import OrchestrationNotFoundError, OrchestrationStateConflictError
from durable_django.models import Instance, InstanceStatus
from durable_django.store import rows

TERMINAL = frozenset({InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED})

_BATCH = 500
_KINSHIP = ("pk", "parent_id", "parent_execution_id", "execution_id", "status")

_moving: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""By connection, the instance whose turn's own code is run in its transaction."""

Follows = Callable[[Instance, Instance], bool]
"""Whether a child, the second, belongs into the family of its parent, the first."""


def of_execution(parent: Instance, child: Instance) -> bool:
    """Tell whether the parent's current execution has started the child."""
    return child.parent_execution_id == parent.execution_id


def lock(using: str, keys: Sequence[int]) -> list[Instance]:
    """Lock instances until the transaction ends, and return those that there are, by ascending key."""
    ordered = sorted(keys)
    locked: list[Instance] = []
    for some in rows.batched(ordered, _BATCH):
        locked += _locking(using).filter(pk__in=some).order_by("pk")
    return locked


def lock_all(using: str, instance_ids: Sequence[str]) -> list[Instance]:
    """Lock the instances of these ids until the transaction ends, and return them by ascending key."""
    keys: list[int] = []
    for some in rows.batched(instance_ids, _BATCH):
        found = Instance.objects.using(using).filter(instance_id__in=some)
        keys += found.values_list("pk", flat=True)
    return lock(using, keys)


def lock_one(using: str, instance_id: str) -> Instance | None:
    """Lock one instance until the transaction ends; None where there is none."""
    return _locking(using).filter(instance_id=instance_id).first()


def lock_one_or_raise(using: str, instance_id: str) -> Instance:
    """Lock one instance until the transaction ends.

    Raises:
        OrchestrationNotFoundError: There is none.
    """
    return lock_one(using, instance_id) or raise_not_found(instance_id)


@contextmanager
def moving(using: str, key: int) -> Iterator[None]:
    """Say that the code which is run here is part of an instance's turn, and in its transaction."""
    connection = connections[using]
    _moving[connection] = key
    try:
        yield
    finally:
        del _moving[connection]


def refuse_moving(using: str, instances: Iterable[Instance], what: str) -> None:
    """Refuse to change an instance in the middle of its own turn, which knows nothing of that.

    Raises:
        OrchestrationStateConflictError: One of ``instances`` is being moved by the turn that this is part of.
    """
    moved = _moving.get(connections[using])
    for instance in instances:
        if instance.pk == moved:
            raise OrchestrationStateConflictError(
                f"Orchestration instance {instance.instance_id!r} cannot be {what} by a local activity in "
                "its own turn, which is not over. Do it in an activity that is not local."
            )


def raise_not_found(instance_id: str) -> NoReturn:
    """Raise the error that says that nobody has this id."""
    raise OrchestrationNotFoundError(f"There is no orchestration instance {instance_id!r}.")


def lock_family(using: str, instance_id: str, follows: Follows) -> list[Instance]:
    """Lock an instance and its descendants, as far as ``follows`` goes: the instance first, then by key.

    Returns an empty list where there is no such instance.
    """
    key = Instance.objects.using(using).values_list("pk", flat=True).filter(instance_id=instance_id).first()
    roots = [] if key is None else lock(using, [key])
    return [*roots, *lock_descendants(using, roots, follows)]


def lock_descendants(using: str, roots: Sequence[Instance], follows: Follows) -> list[Instance]:
    """Lock the descendants of instances that are locked, as far as ``follows`` goes; return these, by key."""
    locked = {root.pk: root for root in roots}
    gone: set[int] = set()
    wanted = _descendants(using, roots, follows)
    # What was not locked yet may have had more children since it was read; what is locked has no more.
    while missing := wanted - locked.keys() - gone:
        locked |= {instance.pk: instance for instance in lock(using, list(missing))}
        gone |= missing - locked.keys()
        wanted = _descendants(using, roots, follows)
    return [locked[key] for key in sorted(wanted & locked.keys())]


def _descendants(using: str, roots: Sequence[Instance], follows: Follows) -> set[int]:
    """Return the keys of the descendants of ``roots``, of which none is one of its own."""
    found: set[int] = set()
    generation = {root.pk: root for root in roots}
    ours = frozenset(generation)
    while generation:
        parents = generation
        generation = {
            child.pk: child
            for parent_key, child in _children(using, list(parents))
            if child.pk not in found and child.pk not in ours and follows(parents[parent_key], child)
        }
        found |= generation.keys()
    return found


def _children(using: str, parents: Sequence[int]) -> Iterator[tuple[int, Instance]]:
    for some in rows.batched(parents, _BATCH):
        query = Instance.objects.using(using).filter(parent_id__in=some)
        for child in query.only(*_KINSHIP):
            assert child.parent_id is not None
            yield child.parent_id, child


def _locking(using: str) -> QuerySet[Instance]:
    # A weaker lock where there is one: rows that point here can still be inserted.
    no_key = connections[using].features.has_select_for_no_key_update
    return Instance.objects.using(using).select_for_update(no_key=no_key)
