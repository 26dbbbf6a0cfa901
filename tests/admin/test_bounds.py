"""What the pages take, from whom, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from durable_django.admin.forms import JSONText
from durable_django.client import DurableTaskError
from durable_django.models import Entity, Instance, InstanceStatus, Worker
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db


def url(page: str, *args: Any) -> str:
    return reverse(f"admin:durable_django_{page}", args=args)


def make_entity() -> Entity:
    return Entity.objects.create(name="a", key="1", state="1", last_modified_at=clock.aware(NOW))


@pytest.mark.parametrize("page", ["instance_changelist", "entity_changelist"])
@pytest.mark.parametrize("term", ["x" * 60_000, "a=" + "x" * 60_000, "@a@" + "x" * 60_000])
def test_what_is_too_long_finds_nothing(root: Client, page: str, term: str) -> None:
    factories.make_instance("x", subject_type="a.b", subject_id="x")
    make_entity()
    response: Any = root.get(url(page), {"q": term})
    assert response.status_code == 200
    assert len(response.context["cl"].result_list) == 0


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", "1e400", '{"a": 1, "a": 2}', "[" * 102 + "]" * 102, "[" * 100_000],
)
def test_json_is_what_the_api_takes_for_it(root: Client, text: str) -> None:
    instance = factories.make_instance("i")
    response = root.post(url("instance_event", instance.pk), {"name": "go", "data": text})
    assert response.status_code == 200
    assert "This is no JSON" in response.content.decode()
    assert JSONText().clean('{"a": [1.5, null]}') == {"a": [1.5, None]}


class TestMany:
    @pytest.mark.parametrize("chosen", ["one", "none"])
    def test_nothing_is_done_to_more_than_the_selected(self, root: Client, chosen: str) -> None:
        instances = [factories.make_instance(f"i{number}") for number in range(3)]
        workers = [factories.make_worker(f"w{number}") for number in range(3)]
        for page, action, rows in (
            ("instance_changelist", "suspend_selected", instances),
            ("worker_changelist", "drain_selected", workers),
        ):
            body: dict[str, Any] = {"action": action, "select_across": "1", "confirmed": "1", "reason": ""}
            selected = [row.pk for row in rows[: chosen == "one"]]
            for more in ({}, {"index": "0"}):
                root.post(url(page), body | more | {"_selected_action": selected})
        expected = 1 if chosen == "one" else 0
        assert Instance.objects.filter(status=InstanceStatus.SUSPENDED).count() == expected
        assert Worker.objects.filter(draining_since__isnull=False).count() == expected

    def test_of_many_refusals_some_are_told(self, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise DurableTaskError("it has ended")

        monkeypatch.setattr("durable_django.admin.acting.act", refuse)
        chosen = [factories.make_instance(f"i{number:02}").pk for number in range(23)]
        body = {"action": "suspend_selected", "confirmed": "1", "reason": "", "_selected_action": chosen}
        told = [
            str(message) for message in get_messages(root.post(url("instance_changelist"), body).wsgi_request)
        ]
        assert told[:2] == ["i00: it has ended", "i01: it has ended"]
        assert told[19:] == ["i19: it has ended", "And 3 more.", "Suspend: 0 done."]

    def test_whoever_acts_is_asked_for_once(self, root: Client) -> None:
        chosen = [factories.make_instance(f"i{number}").pk for number in range(5)]
        body = {"action": "suspend_selected", "confirmed": "1", "reason": "", "_selected_action": chosen}
        with CaptureQueriesContext(connection) as queries:
            root.post(url("instance_changelist"), body)
        table = connection.ops.quote_name("auth_user")
        assert LogEntry.objects.count() == 5
        assert len([one for one in queries if f"FROM {table}" in one["sql"]]) == 2  # One is the session's.


@pytest.mark.parametrize(
    ("permission", "view", "page"),
    [
        ("signal_entity", "view_entity", "entity_signal"),
        ("delete_entity", "view_entity", "entity_clear"),
        ("drain_worker", "view_worker", "worker_drain"),
        ("drain_worker", "view_worker", "worker_undrain"),
        ("start_orchestration", "view_instance", "instance_start"),
        ("start_orchestration", "view_instance", "instance_start_one"),
        ("raise_event", "view_instance", "instance_event"),
        ("terminate", "view_instance", "instance_act"),
    ],
)
def test_a_page_takes_the_permission_to_view_as_well(
    staff: Callable[..., Client], permission: str, view: str, page: str
) -> None:
    keys: dict[str, tuple[Any, ...]] = {
        "entity": (make_entity().pk,),
        "worker": (factories.make_worker("w").pk,),
        "instance": (factories.make_instance("i").pk,),
    }
    arguments = keys[page.partition("_")[0]]
    special: dict[str, tuple[Any, ...]] = {
        "instance_start": (),
        "instance_start_one": ("approve_order",),
        "instance_act": (*arguments, "terminate"),
    }
    address = url(page, *special.get(page, arguments))
    without, both = staff(permission), staff(permission, view)
    assert without.get(address).status_code == without.post(address, {"reason": ""}).status_code == 403
    assert not LogEntry.objects.exists()
    assert both.get(address).status_code == 200
