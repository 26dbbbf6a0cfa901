"""The benchmark's command line: ``python -m tests.benchmarks``."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import django

# The settings look at TEST_DATABASE, so that everything which reads them is imported once it is known.


def main() -> None:
    """Measure, and print what came of it."""
    # The usual end of a killed process would leave the database server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options = _options()
    if options.database:
        os.environ["TEST_DATABASE"] = options.database
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.db import connection

    # A database beside the one that is configured: the tables are emptied for each measurement.
    configured = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        _measure(options)
    finally:
        connection.creation.destroy_test_db(configured, verbosity=0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks", description="How fast one worker process is."
    )
    parser.add_argument("--database", choices=["postgres", "sqlite"], help="default: $TEST_DATABASE")
    parser.add_argument("--only", action="append", metavar="WORKLOAD", help="measure this; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="measure so many times (3) and take the median")
    parser.add_argument("--quick", action="store_true", help="measure less, for a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIRECTORY",
        help="run the workers under py-spy, keep its folded stacks there and print a digest",
    )
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> None:
    from tests.benchmarks import processes, profiles, report
    from tests.benchmarks.workloads import WORKLOADS, Figures

    names = [workload.name for workload in WORKLOADS]
    if unknown := set(options.only or ()) - set(names):
        sys.exit(f"unknown workloads: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [workload for workload in WORKLOADS if not options.only or workload.name in options.only]
    sizes = {entry.name: entry.quick_size if options.quick else entry.size for entry in chosen}
    if options.profile:
        if processes.profiler_path() is None:
            sys.exit("--profile needs py-spy: pip install py-spy")
        options.profile.mkdir(parents=True, exist_ok=True)
    about = _about()
    _say(", ".join(f"{key} {value}" for key, value in about.items()))

    rounds: dict[str, list[Figures]] = {workload.name: [] for workload in chosen}
    stacks: list[Path] = []
    for number in range(options.rounds):
        for workload in chosen:
            profile = options.profile and options.profile / f"{workload.name}-{number + 1}.txt"

            processes.empty_tables()
            figures = workload.measure(sizes[workload.name], partial(processes.workers, profile=profile))
            rounds[workload.name].append(figures)
            _say(f"round {number + 1}, {workload.name}: {_brief(figures)}", to=sys.stderr)
            if profile and profile.exists():
                stacks.append(profile)
    _say(report.table(chosen, sizes, rounds))
    for path in stacks:
        _say(f"\n{path}\n{profiles.digest(path)}")
    if options.json:
        report.write_json(options.json, about, sizes, rounds)


def _about() -> dict[str, Any]:
    from django.db import connection

    about = {
        "Python": platform.python_version(),
        "Django": django.get_version(),
        "CPUs": os.cpu_count(),
        connection.display_name: ".".join(map(str, connection.get_database_version())),
    }
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for setting in ("fsync", "synchronous_commit"):
                cursor.execute(f"SHOW {setting}")
                about[setting] = cursor.fetchone()[0]
    return about


def _brief(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.2f}" for key, value in figures.items())


def _say(text: str, to: Any = sys.stdout) -> None:
    to.write(f"{text}\n")
    to.flush()


if __name__ == "__main__":
    main()
