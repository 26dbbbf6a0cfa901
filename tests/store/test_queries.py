from __future__ import annotations

from datetime import timedelta

import pytest

from durable_django.core import events
from durable_django.core.errors import OrchestrationNotFoundError
from durable_django.core.status import OrchestrationStatus
from durable_django.models import Instance, InstanceStatus
from durable_django.store import clock, queries
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

USING = "default"


def test_a_state_has_its_payloads_only_when_they_are_asked_for() -> None:
    factories.make_instance(
        "flow", InstanceStatus.FAILED, input="1", output="2", custom_status="3", at=NOW + timedelta(hours=1)
    )

    full = queries.state(USING, "flow")
    assert full is not None
    assert (full.input, full.output, full.custom_status) == ("1", "2", "3")
    assert (full.status, full.failure) == (OrchestrationStatus.FAILED, factories.FAILURE)
    assert full.created_at == full.last_updated_at == NOW + timedelta(hours=1)

    light = queries.state(USING, "flow", payloads=False)
    assert light is not None
    assert (light.input, light.output, light.custom_status) == (None, None, "3")
    assert light.failure == factories.FAILURE


def test_the_missing_have_no_state() -> None:
    assert queries.state(USING, "nobody") is None


def test_a_state_may_be_asked_for_in_some_statuses_only() -> None:
    factories.make_instance("flow", InstanceStatus.RUNNING)

    found = queries.state(USING, "flow", statuses={OrchestrationStatus.RUNNING, OrchestrationStatus.FAILED})

    assert found is not None
    assert found.status is OrchestrationStatus.RUNNING
    assert queries.state(USING, "flow", statuses={OrchestrationStatus.COMPLETED}) is None
    assert queries.state(USING, "flow", statuses=()) is None


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
def test_states_come_oldest_first_whatever_the_page(page_size: int) -> None:
    for number in (3, 1, 2, 0):
        factories.make_instance(f"i{number}", at=NOW + timedelta(hours=number // 2))  # two share each time

    found = [row.instance_id for row in queries.states(USING, page_size=page_size)]

    assert found == ["i1", "i0", "i3", "i2"]


def test_states_are_filtered_by_creation_and_status() -> None:
    for hour in range(4):
        at = NOW + timedelta(hours=hour)
        factories.make_instance(f"r{hour}", at=at)
        factories.make_instance(f"c{hour}", InstanceStatus.COMPLETED, at=at)

    found = queries.states(
        USING,
        created_from=NOW + timedelta(hours=1),
        created_to=NOW + timedelta(hours=3),
        statuses=[OrchestrationStatus.COMPLETED],
    )

    assert [row.instance_id for row in found] == ["c1", "c2"]


class TestHistory:
    def test_every_turn_stands_in_brackets(self) -> None:
        instance = factories.make_instance()
        factories.add_history(
            instance,
            events.TimerCreatedEvent(1, NOW, NOW + timedelta(hours=1)),
            events.TimerCreatedEvent(2, NOW, NOW + timedelta(hours=2)),
        )

        found = queries.history(USING, "flow")

        assert [type(event) for event in found] == [
            events.OrchestratorStartedEvent,
            events.ExecutionStartedEvent,
            events.OrchestratorCompletedEvent,
            events.OrchestratorStartedEvent,
            events.TimerCreatedEvent,
            events.TimerCreatedEvent,
            events.OrchestratorCompletedEvent,
        ]
        assert {event.timestamp for event in found} == {NOW}

    def test_an_earlier_execution_can_be_asked_for(self) -> None:
        instance = factories.make_instance()
        old = instance.execution_id
        Instance.objects.update(execution_id="later", next_sequence=0)
        assert queries.history(USING, "flow") == []
        assert len(queries.history(USING, "flow", old)) == 3
        assert queries.history(USING, "flow", "never") == []

    def test_the_missing_cannot_be_found(self) -> None:
        with pytest.raises(OrchestrationNotFoundError, match="'nobody'"):
            queries.history(USING, "nobody")


class TestFinishedIds:
    def test_pages_follow_each_other_in_order_of_completion(self) -> None:
        for number in (4, 2, 3, 0, 1):  # of those that ended at one moment, the first inserted is first
            factories.make_instance(
                f"i{number}",
                InstanceStatus.COMPLETED,
                completed_at=clock.aware(NOW + timedelta(hours=number // 2)),
            )
        factories.make_instance("running")

        found: list[list[str]] = []
        token = None
        while True:
            page, token = queries.finished_ids(USING, page_size=2, continuation_token=token)
            found.append(page)
            if token is None:
                break

        assert found == [["i0", "i1"], ["i2", "i3"], ["i4"]]

    def test_a_full_last_page_has_no_token(self) -> None:
        factories.make_instance("flow", InstanceStatus.COMPLETED)
        assert queries.finished_ids(USING, page_size=1) == (["flow"], None)

    def test_they_are_filtered_by_completion_and_status(self) -> None:
        for hour in range(4):
            at = NOW + timedelta(hours=hour)
            factories.make_instance(f"c{hour}", InstanceStatus.COMPLETED, at=at)
            factories.make_instance(f"f{hour}", InstanceStatus.FAILED, at=at)
            factories.make_instance(f"r{hour}", at=at)
        page, _ = queries.finished_ids(
            USING,
            completed_from=NOW + timedelta(hours=1),
            completed_to=NOW + timedelta(hours=3),
            statuses=[OrchestrationStatus.FAILED, OrchestrationStatus.RUNNING],
        )
        assert page == ["f1", "f2"]

    @pytest.mark.parametrize("token", ["", "x", "%%%", "é", "MjAyNg==", "bm8gbnVtYmVy", "MSAxIDE="])
    def test_a_token_of_somebody_elses_is_refused(self, token: str) -> None:
        with pytest.raises(ValueError, match="continuation_token"):
            queries.finished_ids(USING, continuation_token=token)
