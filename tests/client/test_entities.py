from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

from durable_django.client import (
    AsyncDurableTaskClient,
    CleanEntityStorageResult,
    DurableTaskClient,
    EntityQuery,
)
from durable_django.entities import EntityInstanceId, EntityMetadata
from durable_django.models import Entity, EntityOperation, InstanceStatus
from durable_django.store import clock
from tests import factories

pytestmark = pytest.mark.django_db

NOON = datetime(2030, 5, 1, 12)


def make_entity(
    name: str, key: str, state: str | None = "1", at: datetime = NOON, **fields: object
) -> Entity:
    return Entity.objects.create(name=name, key=key, state=state, last_modified_at=clock.aware(at), **fields)


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


class TestSignals:
    def test_a_signal_waits_in_the_inbox_and_may_come_later(self, client: DurableTaskClient) -> None:
        counter = EntityInstanceId("Counter", "Mine")
        with clock.frozen(NOON):
            client.signal_entity(counter, "add", 5)
            client.signal_entity(counter, "add", input=6, signal_time=NOON + timedelta(hours=1))

        first, second = EntityOperation.objects.order_by("pk")
        assert (first.name, first.key, first.operation, first.input) == ("counter", "Mine", "add", "5")
        assert clock.from_orm(first.created_at) == NOON
        assert clock.from_orm(first.visible_at) <= NOON
        assert clock.from_orm(second.visible_at) == NOON + timedelta(hours=1)
        assert client.get_entity(counter) is None

    def test_a_signal_goes_with_the_transaction(self, client: DurableTaskClient) -> None:
        with transaction.atomic():
            client.signal_entity(EntityInstanceId("counter", "x"), "add", 1)
            transaction.set_rollback(True)
        assert not EntityOperation.objects.exists()

    @pytest.mark.parametrize(("target", "error"), [("@counter@x", TypeError), (None, TypeError)])
    def test_a_target_is_an_id(
        self, client: DurableTaskClient, target: object, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="EntityInstanceId"):
            client.signal_entity(target, "add")  # type: ignore[arg-type]
        with pytest.raises(error, match="EntityInstanceId"):
            client.get_entity(target)  # type: ignore[arg-type]

    def test_a_time_is_a_time(self, client: DurableTaskClient) -> None:
        with pytest.raises(TypeError, match="signal_time must be a datetime or None, not str"):
            client.signal_entity(EntityInstanceId("counter", "x"), "add", signal_time="now")  # type: ignore[arg-type]

    def test_an_operation_has_a_name(self, client: DurableTaskClient) -> None:
        with pytest.raises(ValueError, match="operation name"):
            client.signal_entity(EntityInstanceId("counter", "x"), "")


class TestOneEntity:
    def test_what_there_is_to_know(self, client: DurableTaskClient) -> None:
        owner = factories.make_instance("owner", InstanceStatus.RUNNING)
        make_entity("counter", "x", "5", lock_instance=owner, lock_execution_id=owner.execution_id)
        client.signal_entity(EntityInstanceId("counter", "x"), "add", 1)
        client.signal_entity(EntityInstanceId("counter", "y"), "add", 1)

        found = client.get_entity(EntityInstanceId("counter", "x"))

        assert isinstance(found, EntityMetadata)
        assert found.id == EntityInstanceId("counter", "x")
        assert found.last_modified.isoformat() == "2030-05-01T12:00:00+00:00"
        assert (found.backlog_queue_size, found.includes_state, found.get_locked_by()) == (1, True, "owner")
        assert (found.get_state(), found.get_state(int), found.get_typed_state(int)) == ("5", 5, 5)

    def test_without_its_state(self, client: DurableTaskClient) -> None:
        make_entity("counter", "x")
        found = client.get_entity(EntityInstanceId("counter", "x"), include_state=False)
        assert found is not None
        assert (found.includes_state, found.get_state(), found.get_typed_state(int)) == (False, None, None)

    def test_one_without_state_and_lock_is_none(self, client: DurableTaskClient) -> None:
        make_entity("counter", "x", None)
        assert client.get_entity(EntityInstanceId("counter", "x")) is None

    def test_a_state_that_does_not_fit(self, client: DurableTaskClient) -> None:
        make_entity("counter", "x", '{"a":1}')
        found = client.get_entity(EntityInstanceId("counter", "x"))
        assert found is not None
        assert found.get_typed_state() == {"a": 1}
        with pytest.raises(TypeError, match="cannot be read as int"):
            found.get_state(int)


class TestManyEntities:
    @pytest.fixture(autouse=True)
    def entities(self) -> None:
        for number, (name, key) in enumerate(
            [("cart", "ann"), ("cart", "Anne"), ("cart", "bob"), ("cartel", "ann"), ("till", "ann")]
        ):
            make_entity(name, key, at=NOON + timedelta(days=number))
        make_entity("cart", "none", None, at=NOON + timedelta(days=9))

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            (None, ["@cart@ann", "@cart@Anne", "@cart@bob", "@cartel@ann", "@till@ann"]),
            (EntityQuery(page_size=2), ["@cart@ann", "@cart@Anne", "@cart@bob", "@cartel@ann", "@till@ann"]),
            (EntityQuery("Cart"), ["@cart@ann", "@cart@Anne", "@cart@bob", "@cartel@ann"]),
            (EntityQuery("@cart"), ["@cart@ann", "@cart@Anne", "@cart@bob", "@cartel@ann"]),
            (EntityQuery("@cart@"), ["@cart@ann", "@cart@Anne", "@cart@bob"]),
            (EntityQuery("@cart@an", page_size=1), ["@cart@ann"]),
            (EntityQuery("@till@b"), []),
            (
                EntityQuery("@cart@", include_transient=True),
                ["@cart@ann", "@cart@Anne", "@cart@bob", "@cart@none"],
            ),
            (
                EntityQuery(
                    last_modified_from=NOON + timedelta(days=1), last_modified_to=NOON + timedelta(days=3)
                ),
                ["@cart@Anne", "@cart@bob"],
            ),
        ],
    )
    def test_filters(self, client: DurableTaskClient, query: EntityQuery | None, expected: list[str]) -> None:
        assert [str(found.id) for found in client.get_all_entities(query)] == expected

    @pytest.mark.parametrize(
        ("query", "error", "message"),
        [
            ("@cart", TypeError, "entity_query must be an EntityQuery or None, not str"),
            (EntityQuery(5), ValueError, "instance_id_starts_with must be a str"),  # type: ignore[arg-type]
            (EntityQuery("a\0"), ValueError, r"instance_id_starts_with contains U\+0000"),
            (EntityQuery("\ud800"), ValueError, r"instance_id_starts_with contains U\+D800"),
            (EntityQuery("a" * 600), ValueError, "instance_id_starts_with has 600 characters"),
            (EntityQuery(page_size=10**30), ValueError, "page_size must be at most"),
            (EntityQuery(page_size=0), ValueError, "page_size must be at least 1"),
        ],
    )
    def test_bad_queries(
        self, client: DurableTaskClient, query: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            client.get_all_entities(query)

    def test_without_states(self, client: DurableTaskClient) -> None:
        found = client.get_all_entities(EntityQuery("@till", include_state=False))
        assert [(one.includes_state, one.get_state()) for one in found] == [(False, None)]


def test_cleaning_removes_the_empty_and_releases_orphans(client: DurableTaskClient) -> None:
    owner = factories.make_instance("owner", InstanceStatus.COMPLETED)
    make_entity("counter", "held", lock_instance=owner, lock_execution_id=owner.execution_id)
    make_entity("counter", "empty", None)
    make_entity("counter", "awaited", None)
    client.signal_entity(EntityInstanceId("counter", "awaited"), "add")

    assert client.clean_entity_storage(False, False) == CleanEntityStorageResult(0, 0)
    assert client.clean_entity_storage() == CleanEntityStorageResult(1, 1)
    held = client.get_entity(EntityInstanceId("counter", "held"))
    assert held is not None
    assert held.get_locked_by() is None


@pytest.mark.django_db(transaction=True)
def test_the_same_is_there_for_event_loops() -> None:
    async def use() -> list[str]:
        async with AsyncDurableTaskClient() as client:
            await client.signal_entity(EntityInstanceId("counter", "x"), "add", 1)
            assert await client.get_entity(EntityInstanceId("counter", "x")) is None
            await client.clean_entity_storage()
            found = [str(found.id) for found in await client.get_all_entities()]
            await sync_to_async(connections.close_all)()
            return found

    assert asyncio.run(use()) == []
    assert EntityOperation.objects.count() == 1
