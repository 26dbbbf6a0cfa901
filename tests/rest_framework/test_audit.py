"""The audit trail: whoever makes a change is named, and nobody breaks it or forges it."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.permissions import BasePermission
from rest_framework.test import APIClient

from durable_django.models import Entity, Instance, InstanceStatus
from durable_django.store import clock
from durable_django.store.audit import Author, leave_trail
from tests import factories
from tests.factories import NOW
from tests.rest_framework.conftest import logged_in

pytestmark = pytest.mark.django_db

ROOT = "/durable/instances/"


class Everybody(BasePermission):
    """Lets everybody in."""


class Token:
    """Stands for a user of another service."""

    is_authenticated = True
    is_active = True

    def __init__(self, **fields: Any) -> None:
        self.__dict__ |= fields

    def __str__(self) -> str:
        return "the billing service"


def gone() -> User:
    """Return a user who has been deleted since they were read."""
    user = User.objects.create_user("gone")
    User.objects.filter(pk=user.pk).delete()
    return user


@pytest.mark.parametrize(
    "make",
    [
        Token,
        lambda: Token(pk=None),
        lambda: Token(pk=1),
        lambda: Token(pk=uuid4()),
        lambda: User(username="unsaved"),
        lambda: User(pk=2**40),
        lambda: User(pk="x"),
        gone,
        AnonymousUser,
    ],
)
def test_whoever_django_does_not_know_is_in_the_log_alone(
    make: Any, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DURABLE_DJANGO = {"REST_PERMISSION": f"{__name__}.{Everybody.__name__}"}
    factories.make_instance("i")
    Entity.objects.create(name="a", key="1", state="1", last_modified_at=clock.aware(NOW))
    user = make()
    client = logged_in(user)
    with caplog.at_level(logging.INFO, logger="durable_django.audit"):
        for method, url in (
            ("post", f"{ROOT}i/suspend/"),
            ("post", f"{ROOT}i/events/go/"),
            ("post", f"{ROOT}i/terminate/"),
            ("delete", f"{ROOT}i/"),
            ("post", "/durable/entities/a/1/signal/add/"),
            ("delete", "/durable/entities/a/1/"),
        ):
            assert getattr(client, method)(url, {}, format="json").status_code < 300
    assert len(caplog.messages) == 6
    assert all(message.startswith(Author.of(user).name) for message in caplog.messages)
    assert not LogEntry.objects.exists()


def test_who_django_knows_is_asked_for_once(api: APIClient) -> None:
    for number in range(5):
        factories.make_instance(f"i{number}")
    body = {"action": "terminate", "filters": {"name": "flow"}}
    table = connection.ops.quote_name("auth_user")
    with CaptureQueriesContext(connection) as queries:
        assert api.post(f"{ROOT}bulk/", body, format="json").json()["done"] == 5
    assert len([one for one in queries if f"FROM {table}" in one["sql"]]) == 1
    assert LogEntry.objects.count() == 5


@pytest.mark.parametrize("reason", ["a\nb", "a\rb", "a\x1b[2Kb", "a\x00b", "a\n", "a\x85b"])
def test_a_reason_is_one_line(api: APIClient, reason: str) -> None:
    factories.make_instance("i", InstanceStatus.COMPLETED)
    for response in (
        api.post(f"{ROOT}i/restart/", {"reason": reason}, format="json"),
        api.post(f"{ROOT}bulk/", {"action": "restart", "ids": ["i"], "reason": reason}, format="json"),
        api.delete(f"{ROOT}i/", QUERY_STRING="reason=" + "".join(f"%{byte:02x}" for byte in reason.encode())),
    ):
        assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "reason")
    assert Instance.objects.get().status == InstanceStatus.COMPLETED


@pytest.mark.parametrize("end", ["\n", "\r", "\x1b[1A", "\u2028", "\x85", "\u202e"])
def test_the_log_has_one_line_for_one_change(end: str, caplog: pytest.LogCaptureFixture) -> None:
    author = Author(f"Mallory{end}root", None)
    with caplog.at_level(logging.INFO, logger="durable_django.audit"):
        leave_trail(author, Instance, "purged", [(1, f"a{end}b")], f"old{end}root has purged c")
    (message,) = caplog.messages
    assert message.isprintable()
    assert message.startswith("Mallory\\")


def test_the_log_keeps_what_people_write(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="durable_django.audit"):
        leave_trail(Author("Jörg", None), Instance, "purged", [(1, "ä 🦆")], "zu alt: 100 %s")
    assert caplog.messages == ["Jörg has purged ä 🦆: zu alt: 100 %s"]
