"""``manage.py demo``: real work on a real worker process, checked, with a crash in the middle."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

import durable_django
from testproject.census.workflows import Census
from testproject.demo import census_steps, order_steps
from testproject.demo.report import Step
from testproject.demo.screen import Screen
from testproject.demo.workers import WorkerProcess

_LEAST_FILES = 200


class Command(BaseCommand):
    """Runs the demo."""

    help = "Run the demo: a census of Django's source code, order approvals, and the census with a crash."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--limit", type=int, metavar="N", help="count only the first N files")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run all steps; exit status 1 unless all of their checks hold."""
        if options["limit"] is not None and options["limit"] < _LEAST_FILES:
            raise CommandError(
                f"--limit must be at least {_LEAST_FILES}, not {options['limit']}: fewer files are counted "
                "before their worker can be killed."
            )
        began = time.monotonic()
        screen = Screen(self.stdout)
        call_command("migrate", verbosity=0)
        screen.line(
            f"durable_django {durable_django.__version__} on {connection.display_name}, "
            f"Django {django.__version__}, Python {platform.python_version()}"
        )
        with tempfile.TemporaryDirectory(prefix="durable-demo-") as directory:
            steps = _run(screen, Path(directory), options["limit"])
        passed = all(step.passed for step in steps)
        screen.heading("Summary")
        screen.table(
            ["step", "result", "seconds", "what"],
            [
                [step.title, "ok" if step.passed else "FAILED", f"{step.seconds:.1f}", step.summary]
                for step in steps
            ],
            right=[2],
        )
        screen.line()
        seconds = time.monotonic() - began
        screen.line(f"{'All checks hold' if passed else 'Some checks FAILED'}, after {seconds:.0f} s.")
        if not passed:
            sys.exit(1)


def _run(screen: Screen, directory: Path, limit: int | None) -> list[Step]:
    workers: list[WorkerProcess] = []

    def start_worker() -> WorkerProcess:
        worker = WorkerProcess(f"worker-{len(workers) + 1}", directory)
        workers.append(worker)
        return worker

    census = Census(str(Path(django.__file__).parent), limit)
    try:
        worker = start_worker()
        screen.heading("1. Source census: every .py file of the installed Django, one activity each")
        screen.line(f"manage.py durable_worker started (pid {worker.pid})")
        counted, totals = census_steps.run_in_peace(screen, worker, census)

        screen.heading("2. Order approval: orders from a CSV file, an external event and a timeout")
        ordered = order_steps.run(screen, worker)
        worker.stop()

        screen.heading("3. The census again, its worker killed in the middle")
        crashed = census_steps.run_with_a_crash(
            screen, start_worker, census_steps.with_journal(census, directory), totals
        )
    finally:
        for started in workers:
            started.stop()
    return [counted, ordered, crashed]
