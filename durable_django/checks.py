"""System checks: what is wrong with the settings, the registered functions and the database.

Their ids are stable. ``CHECKS`` says what each means; an E is an error, a W a warning.
"""

from __future__ import annotations

import re
import sqlite3
from datetime import UTC, timedelta, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings as django_settings
from django.core.checks import ERROR, WARNING, CheckMessage, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import NotSupportedError, connections
from django.utils import timezone

from durable_django import conf
from durable_django.core import registry
from durable_django.core.registry import Fault
from durable_django.store import clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

APP = "durable_django"

CHECKS = {
    "E001": "DURABLE_DJANGO has an unknown key.",
    "E002": "A value in DURABLE_DJANGO is of the wrong type or out of range.",
    "E003": "DATABASE_ALIAS names no entry of DATABASES.",
    "E004": "DATA_CONVERTER names no data converter.",
    "E005": "DISPATCHERS names no activity dispatcher.",
    "E006": "An option of an activity dispatcher is wrong.",
    "E011": "Two orchestrators, two activities or two entities have the same name.",
    "E012": "A lambda was registered without a name.",
    "E013": "A generator function was registered as an activity or an entity.",
    "E014": "An async generator was registered as an orchestrator.",
    "E021": "The database is none of PostgreSQL, SQLite, MariaDB and MySQL.",
    "E022": "The database is too old.",
    "E023": "Transactions are not READ COMMITTED on PostgreSQL, MariaDB or MySQL.",
    "W024": "SQLite transactions do not take the write lock when they begin.",
    "W025": "A SQLite file is not in WAL mode.",
    "W026": "A connection to a PostgreSQL on another host that is cut off silently hangs for many minutes.",
    "E027": "USE_TZ is False, TIME_ZONE has summer time, and the database is not PostgreSQL.",
    "E028": "The database has a TIME_ZONE of its own that is not UTC, and is not PostgreSQL.",
    # Those of the tasks backend, which looks for them itself, as backends do.
    "E031": "TASKS keeps tasks with durable_django, which is not installed.",
    "E032": "OPTIONS of a backend in TASKS are wrong.",
    "E033": "QUEUES of a backend in TASKS are wrong.",
}

_FAULTS = {
    Fault.DUPLICATE_NAME: "E011",
    Fault.LAMBDA: "E012",
    Fault.GENERATOR: "E013",
    Fault.ASYNC_GENERATOR: "E014",
}
_OLDEST_SQLITE = (3, 37)
_OLDEST_POSTGRESQL = (14,)
_OLDEST_MARIADB = (10, 6)
_OLDEST_MYSQL = (8, 0)
_TIMEOUTS = ("connect_timeout", "tcp_user_timeout", "keepalives_idle")
_HERE = {"", "localhost", "127.0.0.1", "::1"}
_ABOUT_TWO_YEARS = range(-731, 732)  # days from now
_WAL = re.compile(r"journal_mode\s*[=(]\s*['\"]?wal\b", re.IGNORECASE)


@register()
def check_settings(**_: object) -> list[CheckMessage]:
    """Check the keys and values of ``DURABLE_DJANGO``."""
    problems = conf.find_problems(getattr(django_settings, conf.SETTING, {}))
    if problems:
        return [_message("E001" if problem.unknown else "E002", problem.message) for problem in problems]
    try:
        conf.data_converter()
    except ImproperlyConfigured as error:
        return [_message("E004", str(error), "Give the dotted path of a DataConverter class.")]
    return []


@register()
def check_dispatchers(**_: object) -> list[CheckMessage]:
    """Check who is to run the activities of queues that have another engine."""
    if conf.find_problems(getattr(django_settings, conf.SETTING, {})) or not conf.settings.DISPATCHERS:
        return []
    from durable_django.worker.dispatch import dispatchers

    try:
        found = dispatchers().values()
    except ImproperlyConfigured as error:
        return [_message("E005", str(error), "Give the dotted path of an ActivityDispatcher class.")]
    return [message for dispatcher in found for message in dispatcher.check()]


@register()
def check_registry(**_: object) -> list[CheckMessage]:
    """Report what the decorators could not register."""
    return [_message(_FAULTS[problem.fault], str(problem)) for problem in registry.default_registry.problems]


@register()
def check_database_settings(**_: object) -> list[CheckMessage]:
    """Check the settings of the database alias in use, without connecting."""
    alias = _alias()
    if alias is None:
        return []
    if alias not in set(connections):
        return [
            _message(
                "E003",
                f"{conf.SETTING}['DATABASE_ALIAS'] is {alias!r}, which DATABASES does not have.",
                f"DATABASES has {', '.join(sorted(connections))}.",
            )
        ]
    connection: Any = connections[alias]  # Each backend's wrapper has attributes of its own.
    options = connection.settings_dict.get("OPTIONS") or {}
    match connection.vendor:
        case "sqlite":
            return [
                *_check_sqlite(alias, options, in_memory=connection.is_in_memory_db()),
                *_check_time_zone(alias, connection.settings_dict.get("TIME_ZONE")),
            ]
        case "postgresql":
            host = connection.settings_dict.get("HOST") or ""
            return [
                *_check_postgresql_isolation(alias, options),
                *_check_postgresql_timeouts(alias, host, options),
            ]
        case "mysql":
            return [
                *_check_mysql_isolation(alias, options),
                *_check_time_zone(alias, connection.settings_dict.get("TIME_ZONE")),
            ]
        case vendor:
            hint = "Use PostgreSQL, SQLite, MariaDB or MySQL."
            return [_message("E021", f"Database {alias!r} is {vendor}, which is not supported.", hint)]


@register(Tags.database)
def check_database_version(databases: Sequence[str] | None = None, **_: object) -> list[CheckMessage]:
    """Check the version of the database server, if Django was asked to look at it."""
    alias = _alias()
    if alias is None or alias not in (databases or ()):
        return []
    try:
        found = _outdated(connections[alias])
    except NotSupportedError as error:  # Django itself refuses to connect to one that is older still.
        found = str(error)
    return [_message("E022", f"Database {alias!r}: {found}", "Upgrade the server.")] if found else []


def _outdated(connection: Any) -> str | None:
    oldest: tuple[int, ...]
    if connection.vendor == "postgresql":
        name, oldest, found = "PostgreSQL", _OLDEST_POSTGRESQL, divmod(connection.pg_version, 10_000)
    elif connection.vendor == "mysql" and connection.mysql_is_mariadb:
        name, oldest, found = "MariaDB", _OLDEST_MARIADB, connection.mysql_version
    elif connection.vendor == "mysql":
        name, oldest, found = "MySQL", _OLDEST_MYSQL, connection.mysql_version
    else:
        return None
    if found >= oldest:
        return None
    return f"{name} {_dotted(oldest)} or later is required, not {_dotted(found)}."


def _check_sqlite(alias: str, options: dict[str, Any], *, in_memory: bool) -> Iterator[CheckMessage]:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield _message(
            "E022",
            f"Database {alias!r}: SQLite {_dotted(_OLDEST_SQLITE)} or later is required, "
            f"not {sqlite3.sqlite_version}.",
            "Use a Python that is built with a newer SQLite.",
        )
    if str(options.get("transaction_mode")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield _message(
            "W024",
            f"Database {alias!r}: a transaction that reads before it writes fails with 'database is locked' "
            "when another one writes meanwhile.",
            f"Set DATABASES[{alias!r}]['OPTIONS']['transaction_mode'] = 'IMMEDIATE'.",
        )
    if not in_memory and not _WAL.search(options.get("init_command") or ""):
        yield _message(
            "W025",
            f"Database {alias!r}: readers and the writer block each other.",
            f"Set DATABASES[{alias!r}]['OPTIONS']['init_command'] = 'PRAGMA journal_mode=WAL;'.",
        )


def _check_postgresql_isolation(alias: str, options: dict[str, Any]) -> Iterator[CheckMessage]:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel  # Only this backend has a driver.

    read_committed = IsolationLevel.READ_COMMITTED
    if options.get("isolation_level", read_committed) != read_committed:
        yield _isolation_message(alias, "Remove")


def _check_postgresql_timeouts(alias: str, host: str, options: dict[str, Any]) -> Iterator[CheckMessage]:
    # What a Unix socket, this host or a service file of libpq's is about needs no timeout, or may have one.
    if host in _HERE or host.startswith(("/", "@")) or "service" in options:
        return
    missing = [name for name in _TIMEOUTS if name not in options]
    if missing:
        yield _message(
            "W026",
            f"Database {alias!r}: if the network to {host!r} goes silent, a worker waits for a quarter of an "
            "hour and more, and does nothing meanwhile.",
            f"Set {', '.join(missing)} in DATABASES[{alias!r}]['OPTIONS']: see 'Lost connections' in "
            "docs/operations.md.",
        )


def _check_mysql_isolation(alias: str, options: dict[str, Any]) -> Iterator[CheckMessage]:
    # Django's own default is READ COMMITTED; None leaves it to the server, whose default is not.
    if str(options.get("isolation_level", "read committed")).lower() != "read committed":
        yield _isolation_message(alias, "Set to 'read committed', or remove,")


def _check_time_zone(alias: str, own: str | None) -> Iterator[CheckMessage]:
    """Check what is kept in the columns of databases whose times have no offset."""
    if not django_settings.USE_TZ:
        if len(_offsets(timezone.get_default_timezone())) > 1:
            yield _message(
                "E027",
                f"Database {alias!r}: without USE_TZ it keeps times of {django_settings.TIME_ZONE}, where an "
                "hour comes twice when summer time ends: timers and leases go wrong then.",
                "Set USE_TZ = True, or a TIME_ZONE whose offset does not change, such as 'UTC'.",
            )
    elif own is not None and not _is_utc(own):
        yield _message(
            "E028",
            f"Database {alias!r}: times of {own} are not read as they are written. They must be UTC.",
            f"Remove DATABASES[{alias!r}]['TIME_ZONE'].",
        )


def _is_utc(name: str) -> bool:
    try:
        return _offsets(ZoneInfo(name)) == {timedelta(0)}
    except (ZoneInfoNotFoundError, ValueError):
        return False


def _offsets(zone: tzinfo) -> set[timedelta | None]:
    """Return the offsets from UTC that a zone has had or will have, from two years ago to two years ahead."""
    now = clock.now().replace(tzinfo=UTC)
    return {(now + timedelta(days=days)).astimezone(zone).utcoffset() for days in _ABOUT_TWO_YEARS}


def _isolation_message(alias: str, remedy: str) -> CheckMessage:
    return _message(
        "E023",
        f"Database {alias!r}: transactions must be READ COMMITTED. A worker reads what others have committed "
        "after it has locked an instance.",
        f"{remedy} DATABASES[{alias!r}]['OPTIONS']['isolation_level'].",
    )


def _alias() -> str | None:
    try:
        return conf.settings.DATABASE_ALIAS
    except ImproperlyConfigured:
        return None  # check_settings says why.


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _message(number: str, text: str, hint: str | None = None) -> CheckMessage:
    level = ERROR if number.startswith("E") else WARNING
    return CheckMessage(level, text, hint=hint, id=f"{APP}.{number}")
