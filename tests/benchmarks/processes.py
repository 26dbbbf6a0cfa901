"""Starting and stopping the worker process, under a profiler if wanted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.management.color import no_style
from django.db import connection
from django.db.models import Model

from durable_django import models
from tests import databases

_SECONDS_TO_ATTACH = 2.0


def empty_tables() -> None:
    """Delete all that earlier measurements have left."""
    tables = [
        model._meta.db_table
        for model in vars(models).values()
        if isinstance(model, type) and issubclass(model, Model) and not model._meta.abstract
    ]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, reset_sequences=True))


@contextmanager
def worker(profile: Path | None = None) -> Iterator[float]:
    """Run a worker process, and give the time (`time.time()`) at which its start-up was complete.

    Where it spends its time goes to ``profile``, if given, as py-spy's folded stacks.
    """
    environment = os.environ | {
        "DATABASE_URL": databases.to_url(connection.settings_dict),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    command = [sys.executable, "-m", "tests.benchmarks.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        profiler = None if profile is None else _attach(process.pid, profile)
        process.stdin.write("start\n")
        process.stdin.flush()
        try:
            yield float(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()
            if profiler is not None:
                profiler.wait()


def profiler_path() -> str | None:
    """Return where py-spy is, beside this Python or on the path."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def _attach(pid: int, profile: Path) -> subprocess.Popen[bytes]:
    path = profiler_path()
    assert path is not None
    # Only what holds the interpreter's lock: a thread that waits for its next activity is no cost.
    options = ["--format", "raw", "--threads", "--gil", "--rate", "400"]
    command = [path, "record", "--pid", str(pid), "--output", str(profile), *options]
    profiler = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        profiler.wait(_SECONDS_TO_ATTACH)
    except subprocess.TimeoutExpired:
        return profiler
    raise RuntimeError("py-spy could not attach to the worker process.")
