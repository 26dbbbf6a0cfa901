"""An activity that goes on until the test opens its gate."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from durable_django import activity, orchestrator, task

_LONGEST_SECONDS = 60.0


@orchestrator
def pass_gate(ctx: task.OrchestrationContext, gate: str) -> Generator[task.Task[Any], Any, int]:
    """Return the id of the process that passed the gate."""
    pid: int = yield ctx.call_activity(wait_at_gate, input=gate)
    return pid


@activity
def wait_at_gate(_: task.ActivityContext, gate: str) -> int:
    """Leave a line in ``<gate>.waiting``, wait for the file ``gate``, and return the process's id."""
    with Path(f"{gate}.waiting").open("a") as waiting:
        waiting.write(f"{os.getpid()}\n")
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nobody opens {gate}")
        time.sleep(0.01)
    return os.getpid()


@orchestrator
def ask_collector(ctx: task.OrchestrationContext, _: None) -> Generator[task.Task[Any], Any, list[int]]:
    """Return what `collector` does."""
    found: list[int] = yield ctx.call_activity(collector)
    return found


@activity
def collector(_: task.ActivityContext) -> list[int]:
    """Return how many objects the garbage collector leaves alone, and how many new ones it waits for."""
    return [gc.get_freeze_count(), gc.get_threshold()[0]]
