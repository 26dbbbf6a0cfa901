"""What the turn loop and the turn processor tell each other: the work of a batch, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from durable_django.core.status import OrchestrationStatus
from durable_django.store.activities import Leased
from durable_django.store.commits import Committed, Moved
from durable_django.worker.activities import ActivityResult


@dataclass(slots=True)
class Work:
    """What a batch is to look at: results just produced, instances said to be ready, and the tables at large.

    ``scan`` is for running instances that have something to do; ``starts`` bounds how many pending ones are
    started, and ``slots`` how many activities are leased to this worker: what nobody has claimed
    (``claim_activities``) goes before new ones as they are inserted (``lease_new``). ``async_slots`` are for
    ``async def`` ones, if these are to be counted by themselves.
    """

    results: Sequence[ActivityResult] = ()
    keys: set[int] = field(default_factory=set)
    scan: bool = False
    starts: int = 0
    slots: int = 0
    async_slots: int | None = None
    lease_new: bool = False
    claim_activities: bool = False

    @property
    def looks(self) -> bool:
        """Whether it looks for instances that nobody has named."""
        return self.scan or self.starts > 0


@dataclass(slots=True)
class Report:
    """What a batch did, once it is committed.

    ``alone`` are instances that have to be run by themselves, ``again`` those that were left for the next
    batch, ``local`` those with local activities to run, each in a transaction of its own, ``lost_results``
    what was not recorded and is to be handed in again. ``local_ran`` says how many local activities were
    run, ``local_failures`` are those that failed. ``is_announced`` says that whoever waits in other processes
    has been told of ``ended``. ``is_full`` says that there may be more where this came from, ``is_crowded``
    that results have left no room to look, ``missed`` that an instance was held by somebody else,
    ``next_due`` (of a look that found nothing) when something will be ready.
    """

    moved: list[Moved] = field(default_factory=list)
    committed: Committed = field(default_factory=Committed)
    leased: list[Leased] = field(default_factory=list)
    alone: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)
    local: set[int] = field(default_factory=set)
    local_ran: int = 0
    local_failures: list[ActivityResult] = field(default_factory=list)
    lost_results: list[ActivityResult] = field(default_factory=list)
    is_announced: bool = False
    is_full: bool = False
    is_crowded: bool = False
    missed: bool = False
    more_activities: bool = False
    next_due: datetime | None = None

    @property
    def ended(self) -> list[str]:
        """The ids of the instances that have ended, which is what clients wait for."""
        running = OrchestrationStatus.RUNNING
        return [entry.instance.instance_id for entry in self.moved if entry.outcome.status is not running]

    @property
    def did_something(self) -> bool:
        """Whether anything was moved or leased."""
        return bool(self.moved or self.leased or self.again or self.alone or self.local)

    def merge(self, other: Report) -> None:
        """Take in what another batch did, as far as it is still to be followed up."""
        self.moved += other.moved
        self.leased += other.leased
        self.alone |= other.alone
        self.again |= other.again
        self.local |= other.local
        self.local_ran += other.local_ran
        self.local_failures += other.local_failures
        self.lost_results += other.lost_results
        self.committed.unleased |= other.committed.unleased
        self.committed.touched |= other.committed.touched
        self.committed.entities |= other.committed.entities
        self.committed.sends_later |= other.committed.sends_later
        self.committed.timers += other.committed.timers
