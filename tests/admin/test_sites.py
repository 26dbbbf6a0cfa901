"""Several admin sites in one project: none leads to another, or breaks where models are missing."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from durable_django.models import Entity, Instance, InstanceStatus, Worker
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.admin.sites")]


@pytest.fixture
def group() -> Group:
    """A group with more instances than its inline shows, one of which holds an entity."""
    found = Group.objects.create(name="Accounting")
    about: dict[str, Any] = {"subject_type": "auth.group", "subject_id": str(found.pk)}
    for number in range(11):
        factories.make_instance(f"flow-{number}", **about)
    latest = factories.make_instance("flow-11", **about)
    factories.make_child(latest, "child", 0)
    Entity.objects.create(
        name="e", key="k", state="1", last_modified_at=clock.aware(NOW), lock_instance=latest
    )
    factories.make_worker("worker")
    return found


def test_pages_lead_to_pages_of_their_own_site(root: Client, group: Group) -> None:
    instance, entity = Instance.objects.get(instance_id="flow-11"), Entity.objects.get()
    for page in (
        "",
        "instance/",
        f"instance/{instance.pk}/change/",
        f"instance/{instance.pk}/event/",
        f"instance/{instance.pk}/act/terminate/",
        "instance/start/",
        "entity/",
        f"entity/{entity.pk}/change/",
        f"entity/{entity.pk}/signal/",
        "worker/",
        f"../auth/group/{group.pk}/change/",
    ):
        response = root.get(f"/operations/durable_django/{page}".replace("durable_django/../", ""))
        assert response.status_code == 200, page
        assert 'href="/operations/durable_django/' in response.content.decode()
        assert 'href="/admin/' not in response.content.decode()


def test_actions_lead_back_to_their_own_site(root: Client, group: Group) -> None:
    running, entity = Instance.objects.get(instance_id="flow-11"), Entity.objects.get()
    ended = factories.make_instance("ended", InstanceStatus.COMPLETED)
    Entity.objects.update(lock_instance=None)
    for page, body in (
        (f"instance/{running.pk}/event/", {"name": "approval"}),
        (f"instance/{running.pk}/act/suspend/", {}),
        (f"instance/{ended.pk}/act/restart/", {"new_instance_id": "on"}),
        (f"instance/{ended.pk}/act/purge/", {}),
        (f"entity/{entity.pk}/signal/", {"operation": "add"}),
        (f"entity/{entity.pk}/clear/", {}),
        (f"worker/{Worker.objects.get().pk}/drain/", {}),
    ):
        response = root.post(f"/operations/durable_django/{page}", body)
        assert response.status_code == 302, page
        assert response["Location"].startswith("/operations/durable_django/")


def test_a_site_with_some_of_the_models_links_to_those_alone(root: Client, group: Group) -> None:
    for page in (
        "some/durable_django/",
        "some/durable_django/entity/",
        f"some/durable_django/entity/{Entity.objects.get().pk}/change/",
        f"some/auth/group/{group.pk}/change/",
        "without-workers/durable_django/",
    ):
        response = root.get(f"/{page}")
        assert response.status_code == 200, page
        assert 'href="/admin/' not in response.content.decode()
