"""Events, and what operators do, to one instance and to many."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from rest_framework.test import APIClient

from durable_django.models import HistoryEvent, Instance, InstanceStatus, Message
from tests import factories

pytestmark = pytest.mark.django_db

ROOT = "/durable/instances/"
LIVE = [InstanceStatus.PENDING, InstanceStatus.RUNNING, InstanceStatus.SUSPENDED]
ENDED = [InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED]
ALLOWED = {
    "terminate": LIVE,
    "suspend": [InstanceStatus.PENDING, InstanceStatus.RUNNING],
    "resume": [InstanceStatus.SUSPENDED],
    "rewind": [InstanceStatus.FAILED],
    "restart": ENDED,
}
AFTER = {
    "terminate": InstanceStatus.TERMINATED,
    "suspend": InstanceStatus.SUSPENDED,
    "rewind": InstanceStatus.RUNNING,
    "restart": InstanceStatus.PENDING,
}


def make(instance_id: str, status: InstanceStatus) -> Instance:
    """Make an instance in a status; a failed one has failed as a worker leaves it."""
    if status != InstanceStatus.FAILED:
        return factories.make_instance(instance_id, status)
    instance = factories.make_instance(instance_id)
    factories.fail(instance, [], 1)
    return instance


def status_of(instance_id: str) -> InstanceStatus:
    return InstanceStatus(Instance.objects.get(instance_id=instance_id).status)


@pytest.mark.parametrize("status", [*LIVE, *ENDED])
@pytest.mark.parametrize("action", ALLOWED)
def test_an_action_is_done_or_conflicts_with_the_status(
    api: APIClient, action: str, status: InstanceStatus
) -> None:
    make("i", status)
    response = api.post(f"{ROOT}i/{action}/", {"reason": "because"}, format="json")
    if status in ALLOWED[action]:
        assert response.status_code == 200, response.content
        assert response.json()["instance_id"] == "i"
        assert status_of("i") == AFTER.get(action, status_of("i"))
        assert "because" in LogEntry.objects.get().change_message
    else:
        assert response.status_code == 409
        assert status.name in response.json()["detail"]
        assert status_of("i") == status
        assert not LogEntry.objects.exists()


@pytest.mark.parametrize("action", [*ALLOWED, "events/go"])
def test_the_missing_are_not_found(api: APIClient, action: str) -> None:
    assert api.post(f"{ROOT}nobody/{action}/", {}, format="json").status_code == 404


def test_terminate_takes_an_output_and_spares_children_if_told_to(api: APIClient) -> None:
    parent = factories.make_instance("parent")
    factories.make_child(parent, "child", 1)
    body = {"output": {"by": "me"}, "recursive": False}
    assert api.post(f"{ROOT}parent/terminate/", body, format="json").json()["status"] == "TERMINATED"
    assert Instance.objects.get(instance_id="parent").output == '{"by": "me"}'
    assert status_of("child") == InstanceStatus.RUNNING


def test_a_restart_under_a_new_id(api: APIClient) -> None:
    factories.make_instance("i", InstanceStatus.COMPLETED)
    response = api.post(f"{ROOT}i/restart/", {"new_instance_id": True}, format="json")
    assert status_of(response.json()["instance_id"]) == InstanceStatus.PENDING
    assert status_of("i") == InstanceStatus.COMPLETED


def test_an_event_is_put_into_the_inbox(api: APIClient) -> None:
    factories.make_instance("i")
    assert api.post(f"{ROOT}i/events/go/", {"data": [1]}, format="json").status_code == 202
    message = Message.objects.get()
    assert (message.name, message.data) == ("go", "[1]")


def test_what_has_ended_takes_no_event(api: APIClient) -> None:
    factories.make_instance("i", InstanceStatus.COMPLETED)
    assert api.post(f"{ROOT}i/events/go/", {}, format="json").status_code == 409


@pytest.mark.parametrize("event", ["%01", "x" * 256])
def test_an_event_has_a_name_that_can_be_stored(api: APIClient, event: str) -> None:
    factories.make_instance("i")
    response = api.post(f"{ROOT}i/events/{event}/", {}, format="json")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "event")


def test_what_has_ended_is_purged_with_its_children(api: APIClient) -> None:
    parent = factories.make_instance("parent", InstanceStatus.COMPLETED)
    factories.make_child(parent, "child", 1, InstanceStatus.FAILED)
    response = api.delete(f"{ROOT}parent/?reason=old")
    assert response.json() == {"deleted_instance_count": 2}
    assert not HistoryEvent.objects.exists()
    entry = LogEntry.objects.get()
    assert (entry.object_repr, entry.is_deletion()) == ("parent", True)
    assert "old" in entry.change_message
    assert api.delete(f"{ROOT}parent/").status_code == 404


def test_what_lives_is_not_purged(api: APIClient) -> None:
    factories.make_instance("i")
    assert api.delete(f"{ROOT}i/").status_code == 409
    assert Instance.objects.exists()


class TestBulk:
    def post(self, api: APIClient, **body: Any) -> Any:
        return api.post(f"{ROOT}bulk/", body, format="json")

    def test_ids_that_cannot_be_acted_upon_are_named(self, api: APIClient) -> None:
        make("running", InstanceStatus.RUNNING)
        make("done", InstanceStatus.COMPLETED)

        result = self.post(api, action="terminate", ids=["running", "done", "nobody"], reason="why").json()

        assert (result["matched"], result["done"], result["is_complete"]) == (1, 1, True)
        assert [one["instance_id"] for one in result["skipped"]] == ["done", "nobody"]
        assert status_of("running") == InstanceStatus.TERMINATED
        assert "why" in LogEntry.objects.get().change_message

    @pytest.mark.parametrize("action", [*ALLOWED, "purge"])
    def test_filters_choose_and_the_status_decides(self, api: APIClient, action: str) -> None:
        for status in (*LIVE, *ENDED):
            make(f"mine-{status.name}", status)
            make(f"other-{status.name}", status)

        result = self.post(api, action=action, filters={"id_prefix": "mine-"}).json()

        allowed = ALLOWED.get(action, ENDED)
        assert (result["matched"], result["done"], result["skipped"]) == (len(allowed), len(allowed), [])
        for status in (*LIVE, *ENDED):
            assert status_of(f"other-{status.name}") == status

    def test_a_dry_run_counts_and_does_nothing(self, api: APIClient) -> None:
        for number in range(3):
            make(f"i{number}", InstanceStatus.RUNNING)
        result = self.post(api, action="terminate", filters={"status": ["RUNNING"]}, dry_run=True).json()
        assert (result["matched"], result["done"]) == (3, 0)
        assert status_of("i0") == InstanceStatus.RUNNING

    def test_a_limit_cuts_and_the_next_call_goes_on(self, api: APIClient) -> None:
        for number in range(5):
            make(f"i{number}", InstanceStatus.RUNNING)
        body = {"action": "terminate", "filters": {"name": "flow"}, "limit": 3}
        first, second = self.post(api, **body).json(), self.post(api, **body).json()
        assert (first["done"], first["is_complete"]) == (3, False)
        assert (second["done"], second["is_complete"]) == (2, True)

    def test_a_page_is_no_bound(self, api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("durable_django.rest_framework.views.control._PAGE", 2)
        for number in range(5):
            make(f"i{number}", InstanceStatus.RUNNING)
        assert self.post(api, action="suspend", filters={"name": "flow"}).json()["done"] == 5

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"action": "terminate"}, "ids"),
            ({"action": "terminate", "ids": ["a"], "filters": {"name": "x"}}, "ids"),
            ({"action": "terminate", "filters": {}}, "filters"),
            ({"action": "terminate", "filters": {"nmae": "x"}}, "filters.nmae"),
            ({"action": "terminate", "filters": {"status": ["ODD"]}}, "filters.status"),
            ({"action": "terminate", "filters": {"name": 1}}, "filters.name"),
            ({"action": "terminate", "filters": {"cursor": "x"}}, "filters.cursor"),
            ({"action": "terminate", "filters": {"name": ""}}, "filters.name"),
            ({"action": "terminate", "filters": {"created_after": ""}}, "filters.created_after"),
            ({"action": "terminate", "filters": {"created_after": "2030-01-31"}}, "filters.created_after"),
            ({"action": "burn", "ids": ["a"]}, "action"),
            ({"action": "purge", "ids": [1]}, "ids.0"),
            ({"action": "purge", "ids": ["a"], "limit": 0}, "limit"),
        ],
    )
    def test_bad_input_is_named(self, api: APIClient, body: dict[str, Any], field: str) -> None:
        response = self.post(api, **body)
        assert response.status_code == 400
        assert [error["field"] for error in response.json()["errors"]] == [field]
