from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import DataError, OperationalError, connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from durable_django import orchestrator
from durable_django.client import (
    DurableTaskClient,
    OrchestrationAlreadyExistsError,
    OrchestrationIdReusePolicy,
    OrchestrationStatus,
)
from durable_django.core.errors import PayloadError
from durable_django.models import HistoryEvent, Instance, InstanceStatus, Message, MessageKind
from durable_django.store import clock, wakeup
from tests import factories
from tests.factories import NOW, TERMINAL

pytestmark = pytest.mark.django_db


@orchestrator(name="tests.client.declared", queue="slow", priority=3)
def declared(ctx: Any, _: Any) -> None:
    """Do nothing, in a queue of its own."""


def plain(ctx: Any, _: Any) -> None:
    """Do nothing."""


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


def test_a_start_is_a_pending_row(client: DurableTaskClient) -> None:
    with clock.frozen(NOW):
        instance_id = client.schedule_new_orchestration("flow", input={"a": [1]}, tags={"team": "blue"})

    found = Instance.objects.get()
    assert found.instance_id == instance_id
    assert len(instance_id) == len(found.execution_id) == 32
    assert (found.name, found.version, found.queue, found.priority) == ("flow", None, "default", 0)
    assert (found.status, found.input, found.tags) == (InstanceStatus.PENDING, '{"a": [1]}', {"team": "blue"})
    assert clock.from_orm(found.start_at) == NOW


def test_options_come_from_the_orchestrator_unless_given(client: DurableTaskClient) -> None:
    client.schedule_new_orchestration(declared, instance_id="own0")
    client.schedule_new_orchestration("tests.client.declared", instance_id="own1")
    client.schedule_new_orchestration(declared, instance_id="given", queue="fast", priority=-1)
    client.schedule_new_orchestration(plain, instance_id="plain")

    found = Instance.objects.order_by("pk").values_list("instance_id", "name", "queue", "priority")
    assert list(found) == [
        ("own0", "tests.client.declared", "slow", 3),
        ("own1", "tests.client.declared", "slow", 3),
        ("given", "tests.client.declared", "fast", -1),
        ("plain", "plain", "default", 0),
    ]


@override_settings(DURABLE_DJANGO={"DEFAULT_VERSION": "1", "DEFAULT_QUEUE": "main"})
def test_settings_give_the_rest() -> None:
    DurableTaskClient().schedule_new_orchestration("flow", instance_id="a")
    DurableTaskClient(default_version="2").schedule_new_orchestration("flow", instance_id="b")
    DurableTaskClient(default_version="2").schedule_new_orchestration("flow", instance_id="c", version="3")

    assert dict(Instance.objects.values_list("instance_id", "version")) == {"a": "1", "b": "2", "c": "3"}
    assert set(Instance.objects.values_list("queue", flat=True)) == {"main"}


@pytest.mark.parametrize(
    "start_at",
    [NOW, NOW.replace(tzinfo=UTC), (NOW + timedelta(hours=2)).replace(tzinfo=timezone(timedelta(hours=2)))],
)
def test_a_start_can_wait(client: DurableTaskClient, start_at: datetime) -> None:
    client.schedule_new_orchestration("flow", start_at=start_at)
    assert clock.from_orm(Instance.objects.get().start_at) == NOW


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"instance_id": ""}, ValueError, "instance_id"),
        ({"instance_id": "x" * 256}, ValueError, "instance_id"),
        ({"instance_id": "@x"}, ValueError, "'@'"),
        ({"instance_id": "a\x00"}, ValueError, "U\\+0000"),
        ({"input": {"rows": [1, {"when": object()}]}}, TypeError, "rows"),
        ({"input": "a\x00b"}, PayloadError, "NUL"),
        ({"tags": ["a"]}, TypeError, "tags"),
        ({"tags": {"a": 1}}, TypeError, "'a': 1"),
        ({"tags": {"a": "\x00"}}, PayloadError, "tag 'a'"),
        ({"start_at": 5}, TypeError, "start_at"),
        ({"start_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))}, ValueError, "start_at"),
        ({"start_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))}, ValueError, "start_at"),
        ({"queue": ""}, ValueError, "queue"),
        ({"priority": 40_000}, ValueError, "priority"),
        ({"priority": True}, TypeError, "priority"),
        ({"version": "v" * 256}, ValueError, "version"),
        ({"reuse_id_policy": [OrchestrationStatus.FAILED]}, TypeError, "reuse_id_policy must be an Orch"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    client: DurableTaskClient, arguments: Mapping[str, Any], error: type[Exception], words: str
) -> None:
    with transaction.atomic():
        with pytest.raises(error, match=words):
            client.schedule_new_orchestration("flow", **arguments)
        assert not Instance.objects.exists()


@pytest.mark.parametrize("name", ["", "n" * 256, "a\nb"])
def test_a_bad_name_is_refused(client: DurableTaskClient, name: str) -> None:
    with pytest.raises(ValueError, match="orchestrator name"):
        client.schedule_new_orchestration(name)


def test_a_lambda_has_no_name(client: DurableTaskClient) -> None:
    with pytest.raises(ValueError, match="lambda"):
        client.schedule_new_orchestration(lambda ctx, _: None)


@override_settings(DURABLE_DJANGO={"MAX_PAYLOAD_BYTES": 10})
def test_a_large_input_is_refused(client: DurableTaskClient) -> None:
    with pytest.raises(PayloadError, match="12 bytes"):
        client.schedule_new_orchestration("flow", input="x" * 10)
    assert not Instance.objects.exists()


class TestTakenIds:
    @pytest.mark.parametrize("status", list(InstanceStatus))
    def test_a_taken_id_is_refused_and_the_transaction_goes_on(
        self, client: DurableTaskClient, status: InstanceStatus
    ) -> None:
        factories.make_instance("taken", status)
        others = set(OrchestrationStatus) - {OrchestrationStatus(status.value)}
        with transaction.atomic():
            for policy in (None, OrchestrationIdReusePolicy(others)):
                with pytest.raises(OrchestrationAlreadyExistsError, match="'taken'"):
                    client.schedule_new_orchestration("flow", instance_id="taken", reuse_id_policy=policy)
            client.schedule_new_orchestration("flow", instance_id="free")
        assert Instance.objects.get(instance_id="taken").status == status
        assert Instance.objects.filter(instance_id="free").exists()

    @pytest.mark.parametrize("status", list(InstanceStatus))
    def test_a_holder_that_the_policy_lists_is_replaced(
        self, client: DurableTaskClient, status: InstanceStatus
    ) -> None:
        parent = factories.make_instance("parent")
        old = factories.make_child(parent, "taken", 1, status)
        factories.make_child(old, "child", 1)
        policy = OrchestrationIdReusePolicy([OrchestrationStatus(status.value)])

        client.schedule_new_orchestration("flow", instance_id="taken", input=1, reuse_id_policy=policy)

        new = Instance.objects.get(instance_id="taken")
        assert new.pk != old.pk
        assert (new.status, new.input, new.parent) == (InstanceStatus.PENDING, "1", None)
        assert not HistoryEvent.objects.filter(instance_id=old.pk).exists()
        was_live = status not in TERMINAL
        told = Message.objects.filter(instance=parent, kind=MessageKind.CHILD_FAILED)
        assert told.exists() == was_live
        child = Instance.objects.get(instance_id="child")
        assert child.status == (InstanceStatus.TERMINATED if was_live else InstanceStatus.RUNNING)

    def test_a_policy_lists_statuses_alone(self) -> None:
        with pytest.raises(ValueError, match="COMPLETE"):
            OrchestrationIdReusePolicy(["COMPLETE"])  # type: ignore[list-item]


class TestTransactions:
    def test_a_start_belongs_to_the_callers_transaction(self, client: DurableTaskClient) -> None:
        with transaction.atomic():
            client.schedule_new_orchestration("flow", instance_id="lost")
            transaction.set_rollback(True)
        assert not Instance.objects.exists()

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql", "sqlite")
    def test_a_start_alone_is_one_statement(self, client: DurableTaskClient) -> None:
        with CaptureQueriesContext(connection) as queries:
            client.schedule_new_orchestration("flow")
        assert len(queries) == 1

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql", "sqlite")
    @override_settings(DURABLE_DJANGO={"LISTEN": False})
    def test_where_nobody_listens_a_start_alone_is_an_insert(self, client: DurableTaskClient) -> None:
        with CaptureQueriesContext(connection) as queries:
            client.schedule_new_orchestration("flow")
        assert [query["sql"].split()[0] for query in queries] == ["INSERT"]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql")
    def test_where_the_driver_sends_one_statement_at_a_time_a_start_takes_two(
        self, client: DurableTaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection.features, "uses_server_side_binding", True)
        with CaptureQueriesContext(connection) as queries:
            client.schedule_new_orchestration("flow")
        assert [query["sql"].split()[0] for query in queries] == ["INSERT", "SELECT"]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql")
    def test_a_wake_up_that_fails_does_not_fail_the_start(
        self,
        client: DurableTaskClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        too_long = "x" * 8000
        monkeypatch.setattr(wakeup.hub("default"), "start_payload", too_long)
        assert client.schedule_new_orchestration("flow", instance_id="one") == "one"
        assert "payload string too long" in caplog.text
        with pytest.raises(OrchestrationAlreadyExistsError, match="'one'"):
            client.schedule_new_orchestration("flow", instance_id="one")
        with transaction.atomic():
            client.schedule_new_orchestration("flow", instance_id="two")
        assert set(Instance.objects.values_list("instance_id", flat=True)) == {"one", "two"}

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql")
    def test_an_insert_that_fails_leaves_no_transaction_open(
        self, client: DurableTaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("durable_django.client.starts.new_execution_id", lambda: "x" * 33)
        with pytest.raises(DataError):
            client.schedule_new_orchestration("flow")
        monkeypatch.undo()
        client.schedule_new_orchestration("flow", instance_id="next")
        with transaction.atomic():
            assert Instance.objects.get().instance_id == "next"

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql")
    def test_a_lost_connection_is_told(self, client: DurableTaskClient) -> None:
        connection.ensure_connection()
        other = connection.copy()
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
        other.close()
        with pytest.raises(OperationalError):
            client.schedule_new_orchestration("flow")
        connection.close()
        client.schedule_new_orchestration("flow")
        assert Instance.objects.count() == 1

    @pytest.mark.django_db(transaction=True)
    def test_of_starts_at_the_same_moment_one_wins(self, client: DurableTaskClient) -> None:
        outcomes: list[str] = []
        ready = threading.Barrier(4)

        def start() -> None:
            try:
                ready.wait(10)
                outcomes.append(client.schedule_new_orchestration("flow", instance_id="one"))
            except OrchestrationAlreadyExistsError:
                outcomes.append("refused")
            finally:
                connection.close()

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(outcomes) == ["one", "refused", "refused", "refused"]
        assert Instance.objects.count() == 1
