"""Bulk actions that go on, and how much of an instance an answer shows to whom."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from rest_framework.test import APIClient

from durable_django import task
from durable_django.client import DurableTaskClient
from durable_django.models import Instance, InstanceStatus
from durable_django.rest_framework import cursors
from durable_django.rest_framework.scoping import Scope
from durable_django.store import families
from tests import factories

pytestmark = pytest.mark.django_db

ROOT = "/durable/instances/"
START = "/durable/orchestrations/plain/"


class Upwards(Scope):
    """Starts everything under an id that no URL leads to."""

    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "instance_id": f"../{options['instance_id']}"}


def plain(ctx: task.OrchestrationContext, _: Any) -> None:
    return None


@pytest.fixture(autouse=True)
def plain_is_registered(registered: Callable[..., None]) -> None:
    registered(plain)


def post(api: APIClient, **body: Any) -> Any:
    return api.post(f"{ROOT}bulk/", body, format="json")


def end_all() -> None:
    """Do what workers do to instances that fail again at once."""
    for instance in Instance.objects.exclude(status=InstanceStatus.FAILED):
        factories.fail(instance, [], 1)


class TestBulkThatGoesOn:
    def follow(self, api: APIClient, meanwhile: Callable[[], None], **body: Any) -> list[dict[str, Any]]:
        """Repeat a bulk action with its cursor until it is complete, and return all results."""
        results = [post(api, **body).json()]
        while not results[-1]["is_complete"]:
            assert len(results) < 10
            meanwhile()
            results.append(post(api, **body, cursor=results[-1]["next"]).json())
        assert results[-1]["next"] is None
        return results

    @pytest.mark.parametrize("action", ["restart", "rewind"])
    @pytest.mark.parametrize("by", ["filters", "ids"])
    def test_it_ends_though_instances_end_again(self, api: APIClient, action: str, by: str) -> None:
        names = [f"i{number}" for number in range(5)]
        for name in names:
            factories.make_instance(name)
        end_all()
        chosen: dict[str, Any] = {"ids": names} if by == "ids" else {"filters": {"status": ["FAILED"]}}

        results = self.follow(api, end_all, action=action, limit=2, **chosen)

        assert [one["done"] for one in results] == [2, 2, 1]
        assert [one["skipped"] for one in results] == [[], [], []]
        done = LogEntry.objects.order_by("pk").values_list("object_repr", flat=True)
        assert list(done) == names

    def test_it_leaves_what_has_come_meanwhile(self, api: APIClient) -> None:
        def one_more() -> None:
            factories.make_instance(f"new{Instance.objects.count()}")

        for number in range(4):
            factories.make_instance(f"i{number}")
        body = {"action": "suspend", "filters": {"name": "flow"}, "limit": 1}
        assert [one["done"] for one in self.follow(api, one_more, **body)] == [1, 1, 1, 1]

    def test_what_cannot_be_acted_upon_is_told_once(self, api: APIClient) -> None:
        for number in range(4):
            status = InstanceStatus.COMPLETED if number % 2 else InstanceStatus.RUNNING
            factories.make_instance(f"i{number}", status)
        ids = ["nobody", "i3", "i2", "i1", "i0"]
        results = self.follow(api, lambda: None, action="terminate", ids=ids, limit=1)
        skipped = [[skipped["instance_id"] for skipped in one["skipped"]] for one in results]
        assert skipped == [["nobody"], ["i3", "i1"]]

    def test_a_count_goes_on_too(self, api: APIClient) -> None:
        for number in range(3):
            factories.make_instance(f"i{number}")
        body: dict[str, Any] = {"action": "suspend", "filters": {"status": ["RUNNING", "SUSPENDED"]}}
        first = post(api, **body, limit=1).json()
        counted = post(api, **body, cursor=first["next"], dry_run=True).json()
        assert (counted["matched"], counted["next"]) == (2, None)

    @pytest.mark.parametrize(
        "cursor",
        [
            "",
            "x",
            "ä",
            None,
            1,
            [],
            "WzFd",
            cursors.write(1),
            cursors.write(1, -1),
            cursors.write(1, 2**63),
            cursors.write(1, True),
            cursors.write(1, "2"),
            cursors.write(1, 2, 3),
            cursors.write("-created_at", "2026-01-01T00:00:00Z", 1),
            base64.urlsafe_b64encode(json.dumps({"a": 1, "b": 2}).encode()).decode(),
        ],
    )
    def test_a_cursor_is_one_of_its_own(self, api: APIClient, cursor: Any) -> None:
        factories.make_instance("i")
        response = post(api, action="terminate", ids=["i"], cursor=cursor)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (
            400 if cursor is None else 404,
            "cursor",
        )
        assert Instance.objects.get().status == InstanceStatus.RUNNING


class TestAnswers:
    @pytest.mark.parametrize(
        ("action", "permission", "status"),
        [
            ("terminate", "terminate", InstanceStatus.RUNNING),
            ("suspend", "suspend", InstanceStatus.RUNNING),
            ("resume", "suspend", InstanceStatus.SUSPENDED),
        ],
    )
    def test_an_instance_is_shown_to_those_who_may_view_it(
        self, as_user: Callable[..., APIClient], action: str, permission: str, status: InstanceStatus
    ) -> None:
        for name, permissions in (("a", [permission]), ("b", [permission, "view_instance"])):
            factories.make_instance(name, status, tags={"secret": "x"}, custom_status='"secret"')
            found = as_user(*permissions, name=name).post(f"{ROOT}{name}/{action}/", {}, format="json").json()
            shown = {"instance_id": name, "status": found["status"]}
            assert (found == shown) == (name == "a")
            assert ("tags" in found) == (name == "b")

    def test_so_is_the_end_of_one_that_has_been_started(
        self, as_user: Callable[..., APIClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wait(_: Any, instance_id: str, **__: Any) -> None:
            done = Instance.objects.filter(instance_id=instance_id)
            done.update(status=InstanceStatus.COMPLETED, output="42")

        monkeypatch.setattr(DurableTaskClient, "wait_for_orchestration_completion", wait)
        for name, permissions in (("a", []), ("b", ["view_instance"])):
            client = as_user("start_orchestration", *permissions, name=name)
            response = client.post(f"{START}?wait=1", {"instance_id": name}, format="json")
            assert response.status_code == 200
            if name == "a":
                assert response.json() == {"instance_id": "a", "status": "COMPLETED"}
            else:
                assert response.json()["output"] == 42


class TestIds:
    @pytest.mark.parametrize(
        "instance_id",
        [".", "..", "a/..", "../a", "a/../b", "./a", "a/.", "a/./b", "bulk", "a/history", "a/events/go"],
    )
    def test_one_whose_urls_lead_elsewhere_is_refused(self, api: APIClient, instance_id: str) -> None:
        response = api.post(START, {"instance_id": instance_id}, format="json")
        (error,) = response.json()["errors"]
        assert (response.status_code, error["field"]) == (400, "instance_id")
        assert "would lead elsewhere" in error["detail"]
        assert not Instance.objects.exists()

    @pytest.mark.parametrize(
        "instance_id", ["a.b", "...", "..a/b", "bulk/a", "a/bulk", "history", "events/go"]
    )
    def test_another_is_where_the_answer_says(self, api: APIClient, instance_id: str) -> None:
        found = api.post(START, {"instance_id": instance_id}, format="json").json()
        for part in ("status_url", "instance_url"):
            assert api.get(found[part]).json()["instance_id"] == instance_id

    def test_one_that_a_scope_has_made_is_checked_too(self, api: APIClient, settings: Any) -> None:
        settings.DURABLE_DJANGO = {"REST_SCOPE": f"{__name__}.Upwards"}
        response = api.post(START, {"instance_id": "a"}, format="json")
        assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "instance_id")

    def test_the_next_page_of_children_is_theirs_whatever_their_parent_is_called(
        self, api: APIClient
    ) -> None:
        parent = factories.make_instance("a/../b")
        for number in range(3):
            factories.make_child(parent, f"c{number}", number)
        first = api.get(f"{ROOT}a/../b/children/?page_size=2").json()
        assert first["next"].startswith(f"http://testserver{ROOT}a/../b/children/?")
        assert [one["instance_id"] for one in api.get(first["next"]).json()["results"]] == ["c2"]


def test_who_takes_an_id_meanwhile_is_not_replaced_without_permission(
    as_user: Callable[..., APIClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_all, calls = families.lock_all, []
    before = factories.make_instance("i", InstanceStatus.COMPLETED)

    def nobody_at_first(*arguments: Any) -> list[Instance]:
        calls.append(arguments)
        return lock_all(*arguments) if len(calls) > 1 else []

    monkeypatch.setattr(families, "lock_all", nobody_at_first)
    body = {"instance_id": "i", "reuse_id_policy": ["COMPLETED"]}
    response = as_user("start_orchestration").post(START, body, format="json")
    assert response.status_code == 409
    assert Instance.objects.get().pk == before.pk
