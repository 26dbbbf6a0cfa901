from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext

from durable_django.core.ids import new_execution_id
from durable_django.models import ActivityTask, HistoryEvent, Instance, InstanceStatus, Message, Timer
from durable_django.store import clock, instances
from durable_django.store.instances import NewInstance
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db


def new(instance_id: str, **fields: object) -> NewInstance:
    defaults: dict[str, object] = {
        "instance_id": instance_id,
        "execution_id": new_execution_id(),
        "name": "flow",
        "queue": "default",
        "start_at": NOW,
    }
    return NewInstance(**(defaults | fields))  # type: ignore[arg-type]


def add(*wanted: NewInstance) -> dict[str, int]:
    with connection.cursor() as cursor:
        return instances.add(cursor, wanted, NOW)


def delete(keys: Sequence[int]) -> None:
    with connection.cursor() as cursor:
        instances.delete(cursor, keys)


def test_a_new_instance_is_pending_and_has_all_that_it_was_given() -> None:
    parent = factories.make_instance("parent")
    wanted = new(
        "child",
        version="1.0",
        priority=3,
        input='{"a": 1}',
        tags={"team": "blue"},
        start_at=NOW + timedelta(days=1),
        parent=parent.pk,
        parent_execution_id=parent.execution_id,
        parent_task_id=4,
    )

    added = add(wanted)

    found = Instance.objects.get(instance_id="child")
    assert added == {"child": found.pk}
    assert (found.execution_id, found.name, found.version, found.queue) == (
        wanted.execution_id,
        "flow",
        "1.0",
        "default",
    )
    assert (found.status, found.priority, found.input) == (InstanceStatus.PENDING, 3, '{"a": 1}')
    assert (found.tags, found.waiting_for) == ({"team": "blue"}, [])
    assert (found.parent, found.parent_execution_id, found.parent_task_id) == (parent, parent.execution_id, 4)
    assert clock.from_orm(found.start_at) == NOW + timedelta(days=1)
    assert clock.from_orm(found.created_at) == clock.from_orm(found.last_updated_at) == NOW
    assert (found.completed_at, found.next_sequence, found.turn, found.tries) == (None, 0, 0, 0)


def test_an_id_that_is_taken_is_left_alone_and_the_others_are_added() -> None:
    factories.make_instance("b", InstanceStatus.COMPLETED)

    added = add(new("c"), new("b"), new("a"))

    assert sorted(added) == ["a", "c"]
    assert Instance.objects.get(instance_id="b").status == InstanceStatus.COMPLETED
    assert Instance.objects.count() == 3


def test_the_first_of_two_with_one_id_is_added() -> None:
    first, second = new("a", name="first"), new("a", name="second")

    added = add(first, second)

    assert list(added) == ["a"]
    assert Instance.objects.get().name == "first"


def test_ids_are_taken_in_one_order_so_that_nobody_waits_in_a_circle() -> None:
    add(*(new(name) for name in ("c", "a", "d", "b")))
    assert list(Instance.objects.order_by("pk").values_list("instance_id", flat=True)) == list("abcd")


def test_more_than_one_statement_takes_are_added() -> None:
    added = add(*(new(f"i{number:04}") for number in range(instances.BATCH_ROWS * 2 + 1)))

    assert len(added) == Instance.objects.count() == instances.BATCH_ROWS * 2 + 1
    delete(list(added.values()))
    assert not Instance.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.database("postgresql")
def test_the_server_may_bind_the_parameters() -> None:
    other = connection.copy()
    other.settings_dict["OPTIONS"] = other.settings_dict["OPTIONS"] | {"server_side_binding": True}
    wanted = [new("b", tags={"a": "'"}, input='"\\""'), new("a", priority=-1), new("c", version="1")]
    try:
        with other.cursor() as cursor:
            assert sorted(instances.add(cursor, wanted, NOW)) == ["a", "b", "c"]
    finally:
        other.close()
    found = Instance.objects.order_by("instance_id").values_list("tags", "input", "priority", "version")
    assert list(found) == [(None, None, -1, None), ({"a": "'"}, '"\\""', 0, None), (None, None, 0, "1")]


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_too_long_is_refused_not_cut(count: int) -> None:
    with pytest.raises(DataError), transaction.atomic():
        add(*(new(f"{number}" * 256) for number in range(count)))
    with pytest.raises(DataError), transaction.atomic():
        add(*(new(f"i{number}", name="x" * 256) for number in range(count)))


def test_nothing_is_added_without_a_statement() -> None:
    with CaptureQueriesContext(connection) as queries:
        assert add() == {}
    assert len(queries) == 0


@pytest.mark.database("sqlite", "postgresql")
def test_adding_takes_one_statement() -> None:
    with CaptureQueriesContext(connection) as queries:
        add(new("a"), new("b"))
    assert len(queries) == 1


def test_deleting_takes_all_that_is_an_instances_own_and_nothing_else() -> None:
    for name in ("gone", "stays"):
        instance = factories.make_instance(name)
        factories.make_activity(instance, 1)
        factories.make_timer(instance, 2)
        factories.make_message(instance, name="event")

    delete([Instance.objects.get(instance_id="gone").pk])

    for model in (Instance, HistoryEvent, ActivityTask, Timer, Message):
        assert model.objects.count() == 1
    assert Instance.objects.get().instance_id == "stays"
