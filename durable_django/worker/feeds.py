"""Feeds: what one instance of a batch takes in, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from durable_django.core.decisions import TurnOutcome
from durable_django.core.events import HistoryEvent
from durable_django.core.replay import Execution
from durable_django.core.status import OrchestrationStatus
from durable_django.store.claims import Claimed
from durable_django.store.commits import Moved
from durable_django.store.inbox import Arrived
from durable_django.worker.activities import ActivityResult

Results = dict[int, list[ActivityResult]]
"""Results of activities that were still ours to record, by the key of their instance."""


@dataclass(slots=True)
class Feed:
    """One instance of a batch: what it takes in, and the execution that takes it.

    ``found`` are the results among what it takes in, ``decisions`` what is to be carried out of the outcome
    (None: all of it), ``postponed`` where the history has local activities that the next turn is to run.
    """

    instance: Claimed
    arrived: Arrived
    execution: Execution
    found: list[ActivityResult] = field(default_factory=list)
    outcome: TurnOutcome | None = None
    decisions: Sequence[HistoryEvent] | None = None
    postponed: Sequence[int] = ()

    @property
    def unseen(self) -> list[ActivityResult]:
        """The results that the execution's end has kept out of its history."""
        outcome = self.outcome
        if outcome is None or outcome.status is OrchestrationStatus.RUNNING:
            return []
        seen = set(map(id, outcome.events))
        return [result for result in self.found if id(result.event) not in seen]

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
