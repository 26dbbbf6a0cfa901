"""Many rows like one that a system itself has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal


def copy_rows(
    connection: psycopg.Connection[Any], table: str, condition: str, changes: Mapping[str, str], count: int
) -> None:
    """Add ``count`` copies of each row of ``table`` for which ``condition`` holds.

    ``changes`` are the columns that differ, as SQL in which ``n`` is the number of the copy, from 1 on. A
    column with an identity or a sequence goes by that unless it is changed.
    """
    columns = [
        column
        for column, generated in connection.execute(
            "SELECT attname,"
            " attidentity <> '' OR coalesce(pg_get_expr(adbin, adrelid) LIKE 'nextval%%', false)"
            " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            [table],
        )
        if not generated or column in changes
    ]
    values = [SQL(changes[column]) if column in changes else Identifier(column) for column in columns]
    connection.execute(
        SQL("INSERT INTO {} ({}) SELECT {} FROM {}, generate_series(1, {}) n WHERE {}").format(
            _qualified(table),
            SQL(", ").join(map(Identifier, columns)),
            SQL(", ").join(values),
            _qualified(table),
            Literal(count),
            SQL(condition),
        )
    )


def _qualified(table: str) -> Identifier:
    return Identifier(*table.split("."))
