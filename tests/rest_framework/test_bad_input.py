"""Bad input is refused with 4xx and its name, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from durable_django import task
from durable_django.models import Instance
from tests import factories

pytestmark = pytest.mark.django_db

START = "/durable/orchestrations/plain/"
LIST = "/durable/instances/"
JSON = "application/json"


def plain(ctx: task.OrchestrationContext, _: Any) -> None:
    return None


@pytest.fixture(autouse=True)
def plain_is_registered(registered: Callable[..., None]) -> None:
    registered(plain)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"input": NaN}',
        b'{"input": 1, "input": 2}',
        b"[" * 100_000,
        b'{"input": ' + b"[" * 101 + b"]" * 101 + b"}",
        b"1" * 5000,
        b"{} {}",
        b"\t",
    ],
)
def test_what_is_no_json_is_refused(api: APIClient, body: bytes) -> None:
    response = api.post(START, body, content_type=JSON)
    assert response.status_code == 400, response.content
    assert response["Content-Type"] == "application/problem+json"
    assert not Instance.objects.exists()


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_a_body_is_an_object(api: APIClient, body: bytes) -> None:
    assert api.post(START, body, content_type=JSON).status_code == 400


def test_a_form_is_no_json(api: APIClient) -> None:
    assert api.post(START, {"input": "1"}, format="multipart").status_code == 415


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instance_id", 1),
        ("instance_id", ""),
        ("instance_id", "@x"),
        ("instance_id", "a\x00b"),
        ("instance_id", "a\nb"),
        ("instance_id", "x" * 256),
        ("instance_id", None),
        ("start_at", "2030-01-31T12:00:00"),
        ("start_at", "2030-02-31T12:00:00Z"),
        ("start_at", "0001-01-01T00:00:00+12:00"),
        ("start_at", "tomorrow"),
        ("start_at", 5),
        ("version", 2),
        ("queue", ["a"]),
        ("priority", "1"),
        ("priority", True),
        ("priority", 1.5),
        ("priority", 10**6),
        ("tags", []),
        ("tags", "x"),
        ("tags", {"a": 1}),
        ("tags", {"a": "\x00"}),
        ("tags", {"\x00": "a"}),
        ("reuse_id_policy", "COMPLETED"),
        ("reuse_id_policy", ["ODD"]),
        ("reuse_id_policy", [1]),
        ("inptu", 1),
    ],
)
def test_what_is_wrong_is_named(api: APIClient, field: str, value: Any) -> None:
    response = api.post(START, {field: value}, format="json")
    assert response.status_code == 400, response.content
    errors = response.json()["errors"]
    assert {error["field"].partition(".")[0] for error in errors} == {field}
    assert all(error["detail"] for error in errors)
    assert not Instance.objects.exists()


@pytest.mark.parametrize("value", ["a\x00b", {"a": ["\x00"]}, {"\x00": 1}])
def test_a_payload_that_no_database_holds_is_refused(api: APIClient, value: Any) -> None:
    response = api.post(START, {"input": value}, format="json")
    assert response.status_code == 400
    assert "NUL" in response.json()["detail"]


def test_a_large_body_and_a_large_payload_are_too_large(api: APIClient, settings: Any) -> None:
    settings.DURABLE_DJANGO = {"REST_MAX_BODY_BYTES": 1000, "MAX_PAYLOAD_BYTES": 100}
    for size in (10_000, 500):
        response = api.post(START, {"input": "x" * size}, format="json")
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert api.post(START, {"input": "x" * 50}, format="json").status_code == 202


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("statsu=FAILED", "statsu"),
        ("status=failed", "status"),
        ("status=", "status"),
        ("created_after=2026-01-02", "created_after"),
        ("created_after=2026-01-02T00:00:00", "created_after"),
        ("completed_before=x", "completed_before"),
        ("name=%00", "name"),
        ("tag.a=%00", "tag.a"),
        ("tag.=x", "tag."),
        ("ordering=input", "ordering"),
        ("page_size=0", "page_size"),
        ("page_size=1001", "page_size"),
        ("page_size=x", "page_size"),
        ("page_size=%D9%A3", "page_size"),
        ("payloads=yes", "payloads"),
        ("cursor=x", "cursor"),
        ("cursor=%ff", "cursor"),
        ("cursor=WzFd", "cursor"),
        ("cursor=W10", "cursor"),
        ("cursor=" + "W1tb" * 50, "cursor"),
    ],
)
def test_a_query_that_is_wrong_is_named(api: APIClient, query: str, field: str) -> None:
    factories.make_instance("i")
    response = api.get(f"{LIST}?{query}")
    # A cursor that leads nowhere is a page that is not there.
    assert response.status_code == (404 if field == "cursor" else 400), response.content
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_cursor_belongs_to_one_order(api: APIClient) -> None:
    for number in range(3):
        factories.make_instance(f"i{number}")
    following = api.get(f"{LIST}?page_size=1").json()["next"]
    assert api.get(f"{following}&ordering=created_at").status_code == 404


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("history/?after=x", "after"),
        ("history/?after=-2", "after"),
        ("history/?after=99999999999", "after"),
        ("history/?execution_id=%00", "execution_id"),
        ("history/?page=2", "page"),
        ("status/?payloads=1", "payloads"),
        ("stream/?after=x", "after"),
        ("pending/?x=1", "x"),
    ],
)
def test_other_queries_are_checked_too(api: APIClient, url: str, field: str) -> None:
    factories.make_instance("i")
    response = api.get(f"{LIST}i/{url}")
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize("path", ["nowhere/", "entities/a%0Ab/", "instances/a%0Ab/events/x/"])
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_where_nothing_is_is_not_found(api: APIClient, method: str, path: str) -> None:
    response = getattr(api, method)(f"/durable/{path}", format="json")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"


def test_a_slash_that_is_missing_is_added(api: APIClient) -> None:
    assert api.get("/durable/instances")["Location"] == "/durable/instances/"


def test_other_methods_are_not_allowed(api: APIClient) -> None:
    response = api.put(LIST, {}, format="json")
    assert (response.status_code, response.json()["status"]) == (405, 405)
