"""Figures, health, throttles, the schema and the browsable API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.core.cache import cache
from django.db import OperationalError
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings
from drf_spectacular.validation import validate_schema
from rest_framework.test import APIClient

from durable_django.models import InstanceStatus, Worker
from durable_django.rest_framework.schema import SETTINGS
from durable_django.rest_framework.views.base import ScopeThrottle
from durable_django.store import clock
from tests import factories

pytestmark = pytest.mark.django_db


def test_figures(api: APIClient) -> None:
    long_ago = clock.now() - timedelta(seconds=100)
    instance = factories.make_instance("a")
    factories.make_instance("b", InstanceStatus.FAILED)
    factories.make_instance("c", InstanceStatus.PENDING, at=long_ago)
    factories.make_instance("d", InstanceStatus.PENDING, at=clock.now() + timedelta(hours=1))
    factories.make_activity(instance, 1, visible_at=clock.aware(long_ago))
    factories.make_timer(instance, 2, long_ago)
    factories.make_timer(instance, 3, clock.now() + timedelta(hours=1))
    factories.make_worker("alive", 1)
    factories.make_worker("dead", 1000)

    found = api.get("/durable/stats/").json()

    assert found["instances"] == [
        {"name": "flow", "status": "RUNNING", "count": 1},
        {"name": "flow", "status": "FAILED", "count": 1},
        {"name": "flow", "status": "PENDING", "count": 2},
    ]
    for name in ("pending", "activities", "timers_due"):
        assert found[name]["count"] == 1
        assert found[name]["oldest_seconds"] == pytest.approx(100, abs=20)
    assert found["entity_operations"] == {"count": 0, "oldest_seconds": None}
    assert [(one["name"], one["is_alive"]) for one in found["workers"]] == [("dead", False), ("alive", True)]


def test_health_needs_a_worker_and_a_database(api: APIClient) -> None:
    factories.make_worker("dead", 1000)
    response = api.get("/durable/health/")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")

    factories.make_worker("alive", 1)
    response = api.get("/durable/health/")
    assert (response.status_code, response.json()["workers"]) == (200, 1)

    Worker.objects.filter(name="alive").update(draining_since=clock.aware(clock.now()))
    response = api.get("/durable/health/")
    assert (response.status_code, response.json()["workers"]) == (503, 0)
    assert response.json()["detail"] == "All workers are drained: nothing new is begun."

    with patch("durable_django.store.monitoring.workers", side_effect=OperationalError("gone")):
        response = api.get("/durable/health/")
    assert response.status_code == 503
    assert "database" in response.json()["detail"]


def test_health_tells_of_a_database_that_is_away_before_it_knows_who_asks() -> None:
    with patch(
        "rest_framework.authentication.SessionAuthentication.authenticate",
        side_effect=OperationalError("gone"),
    ):
        response: Any = APIClient().get("/durable/health/")
    assert (response.status_code, response.json()["code"]) == (503, "database_away")


def test_a_rate_throttles_its_scope_alone(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    factories.make_instance("i")
    monkeypatch.setattr(ScopeThrottle, "THROTTLE_RATES", {"durable-write": "1/min"})
    codes = [
        api.post(f"/durable/instances/i/{action}/", {}, format="json").status_code
        for action in ("suspend", "resume")
    ]
    assert codes == [200, 429]
    assert api.get("/durable/instances/").status_code == 200


def test_the_schema_has_no_warnings_and_is_valid() -> None:
    generator: Any = SchemaGenerator
    validate: Any = validate_schema
    GENERATOR_STATS.reset()
    with patched_settings(SETTINGS):
        schema = generator(urlconf="durable_django.rest_framework.urls").get_schema(request=None, public=True)
        validate(schema)
    assert not GENERATOR_STATS, (dict(GENERATOR_STATS._warn_cache), dict(GENERATOR_STATS._error_cache))
    assert schema["openapi"] == "3.1.0"
    operations = [one for path in schema["paths"].values() for one in path.values()]
    assert len(operations) == 27
    for operation in operations:
        assert operation["operationId"]
        assert {"401", "403"} <= operation["responses"].keys()
    assert schema["components"]["schemas"]["StartRequest"]["properties"]["input"]["description"]


def test_the_schema_is_served(api: APIClient) -> None:
    response = api.get("/durable/schema/?format=json")
    assert response.status_code == 200
    assert "/durable/instances/" in response.json()["paths"]


@pytest.mark.parametrize(
    "path",
    [
        "instances/?name=&status=FAILED&created_after=",
        "instances/",
        "instances/i/",
        "entities/",
        "orchestrations/",
        "orchestrations/x/",
        "stats/",
        "workers/",
        "workers/w/drain/",
    ],
)
def test_the_api_can_be_browsed(api: APIClient, path: str) -> None:
    factories.make_instance("i")
    factories.make_worker("w")
    response = api.get(f"/durable/{path}", HTTP_ACCEPT="text/html")
    assert response["Content-Type"].startswith("text/html")
    assert b"durable" in response.content.lower()


def test_an_error_can_be_browsed(api: APIClient) -> None:
    response: Any = api.get("/durable/instances/nobody/", HTTP_ACCEPT="text/html")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")
