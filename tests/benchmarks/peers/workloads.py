"""The workloads: functions of an emptied system, which measure once and return their figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import psutil

from tests.benchmarks.peers.sizes import Sizes, scaled
from tests.benchmarks.peers.system import CannotError, Program, System

if TYPE_CHECKING:
    from tests.benchmarks.peers.ours import Ours

_STEPS = 3
_EDGE = 100
_PAUSE_SECONDS = 0.02
_SLOW_COMMIT_MICROSECONDS = 2_000
_PILOT = 100
_WAKE_UPS = 10
_TIMERS = 5
_TIMER_SECONDS = 1

Figures = dict[str, float]


class Baseline(NamedTuple):
    """A workload that measures the same where less is asked; ``label`` says how both are put together."""

    workload: str
    label: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure; ``rising`` says whether more is better."""

    key: str
    label: str
    unit: str
    rising: bool = False
    baseline: Baseline | None = None


@dataclass(slots=True)
class Bench:
    """How much is measured, and what is known by now of how fast each system is."""

    sizes: Sizes
    rates: dict[str, float] = field(default_factory=dict)

    def backlog_of_many(self, system: System) -> int:
        """Return how many orchestrations the system gets where all get many: fewer if it is slow."""
        if system.name not in self.rates:
            system.clear()
            self.rates[system.name] = _backlog(system, _PILOT)
            system.clear()
        return scaled(self.sizes.many, self.rates[system.name], self.sizes.seconds)


@dataclass(frozen=True, slots=True)
class Workload:
    """A measurement. The part of ``name`` before a hyphen is its family."""

    name: str
    title: str
    measure: Callable[[System, Bench], Figures]
    metrics: tuple[Metric, ...]
    systems: frozenset[str] | None = None
    """Which systems it is for, by name; None is all."""

    @property
    def family(self) -> str:
        """What it has in common with others."""
        return self.name.partition("-")[0]


def measure_few(system: System, bench: Bench, workers: int = 1) -> Figures:
    """A backlog of few orchestrations, from the start of the workers to the last end."""
    rate = _backlog(system, bench.sizes.few, workers)
    if workers == 1:
        bench.rates.setdefault(system.name, rate)
    return {"rate": rate}


def measure_many(system: System, bench: Bench, workers: int = 1) -> Figures:
    """The same with many."""
    count = bench.backlog_of_many(system)
    return {"rate": _backlog(system, count, workers), "count": count}


def measure_many_on_a_slow_disk(system: System, bench: Bench) -> Figures:
    """The same where a commit takes longer."""
    with system.server.slow_commits(_SLOW_COMMIT_MICROSECONDS):
        return measure_many(system, bench)


def measure_single_starts(system: System, bench: Bench) -> Figures:
    """Few orchestrations that are started one by one while a worker runs them."""
    return {"rate": bench.sizes.few / system.start_one_by_one(bench.sizes.few)}


def measure_fan_out(system: System, bench: Bench, count: int = 1) -> Figures:
    """Activities at once, in ``count`` orchestrations that share them, from start to result."""
    width = bench.sizes.fan_out // count
    with system.workers(Program.FAN_OUT):
        system.result(system.start(Program.CHAIN, _STEPS))
        started = time.perf_counter()
        for orchestration in [system.start(Program.FAN_OUT, width) for _ in range(count)]:
            system.result(orchestration)
        return {"rate": width * count / (time.perf_counter() - started)}


def measure_latency(system: System, bench: Bench) -> Figures:
    """Chains of one activity on an idle system, from start to result."""
    milliseconds = system.round_trips(bench.sizes.round_trips, _PAUSE_SECONDS)
    return {"p50": statistics.median(milliseconds), "p95": statistics.quantiles(milliseconds, n=20)[18]}


def measure_chain(system: System, bench: Bench, program: Program = Program.TIMED_CHAIN) -> Figures:
    """One long chain, by the clock that its activities read."""
    length = bench.sizes.chain
    with system.workers(program):
        system.result(system.start(Program.CHAIN, _STEPS))
        started = time.perf_counter()
        times = cast("Sequence[float]", system.result(system.start(program, length)))
        seconds = time.perf_counter() - started
    edge = min(_EDGE, length // 2)
    first, last = _per_step(times[: edge + 1]), _per_step(times[-edge - 1 :])
    return {"step": seconds * 1000 / length, "first": first, "last": last, "growth": last / first}


def measure_local_chain(system: System, bench: Bench) -> Figures:
    """One long chain of local activities."""
    return measure_chain(system, bench, Program.LOCAL_CHAIN)


def measure_starts(system: System, bench: Bench) -> Figures:
    """Starts one by one, without a worker."""
    system.start(Program.CHAIN, 1)
    started = time.perf_counter()
    for _ in range(bench.sizes.starts):
        system.start(Program.CHAIN, 1)
    return {"rate": bench.sizes.starts / (time.perf_counter() - started)}


def measure_bulk_starts(system: System, bench: Bench) -> Figures:
    """Starts all at once, without a worker."""
    system.start_in_bulk(Program.CHAIN, 1, 2)
    started = time.perf_counter()
    system.start_in_bulk(Program.CHAIN, 1, bench.sizes.starts)
    return {"rate": bench.sizes.starts / (time.perf_counter() - started)}


def measure_idle(system: System, bench: Bench) -> Figures:
    """A worker with nothing to do beside many that sleep, and how soon it wakes."""
    with system.server.counting_statements(), system.workers(Program.SLEEP) as running:
        system.put_to_sleep(bench.sizes.sleeping)
        time.sleep(2)
        processes = [psutil.Process(pid) for pid in running.pids]
        cpu, statements = _cpu_seconds(processes), system.server.statements(system.database)
        time.sleep(bench.sizes.idle_seconds)
        cpu = _cpu_seconds(processes) - cpu
        statements = system.server.statements(system.database) - statements
        wake_ups = [system.round_trip(pause=0.3) for _ in range(_WAKE_UPS)]
        late = _lateness(system)
    return {
        "cpu": cpu / bench.sizes.idle_seconds * 100,
        "statements": statements / bench.sizes.idle_seconds,
        "wake_up": statistics.median(wake_ups),
        "late": late,
    }


def measure_full(system: System, bench: Bench) -> Figures:
    """Many, latency and chain again, beside finished and waiting ones in the tables."""
    count = bench.backlog_of_many(system)
    system.fill(bench.sizes.finished, bench.sizes.waiting)
    system.server.settle(system.database)
    figures = {"rate": _backlog(system, count), "count": float(count)} | measure_latency(system, bench)
    try:
        chain = measure_chain(system, bench)
    except CannotError as error:
        raise CannotError(str(error), figures) from error
    return figures | {"first": chain["first"], "last": chain["last"]}


def measure_memory(system: System, bench: Bench) -> Figures:
    """What a worker that holds live executions takes of memory."""
    ours = cast("Ours", system)
    with ours.caching_worker(2 * bench.sizes.live) as running:
        ours.have_waiting(bench.sizes.live)
        return {"rss": psutil.Process(running.pids[0]).memory_info().rss / 2**20}


def _backlog(system: System, count: int, workers: int = 1) -> float:
    orchestrations = system.start_many(Program.CHAIN, _STEPS, count)
    with system.workers(Program.CHAIN, workers) as running:
        system.wait_for_all(orchestrations)
        return count / (time.time() - running.started_at)


def _lateness(system: System) -> float:
    """Milliseconds from when a timer is due to when the orchestration goes on; the median of a few."""
    started = []
    for _ in range(_TIMERS):
        started.append((time.time(), system.start(Program.SLEEP, _TIMER_SECONDS)))
        time.sleep(0.1)
    return statistics.median(
        (cast("float", system.result(orchestration)) - at - _TIMER_SECONDS) * 1000
        for at, orchestration in started
    )


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def _per_step(times: Sequence[float]) -> float:
    return (times[-1] - times[0]) * 1000 / (len(times) - 1)


_ORCHESTRATIONS = Metric("rate", "throughput", "orch./s", rising=True)
_ACTIVITIES = Metric("rate", "throughput", "act./s", rising=True)
_STARTS = Metric("rate", "throughput", "starts/s", rising=True)
_CHAIN = (
    Metric("step", "start to result", "ms/step"),
    Metric("first", f"first {_EDGE}", "ms/step"),
    Metric("last", f"last {_EDGE}", "ms/step"),
    Metric("growth", "last / first", ""),
)
_LATENCY = (Metric("p50", "start to result, p50", "ms"), Metric("p95", "p95", "ms"))
_OURS = frozenset({"ours"})
_ONE_WORKER = "times one worker"
_EMPTY = "as good as on empty tables"

WORKLOADS = (
    Workload("w1-500", "backlog of {few}, 1 worker", measure_few, (_ORCHESTRATIONS,)),
    Workload(
        "w1-500-two",
        "backlog of {few}, 2 workers",
        lambda s, b: measure_few(s, b, 2),
        (replace(_ORCHESTRATIONS, baseline=Baseline("w1-500", _ONE_WORKER)),),
    ),
    Workload("w1-5000", "backlog of {many}, 1 worker", measure_many, (_ORCHESTRATIONS,)),
    Workload(
        "w1-5000-two",
        "backlog of {many}, 2 workers",
        lambda s, b: measure_many(s, b, 2),
        (replace(_ORCHESTRATIONS, baseline=Baseline("w1-5000", _ONE_WORKER)),),
    ),
    Workload("w1-single", "{few} started one by one meanwhile", measure_single_starts, (_ORCHESTRATIONS,)),
    Workload(
        "w1-slow-disk",
        "backlog of {many}, commits 2 ms longer",
        measure_many_on_a_slow_disk,
        (_ORCHESTRATIONS,),
        _OURS,
    ),
    Workload("w2-one", "one fan-out of {fan_out}", measure_fan_out, (_ACTIVITIES,)),
    Workload(
        "w2-five", "five fan-outs that share {fan_out}", lambda s, b: measure_fan_out(s, b, 5), (_ACTIVITIES,)
    ),
    Workload("w3", "{round_trips} chains of 1, idle", measure_latency, _LATENCY),
    Workload("w4", "one chain of {chain}", measure_chain, _CHAIN),
    Workload("w4-local", "one chain of {chain}, local", measure_local_chain, _CHAIN),
    Workload("w5-single", "{starts} single starts", measure_starts, (_STARTS,)),
    Workload("w5-bulk", "{starts} starts in bulk", measure_bulk_starts, (_STARTS,)),
    Workload(
        "w6",
        "idle beside {sleeping} asleep",
        measure_idle,
        (
            Metric("cpu", "CPU of a core", "%"),
            Metric("statements", "statements", "1/s"),
            Metric("wake_up", "start to result", "ms"),
            Metric("late", "timer of 1 s late by", "ms"),
        ),
    ),
    Workload(
        "w7",
        "beside {finished} finished, {waiting} waiting",
        measure_full,
        (
            replace(_ORCHESTRATIONS, baseline=Baseline("w1-5000", _EMPTY)),
            *(replace(metric, baseline=Baseline("w3", _EMPTY)) for metric in _LATENCY),
            *(replace(metric, baseline=Baseline("w4", _EMPTY)) for metric in _CHAIN[1:3]),
        ),
    ),
    Workload(
        "memory",
        "{live} live executions",
        measure_memory,
        (Metric("rss", "memory of the worker", "MB"),),
        _OURS,
    ),
)
