"""What was measured, and how the systems compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.peers.workloads import Figures, Metric, Workload

OURS = "ours"


class Spread(NamedTuple):
    """The median of some values, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float


@dataclass(slots=True)
class Outcome:
    """What came of one workload on one system: figures of each round, or why there are none, or only some."""

    rounds: list[Figures] = field(default_factory=list)
    cannot: str | None = None
    failed: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether another round would come to the same."""
        return self.failed is not None or (self.cannot is not None and not self.rounds)

    def spread(self, metric: Metric) -> Spread | None:
        """Return what a metric came to over the rounds, if it was measured."""
        return _spread([figures[metric.key] for figures in self.rounds if metric.key in figures])


@dataclass(frozen=True, slots=True)
class Column:
    """A system as the report tells of it."""

    name: str
    versions: Mapping[str, str] = field(default_factory=dict)
    configuration: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def note(self, workload: Workload) -> str | None:
        """Return what is different in a workload."""
        return self.notes.get(workload.name) or self.notes.get(workload.family)


@dataclass(slots=True)
class Results:
    """All that is known of a run; ``outcomes`` are by the names of workload and system."""

    workloads: Sequence[Workload]
    sizes: Sizes
    columns: list[Column] = field(default_factory=list)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)

    def outcome(self, workload: Workload, system: str) -> Outcome | None:
        """Return what came of a workload on a system; None if it was not for that."""
        return self.outcomes.get((workload.name, system))

    def ahead(self, workload: Workload, metric: Metric, system: str) -> Spread | None:
        """Return how many times better we are than a system; None where one of the two was not measured."""
        ours, theirs = self.outcome(workload, OURS), self.outcome(workload, system)
        return None if ours is None or theirs is None or ours is theirs else ahead(metric, ours, theirs)

    def beside_baseline(self, workload: Workload, metric: Metric, system: str) -> Spread | None:
        """Return how many times better a system is than in the metric's baseline; None without one."""
        baseline = self.outcomes.get((metric.baseline.workload, system)) if metric.baseline else None
        outcome = self.outcome(workload, system)
        return None if outcome is None or baseline is None else ahead(metric, outcome, baseline)

    @property
    def has_failures(self) -> bool:
        """Whether a system has failed in a workload."""
        return any(outcome.failed for outcome in self.outcomes.values())


def ahead(metric: Metric, one: Outcome, other: Outcome) -> Spread | None:
    """Return how many times better one is than the other, round by round; None where one was not measured."""
    pairs = [
        (figures[metric.key], other_figures[metric.key])
        for figures, other_figures in zip(one.rounds, other.rounds, strict=False)
        if metric.key in figures and metric.key in other_figures
    ]
    return _spread([_times_better(metric, *pair) for pair in pairs])


def _times_better(metric: Metric, one: float, other: float) -> float:
    better, worse = (one, other) if metric.rising else (other, one)
    return better / worse if worse else float("inf")


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None
