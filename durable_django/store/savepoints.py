"""Savepoints around users' code inside a transaction of ours, and the errors that it may lead to."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from django.db import InternalError, OperationalError, connections, transaction
from django.db.transaction import TransactionManagementError

_CONFLICTS = frozenset({"40001", "40P01"})
"""SQLSTATEs of serialization failures and deadlocks."""

_MYSQL_DEADLOCK = 1213


class SavepointOnUse:
    """Undoes its block's database writes if the block raises, its ``on_commit`` hooks included.

    The savepoint is made before the block's first query, so that a block without one costs no round trip;
    ``prepare`` is called just before. What bypasses Django's cursors, as a driver's COPY does, is not seen.

    After an error, ``is_undone`` says whether the transaction is as it was before the block. Where it is not,
    the connection or the whole transaction is lost.

    Raises (at the end of the block):
        TransactionManagementError: The block has hidden a database error that broke the transaction, or has
            closed the connection.
    """

    def __init__(self, using: str, prepare: Callable[[], None] | None = None) -> None:
        self._connection = connections[using]
        self._prepare = prepare
        self._savepoint: str | None = None
        self._hooks = 0
        self.is_undone = False

    def __enter__(self) -> SavepointOnUse:
        self._hooks = len(self._connection.run_on_commit)
        self._connection.execute_wrappers.append(self._before_query)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before_query in self._connection.execute_wrappers:
            self._connection.execute_wrappers.remove(self._before_query)
        if self._connection.closed_in_transaction:
            raise TransactionManagementError("The database connection was closed within a transaction.")
        if error is None:
            try:
                self._release()
            except BaseException:
                self._undo()
                raise
        else:
            self._undo()

    def _before_query(self, execute: Callable[..., Any], *query: Any) -> Any:
        self._connection.execute_wrappers.remove(self._before_query)
        if self._prepare is not None:
            self._prepare()
        self._savepoint = transaction.savepoint(self._connection.alias)
        return execute(*query)

    def _release(self) -> None:
        connection = self._connection
        try:
            if connection.needs_rollback:
                connection.validate_no_broken_transaction()
            if self._savepoint is not None:
                transaction.savepoint_commit(self._savepoint, connection.alias)
        except (InternalError, TransactionManagementError) as error:
            raise TransactionManagementError(
                "A database error was caught, and what led to it was not undone: nothing of it is kept. Put "
                "the statement that may fail into its own `with transaction.atomic():`, and catch the error "
                "around that."
            ) from error
        # One that raises would pass for a failed commit.
        hooks: list[Any] = connection.run_on_commit
        hooks[self._hooks :] = [(ids, hook, True) for ids, hook, _ in hooks[self._hooks :]]

    def _undo(self) -> None:
        connection = self._connection
        del connection.run_on_commit[self._hooks :]
        connection.needs_rollback = False
        if self._savepoint is not None:
            transaction.savepoint_rollback(self._savepoint, connection.alias)
        self.is_undone = True


def limit_lock_waits(using: str, seconds: float) -> None:
    """Let no statement of the present transaction wait longer for a lock. On PostgreSQL."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {max(1, round(seconds * 1000))}")


def is_conflict(error: BaseException) -> bool:
    """Tell whether a transaction has lost against another one, and is to be tried again as a whole."""
    if not isinstance(error, OperationalError):
        return False
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state in _CONFLICTS or error.args[:1] == (_MYSQL_DEADLOCK,)
