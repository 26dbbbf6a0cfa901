"""Who may do what: nobody unknown, nobody without the permission, nobody with another tenant's things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db.models import QuerySet
from rest_framework.permissions import BasePermission
from rest_framework.test import APIClient

from durable_django import task
from durable_django.entities import EntityInstanceId
from durable_django.models import Entity, Instance, InstanceStatus
from durable_django.rest_framework.scoping import Scope
from durable_django.store import clock
from tests import factories

pytestmark = pytest.mark.django_db

INSTANCE = "/durable/instances/i/"
ENTITY = "/durable/entities/account/7/"
WORKER = "/durable/workers/w/"
ENDPOINTS: list[tuple[str, str, str | None, Any]] = [
    ("get", "/durable/orchestrations/", "view_instance", None),
    ("post", "/durable/orchestrations/plain/", "start_orchestration", {}),
    ("get", "/durable/instances/", "view_instance", None),
    ("get", INSTANCE, "view_instance", None),
    ("get", f"{INSTANCE}status/", "view_instance", None),
    ("get", f"{INSTANCE}history/", "view_instance", None),
    ("get", f"{INSTANCE}pending/", "view_instance", None),
    ("get", f"{INSTANCE}children/", "view_instance", None),
    ("get", f"{INSTANCE}stream/?wait=0", "view_instance", None),
    ("post", f"{INSTANCE}events/go/", "raise_event", {}),
    ("post", f"{INSTANCE}terminate/", "terminate", {}),
    ("post", f"{INSTANCE}suspend/", "suspend", {}),
    ("post", f"{INSTANCE}resume/", "suspend", {}),
    ("post", f"{INSTANCE}rewind/", "rewind", {}),
    ("post", f"{INSTANCE}restart/", "restart", {}),
    ("delete", INSTANCE, "purge", None),
    ("post", "/durable/instances/bulk/", "terminate", {"action": "terminate", "ids": ["i"]}),
    ("post", "/durable/instances/bulk/", "purge", {"action": "purge", "ids": ["i"]}),
    ("get", "/durable/entities/", "view_entity", None),
    ("get", ENTITY, "view_entity", None),
    ("post", f"{ENTITY}signal/add/", "signal_entity", {}),
    ("delete", ENTITY, "delete_entity", None),
    ("get", "/durable/workers/", "view_worker", None),
    ("get", WORKER, "view_worker", None),
    ("post", f"{WORKER}drain/", "drain_worker", {}),
    ("post", f"{WORKER}undrain/", "drain_worker", {}),
    ("get", "/durable/stats/", "view_instance", None),
    ("get", "/durable/health/", None, None),
    ("get", "/durable/schema/", None, None),
]
OF_ONE_TENANT = [entry for entry in ENDPOINTS if INSTANCE in entry[1] or ENTITY in entry[1]]


def plain(ctx: task.OrchestrationContext, _: Any) -> None:
    return None


@pytest.fixture(autouse=True)
def something(registered: Callable[..., None], db: None) -> None:
    registered(plain)
    factories.make_instance("i", tags={"tenant": "one"})
    Entity.objects.create(name="account", key="7", state="1", last_modified_at=clock.aware(factories.NOW))
    factories.make_worker("w")


def ask(client: APIClient, method: str, url: str, body: Any) -> Any:
    return getattr(client, method)(url, body, format="json")


def names(entries: list[Any]) -> list[str]:
    return [f"{method} {url} {permission}" for method, url, permission, _ in entries]


@pytest.mark.parametrize(("method", "url", "permission", "body"), ENDPOINTS, ids=names(ENDPOINTS))
def test_nobody_unknown_is_let_in(method: str, url: str, permission: str | None, body: Any) -> None:
    response = ask(APIClient(), method, url, body)
    assert response.status_code in (401, 403)
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "url", "permission", "body"), ENDPOINTS, ids=names(ENDPOINTS))
def test_one_permission_is_asked_for(
    as_user: Callable[..., APIClient], method: str, url: str, permission: str | None, body: Any
) -> None:
    everything = {permission for _, _, permission, _ in ENDPOINTS if permission}
    others = as_user(*(everything - {permission}), name="others")
    own = as_user(*filter(None, [permission]), name="own")
    expected = 403 if permission else (200, 503)
    assert ask(others, method, url, body).status_code in ([expected] if permission else expected)  # type: ignore[operator]
    assert ask(own, method, url, body).status_code in (200, 202, 204, 409, 503)


class TenantScope(Scope):
    """Tells tenants apart by the user's name."""

    def instances(self, queryset: QuerySet[Instance]) -> QuerySet[Instance]:
        # A tag for the real thing; a name that every database compares alike for the test.
        return queryset.filter(instance_id__startswith=self.tenant)

    def entities(self, queryset: QuerySet[Entity]) -> QuerySet[Entity]:
        return queryset.filter(key__startswith=self.tenant)

    def may_signal(self, entity_id: EntityInstanceId) -> bool:
        return entity_id.key.startswith(self.tenant)

    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "instance_id": f"{self.tenant}-new", "tags": {"tenant": self.tenant}}

    @property
    def tenant(self) -> str:
        return str(self.request.user.username)


class TestTenants:
    @pytest.fixture(autouse=True)
    def tenants(self, settings: Any) -> None:
        settings.DURABLE_DJANGO = {"REST_SCOPE": f"{__name__}.{TenantScope.__name__}"}

    @pytest.fixture
    def two(self, as_user: Callable[..., APIClient]) -> APIClient:
        everything = {permission for _, _, permission, _ in ENDPOINTS if permission}
        return as_user(*everything, name="two")

    @pytest.mark.parametrize(("method", "url", "permission", "body"), OF_ONE_TENANT, ids=names(OF_ONE_TENANT))
    def test_what_is_anothers_does_not_exist(
        self, two: APIClient, method: str, url: str, permission: str | None, body: Any
    ) -> None:
        assert ask(two, method, url, body).status_code == 404
        assert Instance.objects.get().status == InstanceStatus.RUNNING
        assert Entity.objects.count() == 1

    def test_lists_bulk_and_figures_have_only_ones_own(self, two: APIClient) -> None:
        factories.make_instance("two-1")
        at = clock.aware(factories.NOW)
        Entity.objects.create(name="account", key="two", state="1", last_modified_at=at)
        listed = two.get("/durable/instances/").json()["results"]
        assert [one["instance_id"] for one in listed] == ["two-1"]
        assert [one["key"] for one in two.get("/durable/entities/").json()["results"]] == ["two"]
        assert two.get("/durable/stats/").json()["instances"] == [
            {"name": "flow", "status": "RUNNING", "count": 1}
        ]
        body = {"action": "terminate", "filters": {"name": "flow"}}
        assert two.post("/durable/instances/bulk/", body, format="json").json()["done"] == 1
        body = {"action": "terminate", "ids": ["i"]}
        result = two.post("/durable/instances/bulk/", body, format="json").json()
        assert result["skipped"] == [{"instance_id": "i", "detail": "There is no such instance."}]
        assert Instance.objects.get(instance_id="i").status == InstanceStatus.RUNNING

    def test_a_start_is_marked_as_ones_own(self, two: APIClient) -> None:
        response = two.post("/durable/orchestrations/plain/", {"tags": {"tenant": "i"}}, format="json")
        assert response.json()["instance_id"] == "two-new"
        assert Instance.objects.get(instance_id="two-new").tags == {"tenant": "two"}

    def test_anothers_instance_is_never_replaced(self, two: APIClient, settings: Any) -> None:
        settings.DURABLE_DJANGO = {"REST_SCOPE": f"{__name__}.{OtherwiseOpen.__name__}"}
        for status in InstanceStatus:
            Instance.objects.update(status=status)
            body = {"instance_id": "i", "reuse_id_policy": [one.name for one in InstanceStatus]}
            response = two.post("/durable/orchestrations/plain/", body, format="json")
            assert response.status_code == 409
            assert Instance.objects.get().status == status


class OtherwiseOpen(TenantScope):
    """Starts what is asked for, under whatever id."""

    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        return options


class Everybody(BasePermission):
    """Lets everybody in."""


def test_a_projects_own_permissions_decide_in_bulk_too(settings: Any) -> None:
    settings.DURABLE_DJANGO = {"REST_PERMISSION": f"{__name__}.{Everybody.__name__}"}
    body = {"action": "terminate", "ids": ["i"]}
    assert APIClient().post("/durable/instances/bulk/", body, format="json").json()["done"] == 1


class Nobody(BasePermission):
    """Lets nobody in."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return False


def test_a_project_may_have_permissions_of_its_own(api: APIClient, settings: Any) -> None:
    settings.DURABLE_DJANGO = {"REST_PERMISSION": f"{__name__}.{Nobody.__name__}"}
    assert {ask(api, method, url, body).status_code for method, url, _, body in ENDPOINTS} == {403}
