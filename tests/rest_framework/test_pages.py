"""Cursors of lists: times in one form, and whatever else is in one leads nowhere."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from django.http import QueryDict
from rest_framework.test import APIClient

from durable_django.rest_framework import cursors
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

LIST = "/durable/instances/"


@pytest.fixture(params=[True, False], ids=["aware", "naive"])
def zones(request: pytest.FixtureRequest, settings: Any) -> None:
    """Be in a zone that is not UTC, with time zones in the ORM and without."""
    settings.USE_TZ, settings.TIME_ZONE = request.param, "America/Los_Angeles"


def test_a_cursor_has_its_time_in_utc(api: APIClient, zones: None) -> None:
    for number in range(3):
        factories.make_instance(f"i{number}", at=NOW + timedelta(hours=number))
    following = api.get(f"{LIST}?page_size=1").json()["next"]
    _ordering, moment, _key = cursors.read(QueryDict(following.partition("?")[2])["cursor"])
    assert moment == "2026-01-02T05:04:05Z"
    assert [one["instance_id"] for one in api.get(following).json()["results"]] == ["i1"]


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-02T03:04:05",
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-01-02",
        "",
        "x",
        None,
        1,
        [],
        {"a": 1},
    ],
)
def test_another_time_leads_nowhere(api: APIClient, zones: None, moment: Any) -> None:
    factories.make_instance("i")
    for ordering in ("-created_at", "created_at", "completed_at"):
        cursor = cursors.write(ordering, moment, 1)
        response = api.get(LIST, {"cursor": cursor, "ordering": ordering})
        assert (response.status_code, response.json()["errors"][0]["field"]) == (404, "cursor")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_a_time_at_the_edge_leads_somewhere_or_nowhere(api: APIClient, zones: None, moment: str) -> None:
    factories.make_instance("i")
    cursor = cursors.write("-created_at", moment, 1)
    assert api.get(LIST, {"cursor": cursor}).status_code in (200, 404)


@pytest.mark.parametrize("parts", [{"a": 1, "b": 2, "c": 3}, "abc", 1, None, [["-created_at"]], [1, 2, 3, 4]])
def test_what_has_no_parts_leads_nowhere(api: APIClient, parts: Any) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()
    assert api.get(LIST, {"cursor": cursor}).status_code == 404
