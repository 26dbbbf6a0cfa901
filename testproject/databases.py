"""Django's database settings from one URL, with the options that durable_django asks for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_TIMEOUTS = {
    # A network that goes silent is noticed within half a minute, not after a quarter of an hour.
    "connect_timeout": "5",
    "tcp_user_timeout": "20000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}


def from_url(url: str) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` that ``url`` stands for.

    ``sqlite:///relative/path``, ``sqlite:////absolute/path``, ``postgres://user:password@host:port/name`` and
    ``mysql://user:password@host:port/name`` (``mariadb://`` is the same) are understood. A host may be the
    percent-encoded directory of a Unix socket; a query becomes driver options, ``?sslmode=require``.

    Raises:
        ImproperlyConfigured: the URL's scheme names no database that durable_django runs on.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "sqlite":
            return _sqlite(parts)
        case "postgres" | "postgresql":
            return _server(parts, "django.db.backends.postgresql", _TIMEOUTS)
        case "mysql" | "mariadb":
            _use_pymysql()
            # Repeatable read, InnoDB's default, hides the rows that other workers have just committed.
            return _server(parts, "django.db.backends.mysql", {"isolation_level": "read committed"})
        case _:
            raise ImproperlyConfigured(f"DATABASE_URL has the unknown scheme {parts.scheme!r}.")


def _sqlite(parts: SplitResult) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": unquote(parts.path.removeprefix("/")),
        "OPTIONS": {
            # A transaction that reads first and writes later could not wait for the lock: it would fail.
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def _server(parts: SplitResult, engine: str, options: dict[str, str]) -> dict[str, Any]:
    return {
        "ENGINE": engine,
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options | dict(parse_qsl(parts.query)),
    }


def _use_pymysql() -> None:
    """Let Django find PyMySQL, which needs no compiler, unless mysqlclient is there."""
    if find_spec("MySQLdb") is None:
        import pymysql

        pymysql.install_as_MySQLdb()
