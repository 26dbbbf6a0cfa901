"""Starting and stopping worker processes, under a profiler if wanted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model

from durable_django import models
from tests import databases
from tests.benchmarks import pipes
from tests.benchmarks.pipes import Running

_SECONDS_TO_ATTACH = 2.0


def empty_tables(using: str = DEFAULT_DB_ALIAS) -> None:
    """Delete all that earlier measurements have left."""
    operations = connections[using].ops
    tables = [
        model._meta.db_table
        for model in vars(models).values()
        if isinstance(model, type) and issubclass(model, Model) and not model._meta.abstract
    ]
    operations.execute_sql_flush(operations.sql_flush(no_style(), tables, reset_sequences=True))


def workers(
    using: str = DEFAULT_DB_ALIAS,
    *,
    count: int = 1,
    settings: dict[str, Any] | None = None,
    profile: Path | None = None,
) -> AbstractContextManager[Running]:
    """Run worker processes, with ``DURABLE_DJANGO`` as given if it is.

    Where the first one spends its time goes to ``profile``, if given, as py-spy's folded stacks.
    """
    environment = {
        "DATABASE_URL": databases.to_url(connections[using].settings_dict),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    if settings is not None:
        environment["DURABLE_DJANGO"] = json.dumps(settings)
    attach = None if profile is None else partial(_attach, profile)
    return pipes.running("tests.benchmarks.worker", count=count, environment=environment, attach=attach)


def profiler_path() -> str | None:
    """Return where py-spy is, beside this Python or on the path."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def _attach(profile: Path, pid: int) -> Callable[[], object]:
    path = profiler_path()
    assert path is not None
    # Only what holds the interpreter's lock: a thread that waits for its next activity is no cost.
    options = ["--format", "raw", "--threads", "--gil", "--rate", "400"]
    command = [path, "record", "--pid", str(pid), "--output", str(profile), *options]
    profiler = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        profiler.wait(_SECONDS_TO_ATTACH)
    except subprocess.TimeoutExpired:
        return profiler.wait
    raise RuntimeError("py-spy could not attach to the worker process.")
