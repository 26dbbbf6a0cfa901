"""The comparison as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.results import OURS, Column, Outcome, Results, Spread
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.peers.workloads import Metric, Workload


def table(results: Results) -> str:
    """Return medians with minimum and maximum, below each how many times better we are, and the footnotes."""
    notes = _Footnotes()
    rows = [["workload", "figure", *(column.name for column in results.columns)]]
    for workload in results.workloads:
        title = f"{workload.name}: {workload.title.format(**_words(results.sizes))}"
        for metric in workload.metrics:
            figures = [_figure(results, workload, metric, column, notes) for column in results.columns]
            rows.append([title, f"{metric.label} {metric.unit}".rstrip(), *figures])
            title = ""
            beside = metric.baseline.label if metric.baseline else ""
            for label, ratio in (("ours is better by", _ours), (beside, _beside_baseline)):
                ratios = [ratio(results, workload, metric, column) for column in results.columns]
                if any(ratios):
                    rows.append(["", f"  {label}", *ratios])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    systems = [f"{column.name}: {_about(column)}" for column in results.columns]
    return "\n".join(line.rstrip() for line in [*lines, "", *notes.lines(), "", *systems])


def write_json(path: Path, about: Mapping[str, Any], results: Results) -> None:
    """Write everything to a file: the figures of all rounds, their medians and our ratios."""
    content = {
        "about": about,
        "sizes": asdict(results.sizes),
        "systems": {
            column.name: {"versions": column.versions, "configuration": column.configuration}
            for column in results.columns
        },
        "workloads": {
            workload.name: {
                column.name: _content(results, workload, column, outcome)
                for column in results.columns
                if (outcome := results.outcome(workload, column.name))
            }
            for workload in results.workloads
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _content(results: Results, workload: Workload, column: Column, outcome: Outcome) -> dict[str, Any]:
    return {
        "rounds": outcome.rounds,
        "cannot": outcome.cannot,
        "failed": outcome.failed,
        "note": column.note(workload),
        "figures": {
            metric.key: {
                "unit": metric.unit,
                "measured": _as_dict(outcome.spread(metric)),
                "ours_is_better_by": _as_dict(results.ahead(workload, metric, column.name)),
                "baseline": metric.baseline and metric.baseline._asdict(),
                "times_baseline": _as_dict(results.beside_baseline(workload, metric, column.name)),
            }
            for metric in workload.metrics
        },
    }


def _as_dict(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else spread._asdict()


class _Footnotes:
    """Texts with the numbers that stand for them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str) -> str:
        return f"[{self._numbers.setdefault(text, len(self._numbers) + 1)}]"

    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self._numbers.items()]


def _figure(results: Results, workload: Workload, metric: Metric, column: Column, notes: _Footnotes) -> str:
    outcome = results.outcome(workload, column.name)
    if outcome is None:
        return "-"
    if outcome.failed is not None:
        return f"FAILED {notes.mark(f'{column.name} failed: {outcome.failed}')}"
    spread = outcome.spread(metric)
    if spread is None:
        return f"cannot {notes.mark(f'{column.name} cannot: {outcome.cannot}')}"
    remarks = [column.note(workload)]
    if metric.key == "rate":
        remarks.append(_less(outcome, results.sizes))
    return " ".join(
        [_text(spread), *(notes.mark(f"{column.name}: {remark}") for remark in remarks if remark)]
    )


def _less(outcome: Outcome, sizes: Sizes) -> str | None:
    """Say that a backlog was shorter than that of the others."""
    count = outcome.rounds[0].get("count", sizes.many)
    return f"{count:,g} in place of {sizes.many:,}, to end in time" if count < sizes.many else None


def _ours(results: Results, workload: Workload, metric: Metric, column: Column) -> str:
    # A figure without a unit is a ratio already.
    if column.name == OURS or not metric.unit:
        return ""
    return _times(results.ahead(workload, metric, column.name))


def _beside_baseline(results: Results, workload: Workload, metric: Metric, column: Column) -> str:
    return _times(results.beside_baseline(workload, metric, column.name))


def _times(spread: Spread | None) -> str:
    return "" if spread is None else f"x {_text(spread)}"


def _about(column: Column) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in column.versions.items())
    return f"{column.configuration} ({versions})"


def _text(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.least)}-{_number(spread.greatest)})"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _words(sizes: Sizes) -> dict[str, str]:
    return {name: f"{value:,}" for name, value in asdict(sizes).items()}
