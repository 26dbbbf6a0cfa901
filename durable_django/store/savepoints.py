"""Savepoints around users' code inside a transaction of ours, and the errors that it may lead to."""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import Any

from django.db import IntegrityError, InternalError, OperationalError, connections
from django.db.transaction import TransactionManagementError

from durable_django.core.interrupts import is_interrupt

_CONFLICTS = frozenset({"40001", "40P01"})
"""SQLSTATEs of serialization failures and deadlocks."""

_MYSQL_DEADLOCK = 1213

_BEFORE = r"(?>(?:\s|;|--[^\n]*\n|/\*.*?\*/)*)"
_ENDS = re.compile(
    _BEFORE + r"(COMMIT|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)|ABORT|END|BEGIN(?!\s+NOT\b)"
    r"|START\s+TRANSACTION|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE | re.DOTALL,
)
_ENDS_ALONG = re.compile(
    _BEFORE + r"(CREATE(?!\s+(?:OR\s+REPLACE\s+)?TEMPORARY\b)|DROP(?!\s+(?:TEMPORARY|PREPARE)\b)|ALTER|RENAME"
    r"|TRUNCATE|(?:UN)?LOCK\s+TABLES?|GRANT|REVOKE|FLUSH|ANALYZE|OPTIMIZE|REPAIR"
    r"|SET\s+(?:SESSION\s+|@@)?AUTOCOMMIT)\b",
    re.IGNORECASE | re.DOTALL,
)
"""What commits as well where the database cannot take back changes of tables."""


class SavepointOnUse:
    """Undoes its block's database writes if the block raises, its ``on_commit`` hooks included.

    The savepoint is made before the block's first query, so that a block without one costs no round trip;
    ``prepare`` is called just before. What bypasses Django's cursors, as a driver's COPY does, is not seen.
    With ``checks``, constraints that are deferred to the commit are checked at the end of the block: that
    takes its time, on SQLite that of reading all tables which have foreign keys.

    After an error, ``is_undone`` says whether the transaction is as it was before the block. Where it is not,
    the connection or the whole transaction is lost.

    Raises (at a statement, before it is executed):
        TransactionManagementError: It would end the transaction.

    Raises (at the end of the block):
        TransactionManagementError: The block has hidden a database error that broke the transaction, has left
            an atomic block open, or has closed the connection.
        IntegrityError: With ``checks``, a deferred constraint is violated.
    """

    def __init__(
        self, using: str, prepare: Callable[[], None] | None = None, *, checks: bool = False
    ) -> None:
        self._connection: Any = connections[using]
        self._prepare = prepare
        self._checks = checks
        self._violations: frozenset[Any] = frozenset()
        self._is_used = False
        self._savepoint: str | None = None
        self._hooks = self._depth = 0
        self.is_undone = False

    def __enter__(self) -> SavepointOnUse:
        self._hooks = len(self._connection.run_on_commit)
        self._depth = len(self._connection.savepoint_ids)
        self._connection.execute_wrappers.append(self._before_query)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before_query in self._connection.execute_wrappers:
            self._connection.execute_wrappers.remove(self._before_query)
        if self._connection.closed_in_transaction:
            raise TransactionManagementError("The database connection was closed within a transaction.")
        left_open = self._leave_atomic_blocks(error)
        if error is None:
            try:
                if left_open:
                    raise TransactionManagementError(
                        "An atomic block was entered and never left. Use `with transaction.atomic():`."
                    )
                self._release()
            except BaseException:
                self._undo()
                raise
        else:
            self._undo()

    @property
    def is_intact(self) -> bool:
        """Whether the transaction goes on, as deep in atomic blocks as when this block was entered."""
        connection = self._connection
        return connection.in_atomic_block and len(connection.savepoint_ids) == self._depth

    def _before_query(self, execute: Callable[..., Any], sql: Any, *query: Any) -> Any:
        if not self._is_used:
            self._is_used = True  # First of all: these make queries, too.
            if self._prepare is not None:
                self._prepare()
            if self._checks:
                self._violations = _violations(self._connection)
            self._savepoint = self._connection.savepoint()
        self._refuse_end(sql)
        return execute(sql, *query)

    def _refuse_end(self, sql: Any) -> None:
        """Refuse what would commit a part of what belongs together, or undo more than the block's own."""
        if isinstance(sql, bytes):
            sql = sql.decode(errors="replace")
        elif hasattr(sql, "as_string"):  # A psycopg.sql.Composable.
            sql = sql.as_string(self._connection.connection)
        elif not isinstance(sql, str):
            return
        found = _ENDS.match(sql)
        if found is None and not self._connection.features.can_rollback_ddl:
            found = _ENDS_ALONG.match(sql)
        if found is not None:
            raise TransactionManagementError(
                f"{found[1].upper()} is not possible here: it would end a transaction that has more in it. "
                "Use `with transaction.atomic():` for a part that may fail, and an activity that is not "
                "local for what is to be committed by itself."
            )

    def _leave_atomic_blocks(self, error: BaseException | None) -> bool:
        """Forget atomic blocks that were entered and never left; tell whether there were any.

        A generator that stands in one leaves it when it goes. One that the error keeps alive has to go first:
        later, it would leave somebody else's.
        """
        connection = self._connection
        if len(connection.savepoint_ids) <= self._depth:
            return False
        for raised in _chain(error):
            traceback.clear_frames(raised.__traceback__)
        gc.collect()
        surplus = len(connection.savepoint_ids) - self._depth
        if surplus > 0:
            del connection.savepoint_ids[-surplus:], connection.atomic_blocks[-surplus:]
        return surplus > 0

    def _release(self) -> None:
        connection = self._connection
        try:
            if connection.needs_rollback:
                connection.validate_no_broken_transaction()
            if self._savepoint is not None:
                if self._checks:
                    self._check()
                connection.savepoint_commit(self._savepoint)
        except (InternalError, TransactionManagementError) as error:
            raise TransactionManagementError(
                "A database error was caught, and what led to it was not undone: nothing of it is kept. Put "
                "the statement that may fail into its own `with transaction.atomic():`, and catch the error "
                "around that."
            ) from error
        # One that raises would pass for a failed commit.
        hooks: list[Any] = connection.run_on_commit
        hooks[self._hooks :] = [(ids, _contained(hook), True) for ids, hook, _ in hooks[self._hooks :]]

    def _check(self) -> None:
        connection = self._connection
        if connection.vendor == "postgresql":
            # Going back leaves each constraint as immediate or deferred as it was.
            savepoint = connection.savepoint()
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            connection.savepoint_rollback(savepoint)
        for table, row, referred, _ in sorted(_violations(connection) - self._violations, key=str):
            raise IntegrityError(
                f"FOREIGN KEY constraint failed: row {row} of {table!r} refers to no row of {referred!r}"
            )

    def _undo(self) -> None:
        connection = self._connection
        del connection.run_on_commit[self._hooks :]
        connection.needs_rollback = False
        if self._savepoint is not None:
            connection.savepoint_rollback(self._savepoint)
        self.is_undone = True


def _violations(connection: Any) -> frozenset[Any]:
    """Return the rows whose foreign keys lead nowhere: nothing but reading all tells that on SQLite."""
    if connection.vendor != "sqlite":
        return frozenset()
    with connection.cursor() as cursor:
        return frozenset(cursor.execute("PRAGMA foreign_key_check").fetchall())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that have led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _contained(hook: Callable[[], object]) -> Callable[[], None]:
    """Return a hook that raises nothing which Django would let through, and has the name that it logs."""

    @wraps(hook)
    def run() -> None:
        try:
            hook()
        except Exception:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise RuntimeError(f"A hook of on_commit() has raised {error!r}") from error

    if not hasattr(hook, "__qualname__"):
        run.__qualname__ = repr(hook)
    return run


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
