"""The census as a durable workflow: fan out over all files, fan in to the totals."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable_django import activity, orchestrator, task
from testproject.census.counting import Counts, count, source_files, total


@dataclass(frozen=True)
class Census:
    """What to count: the Python files below ``folder``, or the first ``limit`` of them.

    Every start of an activity leaves a line in the file ``journal``, if there is one.
    """

    folder: str
    limit: int | None = None
    journal: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """One file of a census."""

    census: Census
    path: str


@dataclass(frozen=True)
class Progress:
    """The census's custom status."""

    done: int
    files: int


@orchestrator
def source_census(ctx: task.OrchestrationContext, census: Census) -> Generator[task.Task[Any], Any, Counts]:
    """Count what is in all files: each is parsed by an activity of its own."""
    paths = yield ctx.call_activity(list_files, input=census)
    # All activities are scheduled here; the loop only waits for them, in order, and reports.
    counting = [ctx.call_activity(count_file, input=SourceFile(census, path)) for path in paths]
    step = max(1, len(paths) // 50)
    counts: list[Counts] = []
    for start in range(0, len(counting), step):
        ctx.set_custom_status(Progress(len(counts), len(paths)))
        counts += yield task.when_all(counting[start : start + step])
    ctx.set_custom_status(Progress(len(counts), len(paths)))
    return total(counts)


@activity
def list_files(_: task.ActivityContext, census: Census) -> list[str]:
    """Find the files: what the outside world looks like is asked by activities, and only once."""
    return source_files(Path(census.folder))[: census.limit]


@activity
def count_file(_: task.ActivityContext, file: SourceFile) -> Counts:
    """Parse a file. A crash may make this run again, but only one result is ever recorded."""
    if file.census.journal:
        with Path(file.census.journal).open("a") as journal:
            journal.write(f"{file.path}\n")
    return count(Path(file.census.folder, file.path))
