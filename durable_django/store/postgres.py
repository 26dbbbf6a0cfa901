"""PostgreSQL's own: COPY for many rows, LISTEN for wake-ups. The only module that imports psycopg."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db.backends.utils import CursorWrapper

COPY_FROM_ROWS = 16
"""From how many rows on COPY beats one INSERT; below, its extra round trips cost more."""


def copy(cursor: CursorWrapper, target: str, rows: Iterable[Sequence[Any]]) -> None:
    """Append ``rows`` to ``target``, a quoted table with its columns."""
    with cursor.cursor.copy(f"COPY {target} FROM STDIN") as stream:
        for row in rows:
            stream.write_row(row)
