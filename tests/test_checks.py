from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.core import checks as django_checks
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import NotSupportedError
from django.test import override_settings

from durable_django import checks
from durable_django.core import registry as registries
from durable_django.core.decorators import activity, entity, orchestrator
from durable_django.core.registry import Registry
from durable_django.store import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.core.checks import CheckMessage

WAL = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"


def ids(messages: Sequence[CheckMessage]) -> list[str]:
    assert all(m.is_serious() == ((m.id or "").split(".")[1][0] == "E") for m in messages)
    return [str(m.id).removeprefix("durable_django.") for m in messages]


def test_the_ids_do_not_change() -> None:
    assert " ".join(checks.CHECKS) == (
        "E001 E002 E003 E004 E005 E006 E011 E012 E013 E014 E021 E022 E023 W024 W025 W026 E027 E028 "
        "E031 E032 E033"
    )


def test_the_project_is_clean() -> None:
    assert not ids(run_checks(app_configs=[apps.get_app_config("durable_django")]))


def test_django_runs_them() -> None:
    registered = {check.__module__ for check in django_checks.registry.registry.get_checks()}

    assert "durable_django.checks" in registered


class TestSettings:
    def test_an_unknown_key(self) -> None:
        with override_settings(DURABLE_DJANGO={"MAX_TRYS": 3, "LISTEN": 1}):
            unknown, wrong = checks.check_settings()

        assert ids([unknown, wrong]) == ["E001", "E002"]
        assert "Did you mean 'MAX_TRIES'?" in unknown.msg
        assert "LISTEN" in wrong.msg

    @pytest.mark.parametrize("given", [None, [], {"MAX_TRIES": 0}, {"LEASE_SECONDS": 5}])
    def test_a_bad_value(self, given: object) -> None:
        with override_settings(DURABLE_DJANGO=given):
            assert ids(checks.check_settings()) == ["E002"]
            assert not checks.check_database_settings()
            assert not checks.check_database_version(databases=["default"])

    def test_a_missing_converter(self) -> None:
        with override_settings(DURABLE_DJANGO={"DATA_CONVERTER": "no.where"}):
            assert ids(checks.check_settings()) == ["E004"]


class TestRegistry:
    @pytest.fixture(autouse=True)
    def app_registry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registries, "default_registry", Registry())

    def test_clean(self) -> None:
        @activity
        def fine(ctx: Any, _: Any) -> None: ...

        assert not checks.check_registry()

    def test_a_duplicate_name(self) -> None:
        @orchestrator
        def one(ctx: Any, _: Any) -> None: ...

        @orchestrator(name="one")
        def two(ctx: Any, _: Any) -> None: ...

        (message,) = checks.check_registry()
        assert ids([message]) == ["E011"]
        assert "'one' is taken" in message.msg

    def test_a_lambda(self) -> None:
        activity(lambda ctx, _: None)

        assert ids(checks.check_registry()) == ["E012"]

    def test_generators_that_are_no_orchestrators(self) -> None:
        @activity
        def numbers(ctx: Any, _: Any) -> Any:
            yield 1

        @activity
        async def stream(ctx: Any, _: Any) -> Any:
            yield 1

        @entity
        def counter(ctx: Any, _: Any) -> Any:
            yield 1

        assert ids(checks.check_registry()) == ["E013"] * 3

    def test_an_async_generator_as_an_orchestrator(self) -> None:
        @orchestrator
        async def flow(ctx: Any, _: Any) -> Any:
            yield 1

        assert ids(checks.check_registry()) == ["E014"]


class TestDatabaseSettings:
    @pytest.fixture
    def use(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def use(
            vendor: str,
            *,
            in_memory: bool = False,
            host: str = "",
            zone: str | None = None,
            **options: object,
        ) -> list[CheckMessage]:
            connection = SimpleNamespace(
                vendor=vendor,
                settings_dict={"HOST": host, "TIME_ZONE": zone, "OPTIONS": options},
                is_in_memory_db=lambda: in_memory,
            )
            monkeypatch.setattr(checks, "connections", {"default": connection})
            return checks.check_database_settings()

        return use

    def test_an_alias_that_is_missing(self) -> None:
        with override_settings(DURABLE_DJANGO={"DATABASE_ALIAS": "durable"}):
            (message,) = checks.check_database_settings()

        assert ids([message]) == ["E003"]
        assert "'durable'" in message.msg
        assert "default" in str(message.hint)

    def test_sqlite(self, use: Any) -> None:
        assert ids(use("sqlite")) == ["W024", "W025"]
        assert ids(use("sqlite", transaction_mode=None, init_command=None)) == ["W024", "W025"]
        assert ids(use("sqlite", transaction_mode="DEFERRED", init_command=WAL)) == ["W024"]
        assert ids(use("sqlite", transaction_mode="immediate")) == ["W025"]
        assert ids(use("sqlite", transaction_mode="IMMEDIATE", init_command=WAL)) == []
        assert (
            ids(use("sqlite", transaction_mode="EXCLUSIVE", init_command="pragma journal_mode = 'wal'")) == []
        )

    def test_sqlite_in_memory_has_no_journal(self, use: Any) -> None:
        assert ids(use("sqlite", in_memory=True, transaction_mode="IMMEDIATE")) == []

    def test_sqlite_that_is_too_old(self, use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))

        assert ids(use("sqlite", transaction_mode="IMMEDIATE", init_command=WAL)) == ["E022"]
        monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 37, 0))
        assert ids(use("sqlite", transaction_mode="IMMEDIATE", init_command=WAL)) == []

    def test_postgresql(self, use: Any) -> None:
        levels = pytest.importorskip("psycopg").IsolationLevel

        assert ids(use("postgresql")) == []
        assert ids(use("postgresql", isolation_level=levels.READ_COMMITTED)) == []
        assert ids(use("postgresql", isolation_level=levels.READ_COMMITTED.value)) == []
        assert ids(use("postgresql", isolation_level=levels.SERIALIZABLE)) == ["E023"]

    def test_postgresql_on_another_host(self, use: Any) -> None:
        (message,) = use("postgresql", host="db.example.org", connect_timeout=5)

        assert ids([message]) == ["W026"]
        assert "Set tcp_user_timeout, keepalives_idle in" in str(message.hint)
        timeouts = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 10}
        assert ids(use("postgresql", host="db.example.org", **timeouts)) == []
        assert ids(use("postgresql", host="db.example.org", service="shop")) == []

    @pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "::1", "/run/postgresql", "@socket"])
    def test_postgresql_on_this_host_does_not_go_silent(self, use: Any, host: str) -> None:
        assert ids(use("postgresql", host=host)) == []

    def test_mysql(self, use: Any) -> None:
        assert ids(use("mysql")) == []
        assert ids(use("mysql", isolation_level="READ COMMITTED")) == []
        assert ids(use("mysql", isolation_level="repeatable read")) == ["E023"]
        assert ids(use("mysql", isolation_level=None)) == ["E023"]

    @pytest.mark.parametrize(
        ("vendor", "options"),
        [("sqlite", {"in_memory": True, "transaction_mode": "IMMEDIATE"}), ("mysql", {})],
    )
    def test_local_times_need_a_zone_without_summer_time(
        self, use: Any, vendor: str, options: dict[str, Any]
    ) -> None:
        for zone in ("Europe/Berlin", "America/New_York", "Africa/Casablanca"):
            with override_settings(USE_TZ=False, TIME_ZONE=zone):
                (message,) = use(vendor, **options)
            assert ids([message]) == ["E027"]
            assert zone in message.msg
            assert "USE_TZ = True" in str(message.hint)
        for zone in ("UTC", "Asia/Kolkata", "Asia/Tokyo", "America/Phoenix"):
            with override_settings(USE_TZ=False, TIME_ZONE=zone):
                assert ids(use(vendor, **options)) == []
        with override_settings(USE_TZ=True, TIME_ZONE="Europe/Berlin"):
            assert ids(use(vendor, **options)) == []

    def test_the_offsets_of_a_zone_are_those_of_about_now(self, use: Any) -> None:
        with override_settings(USE_TZ=False, TIME_ZONE="Europe/Moscow"):  # without summer time since 2014
            with clock.frozen(datetime(2015, 1, 1)):
                assert ids(use("mysql")) == ["E027"]
            with clock.frozen(datetime(2020, 1, 1)):
                assert ids(use("mysql")) == []

    @pytest.mark.parametrize(
        ("vendor", "options"),
        [("sqlite", {"in_memory": True, "transaction_mode": "IMMEDIATE"}), ("mysql", {})],
    )
    def test_a_zone_of_the_databases_own_must_be_utc(
        self, use: Any, vendor: str, options: dict[str, Any]
    ) -> None:
        for zone in ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Europe/London", "Europe/Nowhere"):
            (message,) = use(vendor, zone=zone, **options)
            assert ids([message]) == ["E028"]
            assert zone in message.msg
            assert "Remove DATABASES['default']['TIME_ZONE']" in str(message.hint)
        for zone in ("UTC", "Etc/UTC", "GMT"):
            assert ids(use(vendor, zone=zone, **options)) == []

    def test_a_worker_does_not_start_where_an_hour_comes_twice(self, use: Any) -> None:
        with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
            use("mysql")
            with pytest.raises(SystemCheckError, match=r"durable_django\.E027"):
                call_command("durable_worker", "--burst", verbosity=0)

    def test_postgresql_keeps_moments_in_any_zone(self, use: Any) -> None:
        pytest.importorskip("psycopg")

        assert ids(use("postgresql", zone="Europe/Berlin")) == []
        with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
            assert ids(use("postgresql")) == []

    def test_another_database(self, use: Any) -> None:
        assert ids(use("oracle")) == ["E021"]


class TestDatabaseVersion:
    @pytest.mark.parametrize(
        ("connection", "expected"),
        [
            (
                {"vendor": "postgresql", "pg_version": 130012},
                "PostgreSQL 14 or later is required, not 13.12.",
            ),
            ({"vendor": "postgresql", "pg_version": 140000}, None),
            (
                {"vendor": "mysql", "mysql_is_mariadb": True, "mysql_version": (10, 5, 9)},
                "MariaDB 10.6 or later is required, not 10.5.9.",
            ),
            ({"vendor": "mysql", "mysql_is_mariadb": True, "mysql_version": (10, 6, 0)}, None),
            (
                {"vendor": "mysql", "mysql_is_mariadb": False, "mysql_version": (5, 7, 44)},
                "MySQL 8.0 or later is required, not 5.7.44.",
            ),
            ({"vendor": "mysql", "mysql_is_mariadb": False, "mysql_version": (8, 0, 11)}, None),
            ({"vendor": "sqlite"}, None),
        ],
    )
    def test_the_version(
        self, monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], expected: str | None
    ) -> None:
        monkeypatch.setattr(checks, "connections", {"default": SimpleNamespace(**connection)})
        messages = checks.check_database_version(databases=["default"])

        assert ids(messages) == (["E022"] if expected else [])
        assert all(expected and expected in message.msg for message in messages)

    def test_one_that_django_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Refused:
            vendor = "postgresql"

            @property
            def pg_version(self) -> int:
                raise NotSupportedError("PostgreSQL 14 or later is required (found 12).")

        monkeypatch.setattr(checks, "connections", {"default": Refused()})

        (message,) = checks.check_database_version(databases=["default"])
        assert ids([message]) == ["E022"]
        assert "found 12" in message.msg

    def test_nobody_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "connections", {})  # It would fail if it were looked at.

        assert not checks.check_database_version()
        assert not checks.check_database_version(databases=["other"])

    @pytest.mark.django_db
    def test_the_database_of_this_run(self) -> None:
        assert not ids(run_checks(tags=[django_checks.Tags.database], databases=["default"]))


class TestStart:
    """What happens in a fresh process, when Django sets the app up."""

    @pytest.fixture
    def start(self, tmp_path: Path) -> Any:
        def start(workflows: str, settings: str = "{}") -> subprocess.CompletedProcess[str]:
            shop = tmp_path / "shop"
            shop.mkdir()
            (shop / "__init__.py").touch()
            (shop / "workflows.py").write_text(workflows)
            script = tmp_path / "start.py"
            script.write_text(
                "import json, sys, threading\n"
                f"sys.path[:0] = [{str(tmp_path)!r}, {str(Path(checks.__file__).parent.parent)!r}]\n"
                "import django\n"
                "from django.conf import settings\n"
                "settings.configure(INSTALLED_APPS=['durable_django', 'shop'], SECRET_KEY='x',\n"
                f"    DURABLE_DJANGO={settings})\n"
                "django.setup()\n"
                "from django.core.checks import run_checks\n"
                "from durable_django.core.registry import default_registry\n"
                "print(json.dumps({'activities': list(default_registry.activities),\n"
                "    'threads': threading.active_count(), 'checks': [m.id for m in run_checks()]}))\n"
            )
            return subprocess.run(
                [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
            )

        return start

    WORKFLOWS = "from durable_django import activity\n@activity\ndef charge(ctx, _): ...\n"

    def test_workflows_are_found_and_nothing_starts(self, start: Any) -> None:
        found = json.loads(start(self.WORKFLOWS).stdout)

        assert found["activities"] == ["charge"]
        assert found["threads"] == 1

    def test_problems_do_not_stop_the_checks(self, start: Any) -> None:
        found = json.loads(start(self.WORKFLOWS * 2, settings="{'MAX_TRIES': 0}").stdout)

        assert {"durable_django.E002", "durable_django.E011"} <= set(found["checks"])

    def test_workflows_that_cannot_be_imported_are_not_passed_over(self, start: Any) -> None:
        process = start("import no_such_module\n")

        assert process.returncode != 0
        assert "No module named 'no_such_module'" in process.stderr
