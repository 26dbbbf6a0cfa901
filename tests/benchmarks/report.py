"""The figures as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.workloads import Figures, Metric, Workload

Rounds = Mapping[str, Sequence[Figures]]
"""What each round has measured, by the workload's name."""


def table(workloads: Sequence[Workload], sizes: Mapping[str, int], rounds: Rounds) -> str:
    """Return medians with minimum and maximum, one figure a line."""
    lines = [("workload", "figure", "median", "min-max", "unit", "target", "")]
    for workload in workloads:
        title = workload.title.format(f"{sizes[workload.name]:,}")
        for metric in workload.metrics:
            values = [figures[metric.key] for figures in rounds[workload.name]]
            median = statistics.median(values)
            spread = f"{_number(min(values))}-{_number(max(values))}"
            verdict = _verdict(metric, median)
            lines.append(
                (title, metric.label, _number(median), spread, metric.unit, _target(metric), verdict)
            )
            title = ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(cells, widths) for cells in lines)


def write_json(path: Path, about: Mapping[str, Any], sizes: Mapping[str, int], rounds: Rounds) -> None:
    """Write all rounds and their medians to a file."""
    content = {
        "about": about,
        "workloads": {
            name: {"size": sizes[name], "median": _medians(measured), "rounds": list(measured)}
            for name, measured in rounds.items()
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _medians(measured: Sequence[Figures]) -> Figures:
    return {key: statistics.median(figures[key] for figures in measured) for key in measured[0]}


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = {0, 1, 4, 6}
    padded = (
        cell.ljust(width) if number in left else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _target(metric: Metric) -> str:
    if metric.at_least is not None:
        return f"≥ {metric.at_least:,g}"
    return "" if metric.at_most is None else f"≤ {metric.at_most:,g}"


def _verdict(metric: Metric, value: float) -> str:
    if metric.at_least is None and metric.at_most is None:
        return ""
    missed = (metric.at_least is not None and value < metric.at_least) or (
        metric.at_most is not None and value > metric.at_most
    )
    return "missed" if missed else "met"
