"""Entities over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from rest_framework.test import APIClient

from durable_django.models import Entity, EntityOperation, Instance
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

ROOT = "/durable/entities/"


def make_entity(name: str, key: str, state: str | None = "1", holder: Instance | None = None) -> Entity:
    return Entity.objects.create(
        name=name, key=key, state=state, lock_instance=holder, last_modified_at=clock.aware(NOW)
    )


@pytest.fixture
def accounts() -> None:
    make_entity("account", "7", '{"balance": 1}')
    make_entity("account", "8", holder=factories.make_instance("holder"))
    make_entity("counter", "a/b")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["7", "8", "a/b"]),
        ("name=account", ["7", "8"]),
        ("name=Account", ["7", "8"]),
        ("key_prefix=a", ["a/b"]),
        ("locked=true", ["8"]),
        ("locked=false", ["7", "a/b"]),
        ("modified_before=2026-01-02T00:00:00Z", []),
        ("modified_after=2026-01-02T00:00:00Z&name=counter", ["a/b"]),
    ],
)
def test_entities_are_listed_and_filtered(
    api: APIClient, accounts: None, query: str, expected: list[str]
) -> None:
    found = api.get(f"{ROOT}?{query}").json()["results"]
    assert [one["key"] for one in found] == expected
    assert not any("state" in one for one in found)


def test_pages_follow_each_other(api: APIClient, accounts: None) -> None:
    seen: list[str] = []
    url: Any = f"{ROOT}?page_size=1&payloads=true"
    while url is not None:
        page = api.get(url).json()
        seen += [one["key"] for one in page["results"]]
        url = page["next"]
    assert seen == ["7", "8", "a/b"]


def test_an_entity_shows_its_state_and_its_holder(api: APIClient, accounts: None) -> None:
    assert api.get(f"{ROOT}account/7/").json() == {
        "name": "account",
        "key": "7",
        "locked_by": None,
        "last_modified_at": "2026-01-02T03:04:05Z",
        "state": {"balance": 1},
    }
    assert api.get(f"{ROOT}Account/8/").json()["locked_by"] == "holder"
    assert api.get(f"{ROOT}counter/a/b/").json()["state"] == 1


@pytest.mark.parametrize("path", ["account/9/", "nobody/7/", "a%00/7/", "account/%00/"])
def test_the_missing_are_not_found(api: APIClient, accounts: None, path: str) -> None:
    assert api.get(f"{ROOT}{path}").status_code == 404
    assert api.delete(f"{ROOT}{path}").status_code == 404


def test_a_signal_waits_for_its_entity(api: APIClient) -> None:
    body = {"input": 5, "signal_at": "2030-01-31T12:00:00Z"}
    assert api.post(f"{ROOT}Account/x/y/signal/add/", body, format="json").status_code == 202
    operation = EntityOperation.objects.get()
    assert (operation.name, operation.key, operation.operation) == ("account", "x/y", "add")
    assert operation.input == "5"
    assert operation.visible_at.isoformat() == "2030-01-31T12:00:00+00:00"
    assert "@account@x/y" in LogEntry.objects.get().object_repr


@pytest.mark.parametrize("path", ["a%00/7/signal/add/", "account/%00/signal/add/", "account/7/signal/%00/"])
def test_a_signal_that_no_database_holds_is_refused(api: APIClient, path: str) -> None:
    assert api.post(f"{ROOT}{path}", {}, format="json").status_code == 400


def test_an_entity_is_deleted_unless_it_is_locked(api: APIClient, accounts: None) -> None:
    assert api.delete(f"{ROOT}account/7/?reason=gone").status_code == 204
    assert api.delete(f"{ROOT}account/8/").status_code == 409
    assert sorted(Entity.objects.values_list("key", flat=True)) == ["8", "a/b"]
    assert "gone" in LogEntry.objects.get().change_message


def test_an_operation_without_control_characters_is_asked_for(api: APIClient) -> None:
    response = api.post(f"{ROOT}account/7/signal/T%C2%87/", {}, format="json")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "operation")


def test_one_with_neither_a_state_nor_a_lock_is_none(api: APIClient, accounts: None) -> None:
    make_entity("account", "9", state=None)
    make_entity("account", "10", state=None, holder=Instance.objects.get())
    listed = [one["key"] for one in api.get(f"{ROOT}?name=account").json()["results"]]
    assert listed == ["7", "8", "10"]
    assert api.get(f"{ROOT}account/9/").status_code == 404
    assert api.delete(f"{ROOT}account/9/").status_code == 404
    assert api.get(f"{ROOT}account/10/").json()["locked_by"] == "holder"
