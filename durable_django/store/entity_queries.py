"""Entity queries: what clients ask about entities. No locks; datetimes are naive UTC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, QuerySet

from durable_django.core.entity import EntityInstanceId
from durable_django.models import Entity, EntityOperation, Instance
from durable_django.store import clock
from durable_django.store.operations import Address

DEFAULT_PAGE_SIZE = 100

_EMPTY = Q(state__isnull=True, lock_instance__isnull=True)
_PARAMETERS = 300  # two for each address


@dataclass(frozen=True, slots=True)
class EntityRow:
    """An entity as it stands; ``state`` is None too where it was not asked for."""

    entity_id: EntityInstanceId
    state: str | None
    last_modified_at: datetime
    locked_by: str | None
    backlog: int


def find(using: str, entity_id: EntityInstanceId, *, state: bool) -> EntityRow | None:
    """Return an entity; None if there is none, or it has neither a state nor a lock."""
    found = Entity.objects.using(using).filter(name=entity_id.entity, key=entity_id.key).exclude(_EMPTY)
    return next(iter(_rows(using, found, state)), None)


def select(
    using: str,
    *,
    prefix: str = "",
    modified_from: datetime | None = None,
    modified_to: datetime | None = None,
    state: bool = True,
    transient: bool = False,
    page_size: int = DEFAULT_PAGE_SIZE,
) -> Iterator[EntityRow]:
    """Yield the entities modified in ``[modified_from, modified_to)``, oldest first, read page by page.

    ``prefix`` begins their names or is, in the form ``@name@key``, a whole name and the beginning of keys.
    """
    name, at, key = prefix.removeprefix("@").partition("@")
    name = name.lower()
    query = Entity.objects.using(using).filter(**{"name" if at else "name__startswith": name})
    if key:
        query = query.filter(key__startswith=key)
    if modified_from is not None:
        query = query.filter(last_modified_at__gte=clock.aware(modified_from))
    if modified_to is not None:
        query = query.filter(last_modified_at__lt=clock.aware(modified_to))
    if not transient:
        query = query.exclude(_EMPTY)
    last = 0
    while True:
        keys = list(query.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:page_size])
        page = Entity.objects.using(using).filter(pk__in=keys).order_by("pk")
        # For some databases "startswith" means any case.
        yield from (row for row in _rows(using, page, state) if row.entity_id.key.startswith(key))
        if len(keys) < page_size:
            return
        last = keys[-1]


def _rows(using: str, query: QuerySet[Entity], with_state: bool) -> list[EntityRow]:
    fields = ("name", "key", "last_modified_at", "lock_instance")
    found = list(query.values_list(*fields, *(("state",) if with_state else ())))
    holders = {holder for _, _, _, holder, *_ in found if holder is not None}
    locked_by = dict(
        Instance.objects.using(using).filter(pk__in=holders).values_list("pk", "instance_id")
        if holders
        else ()
    )
    backlogs = _backlogs(using, [(name, key) for name, key, *_ in found])
    return [
        EntityRow(
            EntityInstanceId(name, key),
            state[0] if state else None,
            clock.from_orm(modified_at),
            locked_by.get(holder),
            backlogs.get((name, key), 0),
        )
        for name, key, modified_at, holder, *state in found
    ]


def _backlogs(using: str, addresses: Sequence[Address]) -> dict[Address, int]:
    """Return how many operations wait for each of these entities, if any do."""
    counts: dict[Address, int] = {}
    for start in range(0, len(addresses), _PARAMETERS):
        batch = addresses[start : start + _PARAMETERS]
        query = EntityOperation.objects.using(using).filter(
            name__in={name for name, _ in batch}, key__in={key for _, key in batch}
        )
        for name, key, count in query.values_list("name", "key").annotate(count=Count("pk")):
            counts[name, key] = count
    return counts
