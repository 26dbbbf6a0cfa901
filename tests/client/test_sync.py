from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.db import connection, transaction

import durable_django.client
from durable_django.client import (
    DurableTaskClient,
    DurableTaskError,
    OrchestrationFailedError,
    OrchestrationNotFoundError,
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStateConflictError,
    OrchestrationStatus,
    PurgeInstancesResult,
)
from durable_django.core.errors import PayloadError
from durable_django.core.events import ExecutionRewoundEvent, OrchestratorStartedEvent
from durable_django.entities import EntityInstanceId
from durable_django.models import EntityOperation, Instance, InstanceStatus, Message
from durable_django.store import clock, wakeup
from tests import factories
from tests.factories import FAILURE, NOW, history_of

pytestmark = pytest.mark.django_db

WRONG_TIMEOUTS = [
    pytest.param(float("nan"), ValueError, "seconds or None, not nan", id="nan"),
    pytest.param(10**5000, ValueError, "seconds that a clock can count", id="huge"),
    pytest.param(timedelta(seconds=1), TypeError, "seconds or None, not timedelta", id="timedelta"),
    pytest.param("1", TypeError, "seconds or None, not str", id="text"),
    pytest.param(Decimal(1), TypeError, "seconds or None, not Decimal", id="decimal"),
]


@dataclass
class Order:
    product: str
    quantity: int


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


@pytest.mark.parametrize("name", durable_django.client.__all__)
def test_public_names_say_where_they_are_imported_from(name: str) -> None:
    module = "durable_django.task" if name == "DurableTaskError" else "durable_django.client"
    assert getattr(durable_django.client, name).__module__ == module


class TestStates:
    def test_payloads_are_read_by_type(self, client: DurableTaskClient) -> None:
        factories.make_instance(
            "flow",
            InstanceStatus.COMPLETED,
            input='{"product":"tea","quantity":2}',
            output="[1]",
            custom_status='"x"',
        )
        state = client.get_orchestration_state("flow")
        assert state is not None
        assert (state.instance_id, state.name) == ("flow", "flow")
        assert state.runtime_status is OrchestrationStatus.COMPLETED
        assert (state.created_at, state.last_updated_at) == (NOW, NOW)
        assert state.get_input(Order) == Order("tea", 2)
        assert state.get_input().product == "tea"
        assert (state.get_output(), state.get_custom_status()) == ([1], "x")
        state.raise_if_failed()

    def test_a_failed_one_raises_its_failure(self, client: DurableTaskClient) -> None:
        factories.make_instance("flow", InstanceStatus.FAILED)
        state = client.get_orchestration_state("flow", fetch_payloads=False)
        assert state is not None
        with pytest.raises(OrchestrationFailedError, match="'flow' failed: it broke") as caught:
            state.raise_if_failed()
        assert caught.value.failure_details == FAILURE

    def test_the_missing_have_none(self, client: DurableTaskClient) -> None:
        assert client.get_orchestration_state("nobody") is None

    def test_all_states_are_read_page_by_page(self, client: DurableTaskClient) -> None:
        for number in range(5):
            factories.make_instance(f"i{number}", input="1", at=NOW + timedelta(minutes=number))
        query = OrchestrationQuery(
            created_time_from=(NOW + timedelta(minutes=1)).replace(tzinfo=UTC),
            runtime_status=[OrchestrationStatus.RUNNING],
            max_instance_count=2,
            fetch_inputs_and_outputs=True,
        )
        states = client.get_all_orchestration_states(query)
        assert [state.instance_id for state in states] == ["i1", "i2", "i3", "i4"]
        assert {state.serialized_input for state in states} == {"1"}
        assert [state.serialized_input for state in client.get_all_orchestration_states()] == [None] * 5

    def test_ids_are_listed_with_a_token(self, client: DurableTaskClient) -> None:
        for number in range(3):
            factories.make_instance(f"i{number}", InstanceStatus.COMPLETED)
        first = client.list_instance_ids(page_size=2)
        assert (first.items, first.continuation_token is None) == (["i0", "i1"], False)
        second = client.list_instance_ids(page_size=2, continuation_token=first.continuation_token)
        assert (second.items, second.continuation_token) == (["i2"], None)
        assert client.list_instance_ids([OrchestrationStatus.FAILED]).items == []

    @pytest.mark.parametrize("page_size", [0, -1])
    def test_a_page_has_something_on_it(self, client: DurableTaskClient, page_size: int) -> None:
        with pytest.raises(ValueError, match="page_size"):
            client.list_instance_ids(page_size=page_size)

    def test_history(self, client: DurableTaskClient) -> None:
        factories.make_instance()
        assert isinstance(client.get_orchestration_history("flow")[0], OrchestratorStartedEvent)
        with pytest.raises(OrchestrationNotFoundError):
            client.get_orchestration_history("nobody")


class TestIdsThatNothingCanHave:
    @pytest.fixture(params=["\x00", "flow\x00", "\ud800", "\x1a", "", "@counter@x", "x" * 300])
    def nobody(self, request: pytest.FixtureRequest) -> str:
        for instance_id in ("flow", "flow\ufffd", "\ufffd"):
            factories.make_instance(instance_id)
        nobody: str = request.param
        return nobody

    def test_nothing_is_found(self, client: DurableTaskClient, nobody: str) -> None:
        with transaction.atomic():
            assert client.get_orchestration_state(nobody) is None
            client.terminate_orchestration(nobody)
            assert client.purge_orchestration(nobody) == PurgeInstancesResult(0, True)
            assert client.get_orchestration_history("flow", execution_id=nobody or "none") == []
        assert not Instance.objects.exclude(status=InstanceStatus.RUNNING).exists()

    def test_what_needs_an_instance_says_that_there_is_none(
        self, client: DurableTaskClient, nobody: str
    ) -> None:
        with transaction.atomic():
            for refused in (
                client.get_orchestration_history,
                client.suspend_orchestration,
                client.resume_orchestration,
                client.rewind_orchestration,
                client.restart_orchestration,
                lambda instance_id: client.raise_orchestration_event(instance_id, "approval"),
            ):
                with pytest.raises(OrchestrationNotFoundError):
                    refused(nobody)
            assert not Message.objects.exists()

    @pytest.mark.parametrize("value", [None, 5, b"flow", ["flow"]])
    def test_an_id_is_a_text(self, client: DurableTaskClient, value: Any) -> None:
        for refused in (
            client.get_orchestration_state,
            client.terminate_orchestration,
            client.purge_orchestration,
            client.suspend_orchestration,
        ):
            with pytest.raises(TypeError, match="instance_id must be a str, not"):
                refused(value)
        factories.make_instance()
        with pytest.raises(TypeError, match="execution_id must be a str, not int"):
            client.get_orchestration_history("flow", execution_id=5)  # type: ignore[arg-type]


class TestSteering:
    def test_every_step(self, client: DurableTaskClient) -> None:
        instance = factories.make_instance()
        client.raise_orchestration_event("flow", "approval", data={"by": "me"})
        assert Message.objects.get().data == '{"by": "me"}'
        client.suspend_orchestration("flow")
        client.resume_orchestration("flow")
        factories.fail(instance)
        client.rewind_orchestration("flow", reason="why not")
        assert isinstance(history_of(instance)[-1], ExecutionRewoundEvent)
        client.terminate_orchestration("flow", output={"by": "me"})
        state = client.get_orchestration_state("flow")
        assert state is not None
        assert (state.runtime_status, state.get_output()) == (OrchestrationStatus.TERMINATED, {"by": "me"})
        assert client.restart_orchestration("flow") == "flow"
        assert client.purge_orchestration("flow") == PurgeInstancesResult(0, True)
        client.terminate_orchestration("flow")
        assert client.purge_orchestration("flow") == PurgeInstancesResult(1, True)
        assert client.purge_orchestrations_by() == PurgeInstancesResult(0, True)

    def test_refusals_leave_the_transaction_usable(self, client: DurableTaskClient) -> None:
        factories.make_instance()
        with transaction.atomic():
            for refused in (
                client.suspend_orchestration,
                client.resume_orchestration,
                client.rewind_orchestration,
                client.restart_orchestration,
            ):
                with pytest.raises(OrchestrationNotFoundError):
                    refused("nobody")
            with pytest.raises(OrchestrationNotFoundError):
                client.raise_orchestration_event("nobody", "approval")
            for conflicting in (client.rewind_orchestration, client.restart_orchestration):
                with pytest.raises(OrchestrationStateConflictError):
                    conflicting("flow")
            client.schedule_new_orchestration("flow", instance_id="after")
        assert Instance.objects.filter(instance_id="after").exists()

    def test_bad_input_is_refused(self, client: DurableTaskClient) -> None:
        factories.make_instance()
        with pytest.raises(ValueError, match="event name"):
            client.raise_orchestration_event("flow", "")
        with pytest.raises(TypeError, match="object"):
            client.raise_orchestration_event("flow", "approval", data=object())
        with pytest.raises(PayloadError, match="NUL"):
            client.terminate_orchestration("flow", output="\x00")
        with pytest.raises(PayloadError, match="reason"):
            client.rewind_orchestration("flow", reason="\x00")
        assert not Message.objects.exists()

    @pytest.mark.parametrize(
        ("statuses", "words"),
        [
            (["FAILED"], "'FAILED' is none"),
            ("FAILED", "not 'FAILED'"),
            (OrchestrationStatus.FAILED, "not <OrchestrationStatus.FAILED"),
            ([99], "99 is none"),
            (5, "not 5"),
        ],
    )
    def test_statuses_are_statuses(self, client: DurableTaskClient, statuses: Any, words: str) -> None:
        for ask in (
            lambda: client.list_instance_ids(statuses),
            lambda: client.get_all_orchestration_states(OrchestrationQuery(runtime_status=statuses)),
            lambda: client.purge_orchestrations_by(runtime_status=statuses),
        ):
            with pytest.raises(TypeError, match=f"runtime_status must be a list.*{words}"):
                ask()

    @pytest.mark.django_db(transaction=True)
    def test_transactions_by_hand_have_what_is_sent_in_them(self, client: DurableTaskClient) -> None:
        factories.make_instance(status=InstanceStatus.SUSPENDED)
        for end, count in ((transaction.rollback, 0), (transaction.commit, 1)):
            transaction.set_autocommit(False)
            try:
                client.schedule_new_orchestration("flow", instance_id="new")
                client.raise_orchestration_event("flow", "approval")
                client.signal_entity(EntityInstanceId("counter", "x"), "add")
                end()
            finally:
                transaction.rollback()
                transaction.set_autocommit(True)
            assert Instance.objects.filter(instance_id="new").count() == count
            assert Message.objects.count() == count
            assert EntityOperation.objects.count() == count

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.database("postgresql")
    def test_an_event_does_not_wait_for_whoever_holds_the_instance(self, client: DurableTaskClient) -> None:
        instance = factories.make_instance()
        done = threading.Event()

        def raise_event() -> None:
            try:
                client.raise_orchestration_event("flow", "approval")
                done.set()
            finally:
                connection.close()

        with transaction.atomic():
            Instance.objects.select_for_update().get(pk=instance.pk)
            thread = threading.Thread(target=raise_event)
            thread.start()
            assert done.wait(10)
        thread.join(10)
        assert Message.objects.get().name == "approval"


@pytest.mark.django_db(transaction=True)
class TestWaiting:
    def complete_soon(self, *, announce: bool) -> threading.Thread:
        def complete() -> None:
            try:
                time.sleep(0.1)
                Instance.objects.update(
                    status=InstanceStatus.COMPLETED, output="5", completed_at=clock.aware(NOW)
                )
                if announce:
                    wakeup.announce_changes("default", ["flow"])
            finally:
                connection.close()

        thread = threading.Thread(target=complete)
        thread.start()
        return thread

    @pytest.mark.parametrize("announce", [True, False])
    @pytest.mark.parametrize("timeout", [10, None])
    def test_the_end_is_noticed(
        self, client: DurableTaskClient, announce: bool, timeout: float | None
    ) -> None:
        client.schedule_new_orchestration("flow", instance_id="flow", input=1)
        thread = self.complete_soon(announce=announce)
        state = client.wait_for_orchestration_completion("flow", timeout=timeout)
        thread.join(10)
        assert isinstance(state, OrchestrationState)
        assert (state.runtime_status, state.get_output()) == (OrchestrationStatus.COMPLETED, 5)

    @pytest.mark.parametrize(
        "status", [status for status in InstanceStatus if status != InstanceStatus.PENDING]
    )
    def test_whatever_is_not_pending_has_started(
        self, client: DurableTaskClient, status: InstanceStatus
    ) -> None:
        factories.make_instance("flow", status, input="1")
        state = client.wait_for_orchestration_start("flow", timeout=0)
        assert (state.runtime_status.value, state.serialized_input) == (status.value, None)

    @pytest.mark.parametrize("timeout", [0, 0.05])
    def test_time_runs_out(self, client: DurableTaskClient, timeout: float) -> None:
        factories.make_instance("flow", InstanceStatus.PENDING)
        with pytest.raises(TimeoutError, match="'flow' to start"):
            client.wait_for_orchestration_start("flow", timeout=timeout)
        with pytest.raises(TimeoutError, match="'nobody' to complete"):
            client.wait_for_orchestration_completion("nobody", timeout=timeout)

    def test_nobody_has_an_id_that_nothing_can_have(self, client: DurableTaskClient) -> None:
        for wait in (client.wait_for_orchestration_start, client.wait_for_orchestration_completion):
            with pytest.raises(TimeoutError, match=r"'a\\x00'"):
                wait("a\x00", timeout=0)

    @pytest.mark.parametrize(("timeout", "kind", "words"), WRONG_TIMEOUTS)
    def test_a_timeout_is_a_number_of_seconds(
        self, client: DurableTaskClient, timeout: Any, kind: type[Exception], words: str
    ) -> None:
        factories.make_instance("flow", InstanceStatus.COMPLETED)
        for wait in (client.wait_for_orchestration_start, client.wait_for_orchestration_completion):
            with pytest.raises(kind, match=f"timeout must be a number of {words}"):
                wait("flow", timeout=timeout)

    @pytest.mark.parametrize("timeout", [float("inf"), -1, Fraction(1, 2), True])
    def test_numbers_of_all_kinds_are_timeouts(self, client: DurableTaskClient, timeout: Any) -> None:
        factories.make_instance("flow", InstanceStatus.COMPLETED)
        assert client.wait_for_orchestration_completion("flow", timeout=timeout).instance_id == "flow"

    def test_waiting_in_a_transaction_is_refused_at_once(self, client: DurableTaskClient) -> None:
        instance_id = client.schedule_new_orchestration("flow")
        with transaction.atomic():
            for wait in (client.wait_for_orchestration_start, client.wait_for_orchestration_completion):
                with pytest.raises(DurableTaskError, match="atomic"):
                    wait(instance_id)
            assert Instance.objects.exists()


def test_a_client_can_be_closed() -> None:
    with DurableTaskClient() as client:
        client.close()
