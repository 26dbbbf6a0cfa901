"""How activities scale: ``python -m tests.engines.measure`` on PostgreSQL, the figures of docs/scaling.md."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django

_PATIENCE = 300


@dataclass(frozen=True)
class Case:
    """So many activities of one name, on one engine with so many worker processes and these settings."""

    title: str
    name: str
    seconds: float
    count: int
    engine: str = "in process"
    workers: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


_LIMITED = {"QUEUE_LIMITS": {"elsewhere": {"concurrency": 1000}}}
_RATED = {"QUEUE_LIMITS": {"elsewhere": {"rate": "5000/s"}}}
CASES = [
    Case("nothing to do, 1 process", "nothing", 0, 4000),
    Case("nothing to do, 2 processes", "nothing", 0, 4000, workers=2),
    Case("50 ms of waiting, 16 threads", "wait", 0.05, 1000, settings={"ACTIVITY_THREADS": 16}),
    Case("50 ms of waiting, 64 threads", "wait", 0.05, 4000, settings={"ACTIVITY_THREADS": 64}),
    Case(
        "50 ms of waiting, 16 threads, 2 processes",
        "wait",
        0.05,
        2000,
        workers=2,
        settings={"ACTIVITY_THREADS": 16},
    ),
    Case("50 ms of waiting, async", "wait_async", 0.05, 4000),
    Case("5 ms of computing, 1 process", "compute", 0.005, 1000),
    Case("5 ms of computing, 2 processes", "compute", 0.005, 1000, workers=2),
    Case("nothing to do, in a queue with a limit", "nothing", 0, 2000, settings=_LIMITED),
    Case("the same, 2 processes", "nothing", 0, 2000, workers=2, settings=_LIMITED),
    Case("nothing to do, in a queue with a rate of 5000/s", "nothing", 0, 2000, settings=_RATED),
    Case("nothing to do, django-q2 on the database", "nothing", 0, 300, "django-q2 on the database"),
    Case("nothing to do, django-q2 on Redis", "nothing", 0, 600, "django-q2 on redis"),
    Case("nothing to do, django-tasks-db", "nothing", 0, 300, "django-tasks"),
]


def main() -> None:
    """Measure each case so many times, and print the medians."""
    parser = argparse.ArgumentParser("python -m tests.engines.measure")
    parser.add_argument("--rounds", type=int, default=3, help="how often (3)")
    options = parser.parse_args()
    os.environ["TEST_DATABASE"] = "postgres"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.db import connection

    configured = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        rates: dict[str, list[float]] = {case.title: [] for case in CASES}
        for _ in range(options.rounds):
            for case in CASES:
                rates[case.title].append(measure(case))
        for title, found in rates.items():
            low, middle, high = min(found), statistics.median(found), max(found)
            sys.stdout.write(f"{title:50} {middle:8,.0f}/s  ({low:,.0f}-{high:,.0f})\n")
    finally:
        connection.creation.destroy_test_db(configured, verbosity=0)


def measure(case: Case) -> float:
    """Return how many activities a second ended."""
    from django.db import connection

    from durable_django.client import DurableTaskClient
    from tests import databases
    from tests.benchmarks.processes import empty_tables
    from tests.engines.engines import QUEUE, Site, built

    empty_tables()
    environment = os.environ | {
        "DATABASE_URL": databases.to_url(connection.settings_dict),
        "DJANGO_SETTINGS_MODULE": "testproject.settings",
    }
    client = DurableTaskClient()
    with tempfile.TemporaryDirectory() as folder:
        usual = {"LEASE_SECONDS": 60, "HEARTBEAT_SECONDS": 10, "POLL_INTERVAL": 1.0, "ACTIVITY_THREADS": 16}
        site = Site(environment, Path(folder), usual | case.settings, {"lease_seconds": 60})
        with built(case.engine, site, workers=case.workers):
            about = {"name": case.name, "seconds": case.seconds, "queue": QUEUE}
            warm = client.schedule_new_orchestration("many", input={**about, "count": 20})
            client.wait_for_orchestration_completion(warm, timeout=_PATIENCE)
            started = time.perf_counter()
            parts = [{**about, "count": case.count // 20}] * 20
            for instance_id in client.schedule_new_orchestrations("many", parts):
                client.wait_for_orchestration_completion(instance_id, timeout=_PATIENCE)
            return case.count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
