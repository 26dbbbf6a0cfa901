"""Workflows that the browser tests steer."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from durable_django import activity, orchestrator, task

Steps = Generator[task.Task[Any], Any, Any]


@orchestrator
def charge_card(ctx: task.OrchestrationContext, terminal: str) -> Steps:
    """Charge a card at a terminal, which is a file: it is out of order until the file is there."""
    return (yield ctx.call_activity(charge, input=terminal))


@activity
def charge(_: task.ActivityContext, terminal: str) -> str:
    """Charge the card.

    Raises:
        ConnectionError: The terminal is out of order.
    """
    if not Path(terminal).exists():
        raise ConnectionError("the terminal does not answer")
    return "charged"
