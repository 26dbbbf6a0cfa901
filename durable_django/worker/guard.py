"""The guard: an orchestrator's code makes no queries.

It runs inside the worker's own transaction and again at each replay. A query there would be part of neither
the history nor the decision that it led to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from durable_django.core.errors import OrchestrationStateError


class DatabaseAccessError(OrchestrationStateError):
    """An orchestrator's code has used the database."""


def _refuse(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    raise DatabaseAccessError(
        "An orchestrator must not query the database: its code runs again at every replay, and must decide "
        "the same each time. Do it in an activity, and yield ctx.call_activity(...). The query was: "
        f"{sql[:200]}"
    )


@contextmanager
def no_queries() -> Iterator[None]:
    """Turn every query that this thread makes into an error that tells the author what to do."""
    guarded = connections.all()
    for connection in guarded:
        connection.execute_wrappers.append(_refuse)
    try:
        yield
    finally:
        for connection in guarded:
            connection.execute_wrappers.remove(_refuse)
