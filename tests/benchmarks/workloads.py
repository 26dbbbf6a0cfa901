"""The workloads. Each is one function that prepares, measures once, and returns its figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import Group
from django.db import transaction

from durable_django.client import DurableTaskClient
from durable_django.entities import EntityInstanceId
from durable_django.history import ExecutionStartedEvent, TaskCompletedEvent
from durable_django.models import Entity, EntityOperation, Instance, InstanceStatus
from tests.benchmarks.orchestrations import chain, fan_out, inserting_chain, local_chain
from tests.benchmarks.pipes import Running

_STEPS_PER_ORCHESTRATION = 3
_EDGE = 100
_COUNTERS = 1000
_LOOK_SECONDS = 0.02
_PATIENCE_SECONDS = 600.0

Workers = Callable[[], AbstractContextManager[Running]]
"""Runs a worker process."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that a workload measures; ``at_least`` or ``at_most`` is what is asked of it."""

    key: str
    label: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """A measurement of ``size`` things, ``quick_size`` when there is little time."""

    name: str
    title: str
    size: int
    quick_size: int
    measure: Callable[[int, Workers], Figures]
    metrics: tuple[Metric, ...]


def measure_backlog(size: int, workers: Workers) -> Figures:
    """Start orchestrations of three steps before there is a worker, and time the worker on them."""
    client = DurableTaskClient()
    with transaction.atomic():
        for _ in range(size):
            client.schedule_new_orchestration(chain, input=_STEPS_PER_ORCHESTRATION)
    with workers() as running:
        _wait_until_finished()
        seconds = time.time() - running.started_at
    _check_all_completed(size)
    return {"rate": size / seconds}


def measure_fan_out(width: int, workers: Workers) -> Figures:
    """Time one orchestration that runs all its activities at once."""
    client = DurableTaskClient()
    with workers():
        _warm_up(client)
        started = time.perf_counter()
        _run(client, client.schedule_new_orchestration(fan_out, input=width))
        seconds = time.perf_counter() - started
    return {"rate": width / seconds}


def measure_chain(length: int, workers: Workers) -> Figures:
    """Time the steps of one long orchestration, by its history."""
    client = DurableTaskClient()
    with workers():
        _warm_up(client)
        instance_id = client.schedule_new_orchestration(chain, input=length)
        _run(client, instance_id)
    history = client.get_orchestration_history(instance_id)
    moments = [
        event.timestamp for event in history if isinstance(event, ExecutionStartedEvent | TaskCompletedEvent)
    ]
    edge = min(_EDGE, length // 2)
    first, last = _per_step(moments[: edge + 1]), _per_step(moments[-edge - 1 :])
    return {"step": _per_step(moments), "first": first, "last": last, "growth": last / first}


def measure_local(length: int, workers: Workers) -> Figures:
    """Time the steps of long chains of local activities, seen from here: one commit has many of them."""
    client = DurableTaskClient()
    figures = {}
    with workers():
        _warm_up(client)
        for key, orchestrator in (("nothing", local_chain), ("insert", inserting_chain)):
            Group.objects.all().delete()
            started = time.perf_counter()
            _run(client, client.schedule_new_orchestration(orchestrator, input=length))
            figures[key] = (time.perf_counter() - started) * 1000 / length
    return figures


def measure_latency(count: int, workers: Workers) -> Figures:
    """Time orchestrations of one step from start to finish, each on an idle worker, seen from here."""
    client = DurableTaskClient()
    with workers():
        _warm_up(client)
        milliseconds = []
        for _ in range(count):
            time.sleep(_LOOK_SECONDS)
            started = time.perf_counter()
            _run(client, client.schedule_new_orchestration(chain, input=1))
            milliseconds.append((time.perf_counter() - started) * 1000)
    return {"p50": statistics.median(milliseconds), "p95": statistics.quantiles(milliseconds, n=20)[18]}


def measure_starts(count: int, _: Workers) -> Figures:
    """Time starts, one by one, each in a transaction of its own, without a worker."""
    client = DurableTaskClient()
    client.schedule_new_orchestration(chain, input=1)
    started = time.perf_counter()
    for _number in range(count):
        client.schedule_new_orchestration(chain, input=1)
    return {"rate": count / (time.perf_counter() - started)}


def measure_bulk_starts(count: int, _: Workers) -> Figures:
    """Time starts in one call, without a worker."""
    client = DurableTaskClient()
    client.schedule_new_orchestration(chain, input=1)
    started = time.perf_counter()
    client.schedule_new_orchestrations(chain, [1] * count)
    return {"rate": count / (time.perf_counter() - started)}


def measure_one_counter(count: int, workers: Workers) -> Figures:
    """Time signals that wait for one entity before there is a worker."""
    return _measure_signals(count, 1, workers)


def measure_counters(count: int, workers: Workers) -> Figures:
    """Time signals that wait for a thousand entities before there is a worker."""
    return _measure_signals(count, _COUNTERS, workers)


def _measure_signals(count: int, counters: int, workers: Workers) -> Figures:
    client = DurableTaskClient()
    targets = [EntityInstanceId("counter", str(number)) for number in range(counters)]
    with transaction.atomic():
        for number in range(count):
            client.signal_entity(targets[number % counters], "add", 1)
    with workers() as running:
        _wait_until(lambda: not EntityOperation.objects.exists())
        seconds = time.time() - running.started_at
    counts = [int(state or 0) for state in Entity.objects.values_list("state", flat=True)]
    if sorted(counts) != [count // counters] * counters:
        raise RuntimeError(f"{counters} counters do not show {count // counters} each")
    return {"rate": count / seconds}


def _run(client: DurableTaskClient, instance_id: str) -> None:
    state = client.wait_for_orchestration_completion(
        instance_id, fetch_payloads=False, timeout=_PATIENCE_SECONDS
    )
    state.raise_if_failed()


def _warm_up(client: DurableTaskClient) -> None:
    for _ in range(5):
        _run(client, client.schedule_new_orchestration(chain, input=_STEPS_PER_ORCHESTRATION))


def _wait_until_finished() -> None:
    unfinished = Instance.objects.filter(status__in=[InstanceStatus.PENDING, InstanceStatus.RUNNING])
    _wait_until(lambda: not unfinished.exists())


def _wait_until(is_done: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while not is_done():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"Not finished after {_PATIENCE_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)


def _check_all_completed(count: int) -> None:
    completed = Instance.objects.filter(status=InstanceStatus.COMPLETED).count()
    if completed != count:
        raise RuntimeError(f"{completed} of {count} orchestrations have completed")


def _per_step(moments: list[datetime]) -> float:
    return (moments[-1] - moments[0]).total_seconds() * 1000 / (len(moments) - 1)


WORKLOADS = (
    Workload(
        "backlog",
        "{} orchestrations of 3 steps, in a backlog",
        5000,
        1000,
        measure_backlog,
        (Metric("rate", "throughput", "orchestrations/s", at_least=1000),),
    ),
    Workload(
        "fan-out",
        "one fan-out of {} activities",
        1000,
        1000,
        measure_fan_out,
        (Metric("rate", "throughput", "activities/s", at_least=4000),),
    ),
    Workload(
        "chain",
        "one chain of {} activities",
        1000,
        300,
        measure_chain,
        (
            Metric("step", "a step", "ms", at_most=4),
            Metric("first", f"first {_EDGE} steps", "ms per step"),
            Metric("last", f"last {_EDGE} steps", "ms per step"),
            Metric("growth", "last / first", "", at_most=1.2),
        ),
    ),
    Workload(
        "local",
        "one chain of {} local activities",
        1000,
        1000,
        measure_local,
        (
            Metric("nothing", "a step that does nothing", "ms", at_most=0.2),
            Metric("insert", "a step that inserts a row", "ms"),
        ),
    ),
    Workload(
        "latency",
        "{} orchestrations of 1 step, one by one",
        200,
        50,
        measure_latency,
        (Metric("p50", "start to finish, p50", "ms", at_most=12), Metric("p95", "p95", "ms")),
    ),
    Workload(
        "starts",
        "{} single starts",
        2000,
        500,
        measure_starts,
        (Metric("rate", "throughput", "starts/s", at_least=1500),),
    ),
    Workload(
        "bulk-starts",
        "{} starts in one call",
        10_000,
        2000,
        measure_bulk_starts,
        (Metric("rate", "throughput", "starts/s", at_least=10_000),),
    ),
    Workload(
        "one-counter",
        "{} signals to one entity",
        10_000,
        1000,
        measure_one_counter,
        (Metric("rate", "throughput", "operations/s"),),
    ),
    Workload(
        "counters",
        "{} signals to 1,000 entities",
        10_000,
        1000,
        measure_counters,
        (Metric("rate", "throughput", "operations/s"),),
    ),
)
