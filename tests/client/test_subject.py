"""Orchestrations about an object of the project."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group, User
from django.db import transaction

from durable_django.client import (
    AsyncDurableTaskClient,
    DurableTaskClient,
    OrchestrationIdReusePolicy,
    OrchestrationQuery,
    OrchestrationStatus,
)
from durable_django.models import Instance, InstanceStatus
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> DurableTaskClient:
    return DurableTaskClient()


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


def subject_of(instance_id: str) -> Any:
    return Instance.objects.get(instance_id=instance_id).subject


def test_an_instance_knows_its_subject(client: DurableTaskClient, ada: User) -> None:
    started = client.schedule_new_orchestration("flow", subject=ada)
    other = client.schedule_new_orchestration("flow")

    assert subject_of(started) == ada
    assert subject_of(other) is None
    assert Instance.objects.get(instance_id=started).subject_id == str(ada.pk)


def test_all_of_many_have_it(client: DurableTaskClient, ada: User) -> None:
    ids = client.schedule_new_orchestrations("flow", [1, 2, 3], subject=ada)
    assert [subject_of(instance_id) for instance_id in ids] == [ada] * 3


def test_it_is_there_for_async_code_as_well(ada: User) -> None:
    started = async_to_sync(AsyncDurableTaskClient().schedule_new_orchestration)("flow", subject=ada)
    assert subject_of(started) == ada


def test_instances_are_found_by_it(client: DurableTaskClient, ada: User) -> None:
    bob = User.objects.create_user("bob")
    group = Group.objects.create(pk=ada.pk, name="of the same key")
    started = {name: client.schedule_new_orchestration("flow", subject=one) for name, one in
               [("ada", ada), ("bob", bob), ("group", group)]}  # fmt: skip
    client.schedule_new_orchestration("flow")

    for name, one in [("ada", ada), ("bob", bob), ("group", group)]:
        states = client.get_all_orchestration_states(OrchestrationQuery(subject=one))
        assert [state.instance_id for state in states] == [started[name]]


@pytest.mark.parametrize("new_id", [True, False])
def test_a_restart_keeps_it(client: DurableTaskClient, ada: User, new_id: bool) -> None:
    factories.make_instance(
        "done", InstanceStatus.COMPLETED, subject_type="auth.user", subject_id=str(ada.pk)
    )
    again = client.restart_orchestration("done", restart_with_new_instance_id=new_id)
    assert subject_of(again) == ada


def test_who_takes_an_id_over_has_its_own(client: DurableTaskClient, ada: User) -> None:
    factories.make_instance(
        "done", InstanceStatus.COMPLETED, subject_type="auth.user", subject_id=str(ada.pk)
    )
    policy = OrchestrationIdReusePolicy(replaceable_status={OrchestrationStatus.COMPLETED})
    client.schedule_new_orchestration("flow", instance_id="done", reuse_id_policy=policy)
    assert subject_of("done") is None


@pytest.mark.parametrize(
    ("subject", "error", "words"),
    [
        ("auth.user:1", TypeError, "subject must be a model instance, such as an order, not str"),
        (User, TypeError, "not ModelBase"),
        (User(username="new"), ValueError, "subject is a auth.User that is not saved"),
        (User(pk=7), ValueError, "Save it first"),
    ],
)
def test_what_is_no_subject_is_refused(
    client: DurableTaskClient, subject: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.schedule_new_orchestration("flow", subject=subject)
    with pytest.raises(error, match=words):
        client.schedule_new_orchestrations("flow", [1], subject=subject)
    with pytest.raises(error, match=words):
        client.get_all_orchestration_states(OrchestrationQuery(subject=subject))
    assert not Instance.objects.exists()


def test_it_may_go(client: DurableTaskClient, ada: User) -> None:
    started = client.schedule_new_orchestration("flow", subject=ada)
    ada.delete()
    assert subject_of(started) is None
    assert Instance.objects.get(instance_id=started).subject_id is not None


def test_it_is_committed_with_its_workflow(client: DurableTaskClient) -> None:
    with transaction.atomic():
        client.schedule_new_orchestration("flow", subject=User.objects.create_user("ada"))
        transaction.set_rollback(True)
    assert User.objects.count() == Instance.objects.count() == 0


@pytest.mark.parametrize("subject_type", ["gone.thing", "nothing", "auth.user"])
def test_a_model_or_a_key_that_is_none_is_nobody(subject_type: str) -> None:
    factories.make_instance("odd", subject_type=subject_type, subject_id="no number")
    assert subject_of("odd") is None


def test_a_proxy_is_its_model(client: DurableTaskClient, ada: User) -> None:
    class Proxy(User):
        class Meta:
            app_label = "auth"
            proxy = True

    started = client.schedule_new_orchestration("flow", subject=Proxy.objects.get(pk=ada.pk))
    assert Instance.objects.get(instance_id=started).subject_type == "auth.user"
