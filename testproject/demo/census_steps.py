"""The census, once in peace and once with its worker killed in the middle of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from django.core.management.base import CommandError

from durable_django.client import DurableTaskClient, OrchestrationState, OrchestrationStatus
from durable_django.history import TaskCompletedEvent, TaskScheduledEvent
from testproject.census.counting import Counts, count, source_files, total
from testproject.census.workflows import Census, Progress, source_census
from testproject.demo.report import Step
from testproject.demo.screen import Screen
from testproject.demo.workers import WorkerProcess

_LOOK_SECONDS = 0.02
_LONGEST_SECONDS = 120.0


def run_in_peace(screen: Screen, worker: WorkerProcess, census: Census) -> tuple[Step, Counts]:
    """Run a census, and compare it with a count that this process makes without any workflow."""
    step = Step("census")
    client = DurableTaskClient()
    instance_id = client.schedule_new_orchestration(source_census, input=census)
    counted = _totals(_follow(screen, worker, client, instance_id))
    seconds = time.monotonic() - step.started_at
    screen.line(_described(counted))

    began = time.monotonic()
    folder = Path(census.folder)
    direct = total(count(folder / path) for path in source_files(folder)[: census.limit])
    took = time.monotonic() - began
    step.check(screen, counted == direct, f"a direct count in one process ({took:.1f} s) has the same totals")
    files = direct.files
    once = _recorded_once(client, instance_id, files)
    step.check(screen, once, f"the history has exactly one result for each of {files:,} files")
    step.end(f"{files:,} files, {files / seconds:,.0f} files/s")
    return step, direct


def run_with_a_crash(
    screen: Screen, start_worker: Callable[[], WorkerProcess], census: Census, expected: Counts
) -> Step:
    """Run the census again, kill its worker in the middle of it, and let another one finish."""
    step = Step("census with a crash")
    assert census.journal
    client = DurableTaskClient()
    worker = start_worker()
    instance_id = client.schedule_new_orchestration(source_census, input=census)
    before = _follow(screen, worker, client, instance_id, until=lambda done, files: done >= files / 10)
    worker.kill()
    recorded = _results(client, instance_id).total() - 1  # Without the list of files.
    screen.line(f"worker killed with SIGKILL (pid {worker.pid}), {recorded:,} results recorded")
    was_running = not before.runtime_status.is_terminal
    step.check(screen, was_running and 0 < recorded < expected.files, "the census was under way")

    worker = start_worker()
    screen.line(f"another one started (pid {worker.pid}): it finds the dead one and takes its work over")
    counted = _totals(_follow(screen, worker, client, instance_id))
    step.check(screen, counted == expected, f"the totals are the same: {_described(counted)}")
    once = _recorded_once(client, instance_id, expected.files)
    step.check(screen, once, f"the history has exactly one result for each of {expected.files:,} files")
    again = len(Path(census.journal).read_text().splitlines()) - expected.files
    screen.line(f"{again} files had been begun but not recorded at the crash: they were parsed a second time")
    step.check(screen, worker.stop() == 0, "SIGTERM ends the worker with exit status 0")
    step.end(f"killed after {recorded:,} results; {again} files parsed again, none counted twice")
    return step


def _follow(
    screen: Screen,
    worker: WorkerProcess,
    client: DurableTaskClient,
    instance_id: str,
    until: Callable[[int, int], bool] = lambda _done, _files: False,
) -> OrchestrationState:
    """Show a census's progress until it ends, or until ``until`` says so of its custom status."""
    began = time.monotonic()
    while True:
        state = client.get_orchestration_state(instance_id)
        assert state is not None
        progress = state.get_custom_status(Progress) or Progress(0, 0)
        seconds = time.monotonic() - began
        ends = state.runtime_status.is_terminal or (
            progress.files > 0 and until(progress.done, progress.files)
        )
        screen.progress(progress.done, progress.files, seconds, last=ends)
        if ends:
            return state
        worker.check()
        if seconds > _LONGEST_SECONDS:
            raise CommandError(f"The census does not end. The worker's log:\n{worker.last_words()}")
        time.sleep(_LOOK_SECONDS)


def _totals(state: OrchestrationState) -> Counts:
    state.raise_if_failed()
    counts = state.get_output(Counts)
    if state.runtime_status is not OrchestrationStatus.COMPLETED or counts is None:
        raise CommandError(f"The census is {state.runtime_status.name}.")
    return counts


def _results(client: DurableTaskClient, instance_id: str) -> Counter[int]:
    """Return how many results the history has for each activity."""
    history = client.get_orchestration_history(instance_id)
    return Counter(event.task_scheduled_id for event in history if isinstance(event, TaskCompletedEvent))


def _recorded_once(client: DurableTaskClient, instance_id: str, files: int) -> bool:
    history = client.get_orchestration_history(instance_id)
    scheduled = [event.event_id for event in history if isinstance(event, TaskScheduledEvent)]
    return len(scheduled) == files + 1 and _results(client, instance_id) == Counter(scheduled)


def _described(counts: Counts) -> str:
    return (
        f"{counts.lines:,} lines, {counts.functions:,} functions, {counts.classes:,} classes, "
        f"{counts.imports:,} imports"
    )


def with_journal(census: Census, directory: Path) -> Census:
    """Return the same census, to be run with a journal of its activities' starts."""
    journal = directory / "journal"
    journal.touch()
    return replace(census, journal=str(journal))
