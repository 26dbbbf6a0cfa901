"""The database URLs that the demo project and the tests understand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from testproject.databases import from_url
from tests.databases import to_url


def test_sqlite_takes_its_lock_at_the_start_of_a_transaction() -> None:
    database = from_url("sqlite:////tmp/some%20place/db.sqlite3")
    assert database["NAME"] == "/tmp/some place/db.sqlite3"
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_postgres_by_port_or_socket() -> None:
    database = from_url("postgres://me:a%2Fb@db:6432/shop?sslmode=require")
    assert [database[key] for key in ("HOST", "PORT", "USER", "PASSWORD", "NAME")] == [
        "db",
        "6432",
        "me",
        "a/b",
        "shop",
    ]
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["OPTIONS"]["connect_timeout"] == "5"
    assert from_url("postgres://me@db/shop?connect_timeout=2")["OPTIONS"]["connect_timeout"] == "2"
    assert from_url("postgres://me@%2Fvar%2Frun/shop")["HOST"] == "/var/run"


def test_mariadb_reads_what_others_committed() -> None:
    database = from_url("mariadb://root@127.0.0.1:3306/shop")
    assert database["ENGINE"] == "django.db.backends.mysql"
    assert database["OPTIONS"] == {"isolation_level": "read committed"}


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="oracle"):
        from_url("oracle://db/shop")


@pytest.mark.parametrize(
    "url", ["sqlite:////tmp/a.db", "postgresql://me:a%2Fb@%2Frun%2Fpg:5432/shop", "mysql://me:@db:3306/shop"]
)
def test_a_connection_can_be_named_by_its_url(url: str) -> None:
    assert to_url(from_url(url)) == url


@pytest.mark.django_db
@pytest.mark.database("sqlite")
def test_sqlite_runs_in_wal_mode() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)


@pytest.mark.django_db
@pytest.mark.database("postgresql")
def test_postgres_keeps_its_promises() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SHOW fsync")
        assert cursor.fetchone() == ("on",)


def test_a_command_works_on_the_test_database(command_environment: dict[str, str]) -> None:
    Group.objects.create(name="seen from outside")
    code = "from django.contrib.auth.models import Group; print(*Group.objects.all())"
    output = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", code],
        cwd=Path(__file__).parents[2],
        env=command_environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "seen from outside" in output
