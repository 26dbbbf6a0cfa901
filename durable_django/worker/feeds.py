"""Feeds: what one instance of a batch takes in, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from durable_django.core.decisions import TurnOutcome
from durable_django.core.events import HistoryEvent
from durable_django.core.replay import Execution
from durable_django.core.status import OrchestrationStatus
from durable_django.store.activities import Leased
from durable_django.store.claims import Claimed
from durable_django.store.commits import Moved
from durable_django.store.inbox import Arrived


class Found(NamedTuple):
    """An activity's result that was still ours to record, the execution that it is for, and its lease."""

    event: HistoryEvent
    execution_id: str
    leased: Leased


Results = dict[int, list[Found]]
"""Results by the key of their instance."""


@dataclass(slots=True)
class Feed:
    """One instance of a batch: what it takes in, and the execution that takes it.

    ``found`` are the results among what it takes in, ``decisions`` what is to be carried out of the outcome
    (None: all of it), ``postponed`` where the history has local activities that the next turn is to run.
    """

    instance: Claimed
    arrived: Arrived
    execution: Execution
    found: list[Found] = field(default_factory=list)
    outcome: TurnOutcome | None = None
    decisions: Sequence[HistoryEvent] | None = None
    postponed: Sequence[int] = ()

    @property
    def unseen(self) -> list[Found]:
        """The results that the execution's end has kept out of its history."""
        outcome = self.outcome
        if outcome is None or outcome.status is OrchestrationStatus.RUNNING:
            return []
        seen = set(map(id, outcome.events))
        return [found for found in self.found if id(found.event) not in seen]

    def moved(self) -> Moved:
        """Return what is to be written, once the code has run."""
        outcome = self.outcome
        assert outcome is not None
        seen = len(self.arrived.events)
        following = outcome.continue_as_new
        if following is not None:
            # What the code has not seen stays in the inbox, for the next execution.
            seen = outcome.consumed
            carried = following.carried + self.arrived.unseen_of_start(seen)
            outcome.continue_as_new = replace(following, carried=carried)
        carriers = self.arrived.carriers_of(seen)
        return Moved(self.instance, outcome, carriers, self.execution.now, self.decisions, self.postponed)
