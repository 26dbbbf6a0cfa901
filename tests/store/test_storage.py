"""How PostgreSQL is told to keep the hot tables."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction

from durable_django.models import Instance
from durable_django.store import rows
from tests.factories import make_instance

storage: Any = importlib.import_module("durable_django.migrations.0006_storage")
uncompressed: Any = importlib.import_module("durable_django.migrations.0008_uncompressed")

pytestmark = [pytest.mark.database("postgresql"), pytest.mark.django_db(transaction=True)]


def parameters(table: str) -> set[str]:
    """Return the storage parameters of a table."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [table])
        (found,) = cursor.fetchone()
        return set(found or ())


def test_every_hot_table_has_its_parameters() -> None:
    assert parameters("durable_django_instance") == {"fillfactor=60"}
    for name in ("message", "timer", "activitytask", "entityoperation"):
        assert parameters(f"durable_django_{name}") == {
            "autovacuum_vacuum_scale_factor=0",
            "autovacuum_vacuum_threshold=5000",
        }


def test_the_parameters_can_be_taken_back() -> None:
    with connection.schema_editor() as editor:
        storage.reset_parameters(apps, editor)
    taken_back = parameters("durable_django_instance") | parameters("durable_django_message")
    with connection.schema_editor() as editor:
        storage.set_parameters(apps, editor)
    assert taken_back == set()
    test_every_hot_table_has_its_parameters()


def storage_of_bundles() -> str:
    """Return the letter by which PostgreSQL calls how it stores what is in bundles."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attstorage FROM pg_attribute"
            " WHERE attrelid = 'durable_django_activitybundle'::regclass AND attname = 'tasks'"
        )
        (letter,) = cursor.fetchone()
        return str(letter)


def test_bundles_are_not_compressed() -> None:
    before = storage_of_bundles()
    with connection.schema_editor() as editor:
        uncompressed.compress(apps, editor)
    taken_back = storage_of_bundles()
    with connection.schema_editor() as editor:
        uncompressed.keep_as_is(apps, editor)
    assert (before, taken_back, storage_of_bundles()) == ("e", "x", "e")


def test_an_instance_that_goes_on_enters_no_index_anew() -> None:
    """A page has room for a second version of most of its rows: they stay on it, and away from indexes.

    For more versions the first ones have to be cleared away, which any other session can hold up.
    """
    keys = [make_instance(f"i-{number}").pk for number in range(300)]
    before = updates()
    with transaction.atomic(), connection.cursor() as cursor:
        rows.update(cursor, Instance, ("turn",), [(2, pk) for pk in keys])
    updated, in_place = (now - then for now, then in zip(updates(), before, strict=True))
    assert updated == 300
    assert in_place > 150


def updates() -> tuple[int, int]:
    """Return how many updates of instances there have been, and how many stayed on their page."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
            " WHERE relname = 'durable_django_instance'"
        )
        found: tuple[int, int] = cursor.fetchone()
        return found
