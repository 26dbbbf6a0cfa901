"""Exchanges: what a small transaction on PostgreSQL sends without waiting, and how it is answered.

A small turn is bound by its statements' way to the server and back, and by how much is done here for each of
them. In libpq's pipeline mode nothing waits but for what is read. Statements are prepared once for a
connection, their parameters are text, and the server knows which type each has: that takes a quarter of the
CPU time of a cursor, which must be ready for every value that there may be.

The pipeline mode lasts from a statement to the next `Exchange.settle` and no longer, so that the connection
is everybody's in between.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

Row = tuple[Any, ...]

_MOST_STATEMENTS = 100
"""How many statements stay prepared: some have a text for each number of rows."""

_PLAN_SECONDS = 10.0
"""How long plans are kept: one that was made while the tables were small must not outlive that for long."""

_NOT_AS_PREPARED = frozenset({"26000", "0A000"})
"""No such statement, and one whose columns a migration has changed since it was prepared."""

_PLACES = re.compile("%([s%])")


class Statements:
    """The prepared statements of one connection to the server, by their text."""

    def __init__(self) -> None:
        # Of this connection alone: a pooler that hands sessions on may give us one that has other people's.
        self._prefix = f"durable_{os.urandom(6).hex()}_"
        self._names: dict[str, bytes] = {}
        self._numbers = count()
        self._is_in_doubt = False
        self._planned_at = time.monotonic()

    def name(self, sql: str) -> bytes | None:
        """Return the name of a statement, if it is prepared."""
        return self._names.get(sql)

    def add(self, sql: str) -> bytes:
        """Name a statement that is being prepared."""
        self._names[sql] = name = f"{self._prefix}{next(self._numbers)}".encode()
        return name

    def doubt(self) -> None:
        """Say that nobody knows which of them are there."""
        self._is_in_doubt = True

    def tidy(self, raw: Any) -> None:
        """Begin anew if there are too many, or it is in doubt which there are. Between transactions."""
        if not (self._is_in_doubt or len(self._names) > _MOST_STATEMENTS):
            return
        self._names.clear()
        for (name,) in raw.execute("SELECT name FROM pg_prepared_statements").fetchall():
            if name.startswith(self._prefix):
                raw.execute(f'DEALLOCATE "{name}"')
        self._is_in_doubt = False

    def are_to_be_planned_anew(self) -> bool:
        """Tell whether their plans are old; whoever is told so discards them."""
        now = time.monotonic()
        if now - self._planned_at <= _PLAN_SECONDS:
            return False
        self._planned_at = now
        return True


_statements: WeakKeyDictionary[Any, Statements] = WeakKeyDictionary()


def statements_of(raw: Any) -> Statements:
    """Return what is prepared on one of psycopg's connections."""
    return _statements.setdefault(raw, Statements())


class Answer:
    """What the server says to one statement."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.result: PGresult | None = None

    def rows(self) -> list[Row]:
        """Return the rows of a query; waits for them if they are not here."""
        if self.result is None:
            self._exchange.settle()
        return self._exchange.loaded(self)


class Exchange:
    """The statements of one connection that have been sent, and not answered yet."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._pgconn: PGconn = raw.pgconn
        self._statements = statements_of(raw)
        self._encoding: str = raw.info.encoding
        self._sent: list[Answer] = []
        self._prepares = False
        self._transformer: Any = None

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> Answer:
        """Send a statement, with a ``%s`` for each parameter.

        Raises:
            psycopg.OperationalError: The connection is lost.
            psycopg.DataError: A text has a character that PostgreSQL knows no text with.
            TypeError: A parameter is of a type that is not expected here.
        """
        encoded = [_encoded(value, self._encoding) for value in parameters]
        pgconn = self._pgconn
        if not self._sent:
            pgconn.enter_pipeline_mode()
        name = self._statements.name(sql)
        if name is None:
            name = self._statements.add(sql)
            self._prepares = True
            pgconn.send_prepare(name, _numbered(sql))
            self._sent.append(Answer(self))
        pgconn.send_query_prepared(name, encoded)
        pgconn.flush()
        answer = Answer(self)
        self._sent.append(answer)
        return answer

    def settle(self) -> None:
        """Wait until all that was sent is answered, and end the pipeline mode.

        Raises:
            psycopg.Error: A statement has failed, or the connection is lost. What came after it was not done.
        """
        from psycopg import OperationalError
        from psycopg.pq import ConnStatus

        if not self._sent:
            return
        sent, self._sent = self._sent, []
        if self._pgconn.status == ConnStatus.BAD:
            raise OperationalError("the connection is lost")
        self._pgconn.pipeline_sync()
        results = self.raw.wait(_results(self._pgconn))
        self._pgconn.exit_pipeline_mode()
        self._check(results)  # First: what fails at the very end, as a NOTIFY may, is a result more.
        for answer, result in zip(sent, results, strict=True):
            answer.result = result
        self._prepares = False

    def abandon(self) -> None:
        """End the pipeline mode, whatever the answers are; a connection that does not get out is closed."""
        try:
            with suppress(Exception):  # It would only say again what has failed.
                self.settle()
        finally:
            if self._prepares:
                self._statements.doubt()
            if self._pgconn.pipeline_status:
                self.raw.close()

    def loaded(self, answer: Answer) -> list[Row]:
        """Return an answer's rows as Python's values, as the connection's cursors would.

        Raises:
            psycopg.OperationalError: Its statement, or one before it, has failed.
        """
        from psycopg import OperationalError
        from psycopg.adapt import Transformer

        if answer.result is None:
            raise OperationalError("there is no answer: something before has failed")
        if self._transformer is None:
            self._transformer = Transformer.from_context(self.raw)
        self._transformer.set_pgresult(answer.result)
        rows: list[Row] = self._transformer.load_rows(0, answer.result.ntuples, tuple)
        return rows

    def _check(self, results: Sequence[PGresult]) -> None:
        """Raise what has failed first: all that comes after it has not been done."""
        from psycopg import OperationalError
        from psycopg.errors import error_from_result
        from psycopg.pq import ExecStatus

        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                error = error_from_result(result, self._encoding)
                if is_unprepared(error):
                    self._statements.doubt()
                raise error
            if result.command_status == b"ROLLBACK":  # Nobody sends that here.
                raise OperationalError("there was nothing to COMMIT: something before has failed")


def is_unprepared(error: BaseException | None) -> bool:
    """Tell whether a statement may have failed only because it is not prepared, or not as it is now."""
    return getattr(error, "sqlstate", None) in _NOT_AS_PREPARED


def _numbered(sql: str) -> bytes:
    numbers = count(1)
    return _PLACES.sub(lambda found: "%" if found[1] == "%" else f"${next(numbers)}", sql).encode()


def _encoded(value: Any, encoding: str) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        if "\0" in value:
            from psycopg import DataError

            raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return value.encode(encoding)
    if isinstance(value, int):
        return int.__repr__(value).encode()  # Of an enumeration's member too, and 0 and 1 are booleans.
    raise TypeError(f"A {type(value).__name__} is no parameter here: give it as text.")


def _results(pgconn: PGconn) -> PQGen[list[PGresult]]:
    """Receive the results of all that was sent up to the last synchronization point."""
    from psycopg import OperationalError
    from psycopg.pq import ExecStatus
    from psycopg.waiting import Ready, Wait

    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()  # Else both sides could wait for each other to read.
    results: list[PGresult] = []
    is_between = False
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            if is_between:
                raise OperationalError("the server has answered less than it was asked")
            is_between = True
            continue
        is_between = False
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)
