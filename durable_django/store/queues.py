"""Limited queues: their activities are claimed by one worker at a time, within what the limits leave.

How many run is counted from the leases, so that a worker that dies frees its places when its leases end. When
the next may begin stands in `QueueLimit`, a row for each queue and for each limit key that has a rate.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Count, F, QuerySet

from durable_django.core.limits import Limits, Rate
from durable_django.models import ActivityTask, QueueLimit
from durable_django.store import activities, clock
from durable_django.store.activities import Leased
from durable_django.store.rows import any_of, batched
from durable_django.store.scope import Served

AHEAD = timedelta(seconds=0.1)
"""How long before it may begin an activity is leased: whoever has it waits so long."""

AHEAD_OF_ENGINES = timedelta(seconds=1)
"""The same for an activity that is handed to an engine, and has to travel."""

LONGEST_WAIT = timedelta(seconds=2)
"""How long before it may begin an engine's activity has its turn, at most: a process waits so long for it."""

LONGEST_LEASE = 64
"""To how many times its length the lease of what waits in an engine's broker grows, at most."""

_LOOKED_AT = 50
_BATCH = 500
_FORGOTTEN_AFTER = timedelta(days=1)


@dataclass(slots=True)
class Claim:
    """Activities to run, each with when it may begin.

    ``is_busy`` says that somebody else was claiming, ``is_full`` that there may be more than was asked for,
    ``next_at`` when a rate lets the next one begin, if that is what has ended the claim, ``is_blocked`` that
    others may begin when some of those end that run now, perhaps elsewhere.
    """

    leased: list[tuple[datetime, Leased]] = field(default_factory=list)
    is_busy: bool = False
    is_full: bool = False
    next_at: datetime | None = None
    is_blocked: bool = False


def claim(
    using: str,
    served: Served,
    queue: str,
    limits: Limits,
    *,
    worker: str,
    lease: timedelta,
    most: int,
    for_engine: bool = False,
) -> Claim:
    """Lease up to ``most`` activities of a queue that are due, as far as its limits allow.

    ``for_engine`` says that an engine begins them by itself, and calls `reserve` then. What it was handed
    before and has not begun keeps its token, so that the message that it has is good again.
    """
    with transaction.atomic(using), connections[using].cursor() as cursor:
        if limits == Limits():
            now = clock.now()
            condition, parameters = served.condition(cursor.db.vendor, "a.")
            found = activities.ask_rows(cursor, condition, parameters, now, most)()
            leasing = _Leasing(
                cursor=cursor, worker=worker, now=now, lease=lease, for_engine=for_engine, is_bounded=False
            )
            return Claim([(now, one) for one in leasing.run(found)], is_full=len(found) == most)
        state = _lock(using, queue)
        if state is None:
            return Claim(is_busy=True)
        # Read after the lock: what others had claimed until then counts.
        limits = limits.for_engines if for_engine else limits
        claiming = _Claiming(cursor, served, limits, state, clock.now(), for_engine=for_engine)
        return claiming.run(worker, lease, most)


def reserve(using: str, queue: str, key: str | None, limits: Limits, within: timedelta) -> datetime:
    """Return when an activity that is about to run may begin, and let the next begin after it.

    For engines that start activities by themselves, some time after they were claimed. What may not begin
    ``within`` some time has nothing reserved, and is to come again then.
    """
    with transaction.atomic(using):
        rates = dict(_rates(key, limits))
        states = {name: _state(using, queue, name) for name in rates}
        # After the locks: whoever waits for one must not get a moment that has passed.
        now = clock.now()
        stored = {name: clock.from_orm(state.next_at) for name, state in states.items()}
        next_at = {name: min(stored[name], _latest(now, rate)) for name, rate in rates.items()}
        begins = max([now, *next_at.values()])
        if begins - now <= within:
            next_at = {name: begins + rate.spacing for name, rate in rates.items()}
        _advance(using, queue, {name: at for name, at in next_at.items() if at != stored[name]})
    return begins


def sweep(using: str) -> None:
    """Delete the state of limit keys that have not been used for long."""
    old = clock.aware(clock.now() - _FORGOTTEN_AFTER)
    QueueLimit.objects.using(using).filter(next_at__lt=old).exclude(key="").delete()


class _Claiming:
    """One claim, under the lock of the queue's state."""

    def __init__(
        self,
        cursor: CursorWrapper,
        served: Served,
        limits: Limits,
        state: QueueLimit,
        now: datetime,
        *,
        for_engine: bool,
    ) -> None:
        self._cursor = cursor
        self._using = cursor.db.alias
        self._served = served
        self._limits = limits
        self._queue = state.queue
        self._now = now
        self._for_engine = for_engine
        self._horizon = now + (AHEAD_OF_ENGINES if for_engine else AHEAD)
        self._next: dict[str, datetime] = {"": clock.from_orm(state.next_at)}
        self._advanced: set[str] = set()
        if limits.rate is not None and self._next[""] > (latest := _latest(now, limits.rate)):
            # To be noted: else the moment would be as far away from the next look.
            self._next[""] = latest
            self._advanced.add("")
        running = (
            ActivityTask.objects.using(self._using)
            .filter(queue=state.queue, lease_token__isnull=False, visible_at__gt=clock.aware(now))
            .order_by()
            .values_list("limit_key")
            .annotate(count=Count("pk"))
        )
        self._running: Counter[str | None] = Counter(dict(running))
        self._excluded: set[str] = set()
        self._is_over = False

    def run(self, worker: str, lease: timedelta, most: int) -> Claim:
        """Choose, lease, and note when the next may begin."""
        if self._limits.concurrency is not None:
            most = min(most, self._limits.concurrency - self._running.total())
        self._exclude_keys()
        chosen = self._choose(most)
        leasing = _Leasing(
            cursor=self._cursor,
            worker=worker,
            now=self._now,
            lease=lease,
            for_engine=self._for_engine,
            is_bounded=self._limits.concurrency is not None,
        )
        leased = leasing.run([row for _start, row in chosen])
        starts = {row[1:6]: start for start, row in chosen}
        _advance(self._using, self._queue, {name: self._next[name] for name in self._advanced})
        return Claim(
            [
                (starts[one.instance, one.instance_id, one.execution_id, one.task_id, one.name], one)
                for one in leased
            ],
            is_full=len(chosen) == most > 0,
            next_at=self._next_at(),
            is_blocked=bool(self._excluded) or most <= 0 or self._running.total() == self._limits.concurrency,
        )

    def _choose(self, most: int) -> list[tuple[datetime, tuple[Any, ...]]]:
        chosen: list[tuple[datetime, tuple[Any, ...]]] = []
        while len(chosen) < most:
            found = self._candidates([row[0] for _start, row in chosen])
            before = len(chosen), len(self._excluded)
            for row in found:
                start = self._start_of(row[-2])
                if start is not None:
                    chosen.append((start, row))
                if self._is_over or len(chosen) == most:
                    break
            if self._is_over or before == (len(chosen), len(self._excluded)):
                break
        return chosen

    def _next_at(self) -> datetime | None:
        """Return when a rate lets something begin that could not now; None if none is in the way."""
        if self._is_over:
            return self._next[""]
        return min((self._next[key] for key in self._excluded & self._next.keys()), default=None)

    def _candidates(self, chosen: list[int]) -> list[tuple[Any, ...]]:
        vendor = self._cursor.db.vendor
        condition, parameters = self._served.condition(vendor, "a.")
        if chosen:
            in_chosen, values = any_of(vendor, "a.id", chosen)
            condition, parameters = f"{condition} AND NOT {in_chosen}", [*parameters, *values]
        if self._excluded:
            in_keys, values = any_of(vendor, "a.limit_key", sorted(self._excluded))
            condition = f"{condition} AND (a.limit_key IS NULL OR NOT {in_keys})"
            parameters = [*parameters, *values]
        return activities.ask_rows(self._cursor, condition, parameters, self._now, _LOOKED_AT)()

    def _exclude_keys(self) -> None:
        """Leave out the keys that may not begin anything now."""
        limits = self._limits
        if limits.key_concurrency is not None:
            full = {key for key, count in self._running.items() if key and count >= limits.key_concurrency}
            self._excluded |= full
        if limits.key_rate is not None:
            states = QueueLimit.objects.using(self._using).filter(queue=self._queue).exclude(key="")
            latest = _latest(self._now, limits.key_rate)
            later = states.filter(next_at__gt=clock.aware(self._now))
            for key, at in later.values_list("key", "next_at"):
                self._next[key] = min(clock.from_orm(at), latest)
                if self._next[key] > self._horizon:
                    self._excluded.add(key)
            if latest in self._next.values():
                too_late = states.filter(next_at__gt=clock.aware(latest))
                too_late.update(next_at=clock.aware(latest))

    def _start_of(self, key: str | None) -> datetime | None:
        """Return when an activity may begin, counting it, or None: not now."""
        if key is not None and key in self._excluded:
            return None
        rates = list(_rates(key, self._limits))
        start = max([self._now, *(self._next.get(name, self._now) for name, _rate in rates)])
        if start > self._horizon:
            if self._limits.rate is not None and self._next[""] > self._horizon:
                self._is_over = True
            elif key is not None:
                self._excluded.add(key)
            return None
        for name, rate in rates if not self._for_engine else ():
            self._next[name] = start + rate.spacing
            self._advanced.add(name)
        self._running[key] += 1
        most = self._limits.key_concurrency
        if key is not None and most is not None and self._running[key] >= most:
            self._excluded.add(key)
        return start


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leasing:
    """How the activities of one claim are leased.

    An activity that was handed to an engine and not begun in time may still be in its broker, behind others.
    It keeps its token, so that the message there is good again, and whichever comes first begins it. And it
    gets twice the lease that it had, where no limit bounds how many wait there: a long backlog must not fill
    the broker with message after message for each.
    """

    cursor: CursorWrapper
    worker: str
    now: datetime
    lease: timedelta
    for_engine: bool
    is_bounded: bool

    def run(self, found: Sequence[tuple[Any, ...]]) -> list[Leased]:
        """Lease what `activities.ask_rows` has found."""
        tokens = self._waiting([row[0] for row in found]) if self.for_engine else {}
        again: list[tuple[Any, ...]] = []
        new: list[tuple[Any, ...]] = []
        for row in found:
            # Orphans, which have no instance's id, are deleted along with what is leased for the first time.
            (again if row[0] in tokens and row[2] is not None else new).append(row)
        leased = activities.lease_rows(self.cursor, new, self.worker, self.now + self.lease)
        return leased + self._lease_again(again, tokens)

    def _waiting(self, keys: Sequence[int]) -> dict[int, int]:
        """Return the tokens of those activities that were handed over, and that nobody has begun."""
        tokens: dict[int, int] = {}
        for some in batched(keys, _BATCH):
            tasks = self._tasks()
            if self.cursor.db.features.has_select_for_update:
                tasks = tasks.select_for_update()  # They are locked; this is for what is true at present.
            handed = tasks.filter(pk__in=some, lease_token__isnull=False, worker__isnull=True)
            found = handed.values_list("pk", "lease_token")
            tokens |= {key: token for key, token in found if token is not None}
        return tokens

    def _lease_again(self, found: Sequence[tuple[Any, ...]], tokens: dict[int, int]) -> list[Leased]:
        leased: list[Leased] = []
        by_lease: defaultdict[timedelta, list[int]] = defaultdict(list)
        for pk, instance, instance_id, *task, created_at in found:
            queued_at = clock.from_orm(created_at)
            by_lease[self._longer(self.now - queued_at)].append(pk)
            known = (instance, instance_id, *task, queued_at)
            leased.append(Leased(tokens[pk], *known))
        for lease, keys in by_lease.items():
            until = clock.aware(self.now + lease)
            for some in batched(keys, _BATCH):
                self._tasks().filter(pk__in=some).update(
                    visible_at=until, worker=self.worker, deliveries=F("deliveries") + 1
                )
        return leased

    def _tasks(self) -> QuerySet[ActivityTask]:
        return ActivityTask.objects.using(self.cursor.db.alias)

    def _longer(self, age: timedelta) -> timedelta:
        """Return the lease that comes after those of which so much time has passed, each double the last."""
        if self.is_bounded:
            return self.lease
        times = min(max(1, int(age / self.lease + 1)), LONGEST_LEASE)
        return self.lease * (1 << (times.bit_length() - 1))


def _latest(now: datetime, rate: Rate) -> datetime:
    """Return the latest moment for the next start that a rate can have led to.

    Whatever lies beyond has been reserved at a slower rate, which is in force no more.
    """
    return now + LONGEST_WAIT + rate.spacing


def _rates(key: str | None, limits: Limits) -> Iterable[tuple[str, Rate]]:
    if limits.rate is not None:
        yield "", limits.rate
    if limits.key_rate is not None and key:
        yield key, limits.key_rate


def _lock(using: str, queue: str) -> QueueLimit | None:
    """Lock a queue's state; None if somebody else has it."""
    states = QueueLimit.objects.using(using)
    if not states.filter(queue=queue, key="").exists():
        _create(using, queue, "")
    if connections[using].features.has_select_for_update_skip_locked:
        return states.select_for_update(skip_locked=True).filter(queue=queue, key="").first()
    return states.filter(queue=queue, key="").first()  # The whole database is ours.


def _state(using: str, queue: str, key: str) -> QueueLimit:
    states = QueueLimit.objects.using(using).filter(queue=queue, key=key)
    if not states.exists():
        _create(using, queue, key)
    if connections[using].features.has_select_for_update:
        states = states.select_for_update()
    return states.get()


def _create(using: str, queue: str, key: str) -> None:
    state = QueueLimit(queue=queue, key=key, next_at=clock.aware(clock.now()))
    QueueLimit.objects.using(using).bulk_create([state], ignore_conflicts=True)


def _advance(using: str, queue: str, next_at: dict[str, datetime]) -> None:
    for key, at in sorted(next_at.items()):
        changed = QueueLimit.objects.using(using).filter(queue=queue, key=key).update(next_at=clock.aware(at))
        if not changed:
            _create(using, queue, key)
            QueueLimit.objects.using(using).filter(queue=queue, key=key).update(next_at=clock.aware(at))
