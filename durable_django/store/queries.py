"""Queries: what clients ask about instances. No locks; datetimes are naive UTC."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from django.db import connections
from django.db.models import Q, QuerySet

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.core.events import HistoryEvent
from durable_django.core.status import TERMINAL_STATUSES, OrchestrationStatus
from durable_django.models import Instance
from durable_django.store import clock, families, histories, rows
from durable_django.store.rows import any_of, column, columns, table
from durable_django.store.subjects import Subject

DEFAULT_PAGE_SIZE = 100

_FIELDS = (
    "instance_id",
    "name",
    "status",
    "created_at",
    "last_updated_at",
    "custom_status",
    "failure",
)
_PAYLOADS = ("input", "output")


@dataclass(frozen=True, slots=True)
class StateRow:
    """An instance as it stands; ``input`` and ``output`` are None too where they were not asked for."""

    instance_id: str
    name: str
    status: OrchestrationStatus
    created_at: datetime
    last_updated_at: datetime
    custom_status: str | None
    failure: FailureDetails | None
    input: str | None = None
    output: str | None = None


def state(
    using: str,
    instance_id: str,
    *,
    payloads: bool = True,
    statuses: Collection[OrchestrationStatus] | None = None,
) -> StateRow | None:
    """Return an instance's state; None where there is no such instance, or its status is another.

    Whoever waits for an instance asks this again and again, so that it is one short statement.
    """
    vendor = connections[using].vendor
    fields = columns(Instance, (*_FIELDS, *(_PAYLOADS if payloads else ())), vendor)
    condition, parameters = f"{column(Instance, 'instance_id', vendor)} = %s", [instance_id]
    if statuses is not None:
        in_statuses, values = any_of(vendor, column(Instance, "status", vendor), [s.value for s in statuses])
        condition, parameters = f"{condition} AND {in_statuses}", [instance_id, *values]
    sql = f"SELECT {fields} FROM {table(Instance, vendor)} WHERE {condition}"
    found = rows.fetch_again(using, sql, parameters)
    return _state(found[0]) if found else None


def states(
    using: str,
    *,
    created_from: datetime | None = None,
    created_to: datetime | None = None,
    statuses: Sequence[OrchestrationStatus] | None = None,
    subject: Subject | None = None,
    payloads: bool = False,
    page_size: int = DEFAULT_PAGE_SIZE,
) -> Iterator[StateRow]:
    """Yield the instances created in ``[created_from, created_to)``, oldest first, read page by page."""
    query = _between(_instances(using), "created_at", created_from, created_to)
    if statuses is not None:
        query = query.filter(status__in=[status.value for status in statuses])
    if subject is not None:
        query = query.filter(subject.condition)
    fields = (*_FIELDS, *(_PAYLOADS if payloads else ()))
    for row in _pages(query, "created_at", fields, page_size):
        yield _state(row)


def history(using: str, instance_id: str, execution_id: str | None = None) -> list[HistoryEvent]:
    """Return the history of an instance's current execution, or of an earlier one.

    Each turn stands between an `OrchestratorStartedEvent` and an `OrchestratorCompletedEvent`.

    Raises:
        OrchestrationNotFoundError: There is no such instance.
    """
    found = _instances(using).filter(instance_id=instance_id).values_list("pk", "execution_id").first()
    if found is None:
        families.raise_not_found(instance_id)
    key, current = found
    stored = histories.read_turns(using, key, execution_id or current)
    result: list[HistoryEvent] = []
    for _, turn in groupby(stored, key=itemgetter(0)):
        happened = [event for _, event in turn]
        result.append(events.OrchestratorStartedEvent(-1, happened[0].timestamp))
        result += happened
        result.append(events.OrchestratorCompletedEvent(-1, happened[-1].timestamp))
    return result


def finished_ids(
    using: str,
    *,
    statuses: Sequence[OrchestrationStatus] | None = None,
    completed_from: datetime | None = None,
    completed_to: datetime | None = None,
    page_size: int = DEFAULT_PAGE_SIZE,
    continuation_token: str | None = None,
) -> tuple[list[str], str | None]:
    """Return ids of terminal instances that ended in ``[completed_from, completed_to)``, in that order.

    With them comes the token for the next page; None is the end.

    Raises:
        ValueError: ``continuation_token`` is none of ours.
    """
    wanted = TERMINAL_STATUSES if statuses is None else TERMINAL_STATUSES.intersection(statuses)
    query = _instances(using).filter(
        status__in=sorted(status.value for status in wanted), completed_at__isnull=False
    )
    query = _between(query, "completed_at", completed_from, completed_to)
    if continuation_token is not None:
        query = _after(query, "completed_at", *_read_token(continuation_token))
    page = list(
        query.order_by("completed_at", "pk").values_list("instance_id", "completed_at", "pk")[: page_size + 1]
    )
    token = None
    if len(page) > page_size:
        page.pop()
        _, completed_at, key = page[-1]
        assert completed_at is not None
        token = _token(clock.from_orm(completed_at), key)
    return [instance_id for instance_id, _, _ in page], token


def _instances(using: str) -> QuerySet[Instance]:
    return Instance.objects.using(using)


def _between(
    query: QuerySet[Instance], field: str, since: datetime | None, until: datetime | None
) -> QuerySet[Instance]:
    if since is not None:
        query = query.filter(**{f"{field}__gte": clock.aware(since)})
    if until is not None:
        query = query.filter(**{f"{field}__lt": clock.aware(until)})
    return query


def _after(query: QuerySet[Instance], field: str, at: datetime, key: int) -> QuerySet[Instance]:
    """Return what comes after one row in the order of ``field`` and primary key."""
    present = clock.aware(at)
    # The first condition is implied by the second, and lets the database begin in the middle of its index.
    return query.filter(
        Q(**{f"{field}__gte": present}), Q(**{f"{field}__gt": present}) | Q(**{field: present, "pk__gt": key})
    )


def _pages(
    query: QuerySet[Instance], field: str, fields: tuple[str, ...], size: int
) -> Iterator[tuple[Any, ...]]:
    page_query = query
    while True:
        page = list(page_query.order_by(field, "pk").values_list(*fields, field, "pk")[:size])
        yield from (row[:-2] for row in page)
        if len(page) < size:
            return
        page_query = _after(query, field, clock.from_orm(page[-1][-2]), page[-1][-1])


def _state(row: Sequence[Any]) -> StateRow:
    instance_id, name, status_number, created_at, last_updated_at, custom_status, failure, *payloads = row
    return StateRow(
        instance_id,
        name,
        OrchestrationStatus(status_number),
        clock.from_orm(created_at),
        clock.from_orm(last_updated_at),
        custom_status,
        None if failure is None else FailureDetails.from_dict(json.loads(failure)),
        *payloads,
    )


def _token(at: datetime, key: int) -> str:
    return base64.urlsafe_b64encode(f"{at.isoformat()} {key}".encode()).decode()


def _read_token(token: str) -> tuple[datetime, int]:
    try:
        at, key = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode().split(" ")
        return clock.naive(datetime.fromisoformat(at)), int(key)
    except (AttributeError, binascii.Error, UnicodeError, ValueError) as error:
        raise ValueError(
            f"continuation_token {token!r} is none that list_instance_ids() has returned."
        ) from error
