"""PostgreSQL's own: COPY for many rows, pipelines for few, LISTEN and NOTIFY for wake-ups."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import cache
from typing import Any

from django.db import connections
from django.db.backends.utils import CursorWrapper

from durable_django.store.exchange import Answer, Exchange

COPY_FROM_ROWS = 16
"""From how many rows on COPY beats one INSERT; below, its extra round trips cost more."""

COPY_FROM_PIPELINED_ROWS = 100
"""The same for an INSERT in a pipeline, which COPY interrupts."""

NULL = r"\N"
"""What stands for NULL in a line of COPY's text format."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\t": r"\t", "\r": r"\r"})

_COPY_CHARACTERS = 1 << 15
"""How much is sent at once: as much as psycopg itself sends."""

_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A listener is silent for hours. If its connection is cut on the way, nothing else would ever tell it."""

# Every listener pays for every notification, so that a batch's ids go into one, as far as they fit.
SEPARATOR = "\x1f"
"""Stands between the payloads of one notification."""

_PAYLOAD_BYTES = 7999


def copy(cursor: CursorWrapper, target: str, rows: Iterable[Sequence[Any]]) -> None:
    """Append ``rows`` to ``target``, a quoted table with its columns."""
    with cursor.db.wrap_database_errors, cursor.cursor.copy(f"COPY {target} FROM STDIN") as stream:
        for row in rows:
            stream.write_row(row)


def copy_lines(cursor: CursorWrapper, target: str, lines: Iterable[str]) -> None:
    """Do the same with rows that are lines of COPY's text format.

    Where thousands of rows are made in one place, that takes half of what psycopg takes to write each value
    as its type asks for.
    """
    with cursor.db.wrap_database_errors, cursor.cursor.copy(f"COPY {target} FROM STDIN") as stream:
        waiting: list[str] = []
        size = 0
        for line in lines:
            waiting.append(line)
            size += len(line)
            if size >= _COPY_CHARACTERS:
                stream.write("".join(waiting))
                waiting, size = [], 0
        stream.write("".join(waiting))


def escaped(text: str) -> str:
    """Return a text as it stands in a line of COPY's text format.

    Source: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
    """
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        return text.translate(_ESCAPES)
    return text


def array(values: Sequence[str | int | None]) -> str:
    """Return an array's parameter, as text: psycopg takes eight times as long to make it."""
    write = str if set(map(type, values)) == {int} else _element
    return f"{{{','.join(map(write, values))}}}"


def _element(value: str | int | None) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "NULL" if value is None else str(value)


class PipelineCursor(CursorWrapper):
    """A cursor of an `Exchange`: statements are sent at once, and answered when somebody needs rows."""

    def __init__(self, exchange: Exchange, connection: Any) -> None:
        super().__init__(None, connection)
        self._exchange = exchange
        self._answer: Answer | None = None

    def ask(self, sql: str, parameters: Sequence[Any]) -> Answer:
        """Send a query. Others may be sent before its rows are read."""
        return self._exchange.send(sql, parameters)

    def execute(self, sql: Any, params: Any = ()) -> None:
        """Send a statement; `fetchall` gives the rows of the last one."""
        self._answer = self._exchange.send(sql, params)

    def executemany(self, sql: Any, param_list: Any) -> None:
        """Send a statement for each of many."""
        for params in param_list:
            self._exchange.send(sql, params)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Wait for the rows of the last statement."""
        assert self._answer is not None
        return self._answer.rows()


@cache
def has_pipelines() -> bool:
    """Tell whether psycopg's libpq can do pipelines."""
    from psycopg import Pipeline

    return Pipeline.is_supported()


def notify(using: str, channel: str, sender: str, payloads: Sequence[str]) -> None:
    """Send payloads, in a transaction of their own."""
    with connections[using].cursor() as cursor:
        notify_within(cursor, channel, sender, payloads)


def notify_within(cursor: CursorWrapper, channel: str, sender: str, payloads: Sequence[str]) -> None:
    """Send payloads once the cursor's transaction is committed; ``sender`` leads each notification."""
    bundles = [sender]
    for payload in payloads:
        bundle = f"{bundles[-1]}{SEPARATOR}{payload}"
        if len(bundle.encode()) <= _PAYLOAD_BYTES:
            bundles[-1] = bundle
        else:
            bundles.append(f"{sender}{SEPARATOR}{payload}")
    sql = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) payload"
    cursor.execute(sql, [channel, array(bundles)])


def listen(using: str, channel: str, beat: float) -> Generator[str | None]:
    """Yield what arrives on ``channel``; None at first, and every ``beat`` seconds of silence.

    The connection is one of its own, closed with the iterator.
    """
    connection: Any = connections.create_connection(using)
    options = _KEEPALIVES | connection.settings_dict.get("OPTIONS", {})
    connection.settings_dict = connection.settings_dict | {"OPTIONS": options}
    try:
        connection.ensure_connection()
        raw = connection.connection
        raw.autocommit = True
        raw.execute(f'LISTEN "{channel}"')
        yield None
        while True:
            for notification in raw.notifies(timeout=beat, stop_after=1):
                yield notification.payload
            yield None
    finally:
        connection.close()
