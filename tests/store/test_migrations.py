"""Migrations that take what is in the tables along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core import serializers
from django.db import IntegrityError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from durable_django.core import events
from durable_django.models import HistoryEvent
from tests.factories import NOW, add_history, history_of, make_instance

pytestmark = pytest.mark.django_db(transaction=True)


def migrate_to(name: str) -> Any:
    """Migrate there, and return the models as they are then."""
    executor = MigrationExecutor(connection)
    return executor.migrate([("durable_django", name)]).apps


@pytest.fixture
def latest() -> Iterator[None]:
    """Have all migrations done again in the end."""
    (name,) = (name for app, name in MigrationExecutor(connection).loader.graph.leaf_nodes("durable_django"))
    yield
    migrate_to(name)


def row(execution_id: str, sequence: int) -> dict[str, Any]:
    return {
        "instance_id": 7,
        "execution_id": execution_id,
        "sequence": sequence,
        "timestamp": timezone.now(),
        "turn": 1,
        "kind": 41,
        "name": "paid",
        "data": '"%s ünd\\t"',
    }


@pytest.mark.usefixtures("latest")
class TestTheHistorysKey:
    """0009_history_key: three columns in place of a number."""

    rows = (("b", 0), ("a", 1), ("a", 0), ("b", 1))

    def test_the_rows_stay_and_the_key_is_the_tripwire(self) -> None:
        former = migrate_to("0008_uncompressed").get_model("durable_django", "HistoryEvent")
        written = [former.objects.create(**row(*numbers)) for numbers in self.rows]
        now = migrate_to("0009_history_key").get_model("durable_django", "HistoryEvent")
        values = list(now.objects.order_by("execution_id", "sequence").values())
        assert values == [
            {name: value for name, value in vars(old).items() if name not in ("id", "_state")}
            for old in sorted(written, key=lambda old: (old.execution_id, old.sequence))
        ]
        with pytest.raises(IntegrityError):
            now.objects.bulk_create([now(**row("a", 1))])

    def test_there_and_back(self) -> None:
        now = migrate_to("0009_history_key").get_model("durable_django", "HistoryEvent")
        now.objects.bulk_create([now(**row(*numbers)) for numbers in self.rows])
        former = migrate_to("0008_uncompressed").get_model("durable_django", "HistoryEvent")
        found = former.objects.order_by("pk").values_list("pk", "execution_id", "sequence", "data")
        assert len({pk for pk, *_ in found}) == 4
        assert {tuple(rest) for _, *rest in found} == {
            (execution_id, sequence, row("", 0)["data"]) for execution_id, sequence in self.rows
        }
        added = former.objects.create(**row("c", 0))
        assert added.pk not in {pk for pk, *_ in found}
        with pytest.raises(IntegrityError):
            former.objects.create(**row("c", 0))

    @pytest.mark.database("postgresql")
    def test_it_has_the_name_that_the_tripwire_has_always_had(self) -> None:
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, HistoryEvent._meta.db_table)
        assert {name: entry["primary_key"] for name, entry in found.items() if entry["unique"]} == {
            "durable_history_sequence": True
        }


@pytest.mark.parametrize("form", ["json", "xml"])
def test_histories_can_be_dumped_and_loaded(form: str) -> None:
    instance = make_instance("i")
    add_history(
        instance, events.EventRaisedEvent(-1, NOW, "paid", "1"), events.EventRaisedEvent(-1, NOW, "b")
    )
    before = history_of(instance)
    dumped = serializers.serialize(form, HistoryEvent.objects.order_by("sequence"))
    HistoryEvent.objects.all().delete()
    for loaded in serializers.deserialize(form, dumped):
        loaded.save()
    assert history_of(instance) == before


class Elsewhere:
    """Keeps the app's tables out of every database."""

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **_: Any) -> bool:
        assert app_label != "durable_django" or model_name is not None
        return app_label != "durable_django"


@pytest.mark.usefixtures("latest")
def test_a_database_that_a_router_keeps_the_tables_out_of_is_left_alone(settings: Any) -> None:
    everything = MigrationExecutor(connection).loader.graph.leaf_nodes("durable_django")
    nothing = [("durable_django", None)]
    MigrationExecutor(connection).migrate(nothing)
    settings.DATABASE_ROUTERS = [Elsewhere()]
    for target in (everything, nothing):
        MigrationExecutor(connection).migrate(target)
        tables = connection.introspection.table_names()
        assert not [name for name in tables if name.startswith("durable_django")]
