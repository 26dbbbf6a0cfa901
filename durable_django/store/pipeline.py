"""Pipelines: a small turn's transaction on PostgreSQL in two exchanges with the server instead of nine.

Alone, a statement of a turn takes a tenth of a millisecond to execute, and as long again to be planned, sent
and waited for. In a pipeline, statements are prepared once, sent without waiting, and answered together:
BEGIN with what the turn reads, COMMIT with what it writes.

Large batches do without: their statements are worth their round trips, and COPY is not allowed here. What
clients do most, outside transactions of Django's, is prepared and sent in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.conf import settings
from durable_django.store import postgres
from durable_django.store.exchange import Exchange, Row, is_unprepared, statements_of

_open: WeakKeyDictionary[Any, Exchange] = WeakKeyDictionary()


@contextmanager
def begin(using: str, *, small: bool) -> Iterator[CursorWrapper]:
    """Run a transaction, and give its cursor: in a pipeline, where it is ``small`` and that is possible.

    In a pipeline, an error may be raised by a later statement than the one that failed, or at the end; and
    nothing knows how many rows a statement has changed: `leave` it before code of users runs.
    """
    connection = connections[using]
    if small and is_possible(using):
        with _pipelined(connection) as cursor:
            yield cursor
    else:
        with transaction.atomic(using), connection.cursor() as cursor:
            yield cursor


@contextmanager
def ahead(cursor: CursorWrapper) -> Iterator[None]:
    """Do not wait for what the cursor executes in here, where that is possible, but in the end for all of it.

    Nothing but statements without results may be executed, and no code of users that may have its own.
    """
    connection = cursor.db
    if is_open(cursor) or not _is_allowed(connection):
        yield
        return
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield


def is_possible(using: str) -> bool:
    """Tell whether a small transaction would be in a pipeline.

    It is not where somebody wraps the connection's queries, or has a pipeline of psycopg's there.
    """
    connection: Any = connections[using]
    if connection.in_atomic_block or connection.execute_wrappers or not _is_allowed(connection):
        return False
    raw = connection.connection
    return connection.get_autocommit() and (raw is None or not raw.pgconn.pipeline_status)


def is_open(cursor: CursorWrapper) -> bool:
    """Tell whether the cursor's statements are not waited for until their rows are fetched."""
    return isinstance(cursor, postgres.PipelineCursor)


def leave(using: str) -> None:
    """Wait until all that was executed in the present pipeline has succeeded, and be out of it for now.

    Others' statements may come: the pipeline goes on with the next of its own.
    """
    connection = connections[using]
    exchange = _open.get(connection)
    if exchange is not None:
        with connection.wrap_database_errors:
            exchange.settle()


@contextmanager
def outside(cursor: CursorWrapper) -> Iterator[CursorWrapper]:
    """Give a cursor of the same transaction for what no pipeline can, such as COPY."""
    if is_open(cursor):
        leave(cursor.db.alias)
        with cursor.db.cursor() as plain:
            yield plain
    else:
        yield cursor


def can_ask(using: str) -> bool:
    """Tell whether `ask` is possible, outside a transaction, and nobody is there to see the statement.

    What logs or wraps the queries of a connection, as a debug toolbar does, knows those of cursors alone.
    """
    connection = connections[using]
    return is_possible(using) and not connection.queries_logged


def ask(using: str, sql: str, parameters: Sequence[Any]) -> list[Row]:
    """Run a query outside a transaction, by a prepared statement, and return its rows."""
    with _alone(connections[using]) as exchange:
        return exchange.send(sql, parameters).rows()


def has_lost_statements(error: Exception) -> bool:
    """Tell whether nothing is wrong but that prepared statements are gone: next time they are prepared anew.

    A pool may have emptied the session, or a rollback where psycopg prepares statements too; and a migration
    may have changed what they give.
    """
    return is_unprepared(error.__cause__)


def can_commit_and_notify(using: str) -> bool:
    """Tell whether `commit_and_notify` is possible: outside a transaction, with parameters bound here."""
    connection: Any = connections[using]
    return can_ask(using) or (
        connection.get_autocommit() and not connection.features.uses_server_side_binding
    )


def commit_and_notify(
    cursor: CursorWrapper, sql: str, parameters: Sequence[Any], channel: str, payload: str
) -> list[Row]:
    """Run a statement in a transaction of its own, then notify, in one exchange; return the statement's rows.

    To notify within that transaction would be cheaper for one client alone. But such commits wait for each
    other, on the whole server, and never share a write to its log.

    An error may come after the commit: then it is the notification that has failed.
    """
    if can_ask(cursor.db.alias):
        with _alone(cursor.db) as exchange:
            exchange.send("BEGIN")
            answer = exchange.send(sql, parameters)
            exchange.send("COMMIT")
            exchange.send("SELECT pg_notify(%s, %s)", [channel, payload])
            return answer.rows()
    try:
        cursor.execute(f'BEGIN; {sql}; COMMIT; NOTIFY "{channel}", %s', [*parameters, payload])
    except BaseException:
        cursor.db.rollback()
        raise
    cursor.nextset()  # The first one is BEGIN's.
    rows: list[Row] = cursor.fetchall()
    return rows


def _is_allowed(connection: Any) -> bool:
    # Prepared statements belong to a session, as LISTEN does: no pooler may deal out the transactions.
    if connection.vendor != "postgresql" or not (settings.PIPELINE and settings.LISTEN):
        return False
    # Together, these two have psycopg deallocate all statements after a rollback, ours among them.
    prepares = connection.settings_dict["OPTIONS"].get("prepare_threshold") is not None
    if prepares and connection.features.uses_server_side_binding:
        return False
    return postgres.has_pipelines()


@contextmanager
def _alone(connection: Any) -> Iterator[Exchange]:
    """Give an exchange outside Django's transactions."""
    exchange = _opened(connection)
    try:
        with connection.wrap_database_errors:
            yield exchange
            exchange.settle()
    except BaseException:
        _give_up(exchange)
        raise


@contextmanager
def _pipelined(connection: Any) -> Iterator[CursorWrapper]:
    """Do what ``transaction.atomic`` does for an outermost block, but send BEGIN and COMMIT along."""
    exchange = _opened(connection)

    def after_ours(execute: Any, *statement: Any) -> Any:
        leave(connection.alias)
        return execute(*statement)

    connection.autocommit, connection.in_atomic_block, connection.needs_rollback = False, True, False
    # What an inner atomic(durable=True) looks for.
    connection.atomic_blocks = [transaction.Atomic(connection.alias, savepoint=False, durable=False)]
    connection.execute_wrappers.append(after_ours)
    _open[connection] = exchange
    try:
        with connection.wrap_database_errors:
            cursor = postgres.PipelineCursor(exchange, connection)
            cursor.execute("BEGIN")
            yield cursor
            connection.validate_no_broken_transaction()
            cursor.execute("COMMIT")
            exchange.settle()
    except BaseException:
        connection.run_on_commit = []
        _give_up(exchange)
        raise
    finally:
        connection.autocommit, connection.in_atomic_block, connection.needs_rollback = True, False, False
        connection.savepoint_ids, connection.atomic_blocks = [], []
        connection.execute_wrappers.remove(after_ours)
        _open.pop(connection, None)
        if connection.closed_in_transaction:
            connection.connection = None
    connection.run_and_clear_commit_hooks()


def _opened(connection: Any) -> Exchange:
    """Return an exchange on the connection's own one, and forget plans that are old."""
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors:
        statements = statements_of(raw)
        statements.tidy(raw)
        exchange = Exchange(raw)
        if statements.are_to_be_planned_anew():
            exchange.send("DISCARD PLANS")
    return exchange


def _give_up(exchange: Exchange) -> None:
    exchange.abandon()
    try:
        exchange.raw.rollback()
    except Exception:  # noqa: BLE001 - nobody knows what it would do next
        with suppress(Exception):
            exchange.raw.close()
