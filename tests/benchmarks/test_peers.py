"""The parts of the comparison that need no peer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.peers import report
from tests.benchmarks.peers.results import Column, Outcome, Results, Spread, ahead
from tests.benchmarks.peers.sizes import Sizes, scaled
from tests.benchmarks.peers.workloads import Baseline, Metric, Workload

RATE = Metric("rate", "throughput", "1/s", rising=True)
TIME = Metric("time", "latency", "ms")


def workload(name: str, *metrics: Metric) -> Workload:
    return Workload(name, "{many} of them", lambda *_: {}, metrics)


@pytest.mark.parametrize(
    ("wanted", "rate", "expected"),
    [(5000, 1000.0, 5000), (5000, 93.4, 930), (5000, 412.0, 4100), (5000, 7.1, 70), (5000, 0.3, 10)],
)
def test_a_backlog_is_cut_to_what_ends_in_time(wanted: int, rate: float, expected: int) -> None:
    assert scaled(wanted, rate, seconds=10.0) == expected


def test_more_is_better_of_a_rate_and_less_of_a_time() -> None:
    ours = Outcome([{"rate": 200.0, "time": 2.0}])
    theirs = Outcome([{"rate": 50.0, "time": 6.0}])
    assert ahead(RATE, ours, theirs) == Spread(4.0, 4.0, 4.0)
    assert ahead(TIME, ours, theirs) == Spread(3.0, 3.0, 3.0)


def test_ratios_are_of_the_same_round() -> None:
    ours = Outcome([{"rate": rate} for rate in (100.0, 400.0, 300.0)])
    theirs = Outcome([{"rate": rate} for rate in (50.0, 100.0, 100.0)])
    assert ahead(RATE, ours, theirs) == Spread(3.0, 2.0, 4.0)


def test_a_ratio_needs_both() -> None:
    assert ahead(RATE, Outcome([{"rate": 1.0}]), Outcome(cannot="no such thing")) is None


def results() -> Results:
    chains = workload("w1-chains", RATE)
    empty = Baseline("w1-chains", "as good as on empty tables")
    filled = workload("w7", replace(RATE, baseline=empty), TIME)
    found = Results([chains, filled], Sizes(many=5000), [Column("ours"), Column("peer", notes={"w1": "odd"})])
    found.outcomes = {
        ("w1-chains", "ours"): Outcome([{"rate": 2000.0}]),
        ("w1-chains", "peer"): Outcome([{"rate": 100.0, "count": 1000.0}]),
        ("w7", "ours"): Outcome([{"rate": 1800.0, "time": 1.5}]),
        ("w7", "peer"): Outcome([{"rate": 50.0}], cannot="it has no clock"),
    }
    return found


def test_table_tells_ratios_and_reasons() -> None:
    lines = [" ".join(line.split()) for line in report.table(results()).splitlines()]
    assert "w1-chains: 5,000 of them throughput 1/s 2,000 (2,000-2,000) 100 (100-100) [1] [2]" in lines
    assert "ours is better by x 20.0 (20.0-20.0)" in lines
    assert "latency ms 1.50 (1.50-1.50) cannot [3]" in lines
    assert "as good as on empty tables x 0.90 (0.90-0.90) x 0.50 (0.50-0.50)" in lines
    assert "[1] peer: odd" in lines
    assert "[2] peer: 1,000 in place of 5,000, to end in time" in lines
    assert "[3] peer cannot: it has no clock" in lines


def test_table_names_a_failure() -> None:
    found = results()
    found.outcomes["w7", "peer"] = Outcome(failed="ImportError: no module")
    assert found.has_failures
    assert "peer failed: ImportError: no module" in report.table(found)


def test_json_has_every_round(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    report.write_json(path, {"CPUs": 2}, results())
    peer = json.loads(path.read_text())["workloads"]["w1-chains"]["peer"]
    assert peer["rounds"] == [{"rate": 100.0, "count": 1000.0}]
    assert peer["figures"]["rate"]["ours_is_better_by"]["median"] == 20.0
