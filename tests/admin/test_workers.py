"""Workers in the admin: what they serve and do, and the marks that drain them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from durable_django.admin import words
from durable_django.models import Worker
from durable_django.store import clock
from tests import factories

pytestmark = pytest.mark.django_db

INDEX = reverse("admin:app_list", args=["durable_django"])
LIST = reverse("admin:durable_django_worker_changelist")
LOAD = {
    "activities_running": 2,
    "activities_waiting": 5,
    "threads": 10,
    "async_slots": 6,
    "instances": 31,
    "entities": 1,
    "turns_per_minute": 480,
}


def url(page: str, worker: Worker) -> str:
    return reverse(f"admin:durable_django_worker_{page}", args=[worker.pk])


def text(response: Any) -> str:
    return str(response.content.decode())


def is_marked(worker: Worker) -> bool:
    return Worker.objects.get(pk=worker.pk).draining_since is not None


def make_four() -> None:
    now = clock.aware(clock.now())
    factories.make_worker("works")
    factories.make_worker("stops", draining_since=now)
    factories.make_worker("has-stopped", draining_since=now, drained_at=now)
    factories.make_worker("is-dead", silent=1000, draining_since=now)


@pytest.mark.parametrize("place", [LIST, INDEX])
def test_each_is_shown_as_what_it_is(root: Client, place: str) -> None:
    make_four()
    shown = text(root.get(place))
    for state in ("alive", "draining", "drained", "silent"):
        assert shown.count(f">{state}</span>") == 1


@pytest.mark.parametrize("place", [LIST, INDEX])
def test_lists_show_the_load(root: Client, place: str) -> None:
    factories.make_worker("w", load=LOAD)
    assert "activities: 2 of 16, waiting: 5, turns per minute: 480" in text(root.get(place))


def test_the_list_takes_no_statement_for_each(root: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        factories.make_worker(f"w{number}", load=LOAD)
    with django_assert_max_num_queries(8):
        assert "w29" in text(root.get(LIST))


def test_a_page_shows_what_is_served_and_done(root: Client) -> None:
    worker = factories.make_worker(
        "w",
        load=LOAD,
        versioning={"version": "2.1", "match": "current_or_older", "others": "fail"},
        names={"orchestrations": {"old": [], "flow": ["2.0", "2.1"]}, "activities": {}, "entities": ["a"]},
    )
    shown = text(root.get(url("change", worker)))
    for part in (
        "flow (2.0, 2.1), old",
        "up to 2.1; others fail",
        "orchestrations in memory: 31",
        "entities at work: 1",
        ">alive</span>",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("versioning", "expected"),
    [
        (None, "all"),
        ({"version": None, "match": "none", "others": "reject"}, "all"),
        ({"version": "2", "match": "none", "others": "reject"}, "all; its own is 2"),
        ({"version": "2", "match": "strict", "others": "reject"}, "2"),
        ({"version": None, "match": "strict", "others": "reject"}, "(none)"),
        ({"version": "2", "match": "current_or_older", "others": "reject"}, "up to 2"),
        ({"version": "2", "match": "strict", "others": "fail"}, "2; others fail"),
    ],
)
def test_versions_in_words(versioning: Any, expected: str) -> None:
    assert words.versions(Worker(versioning=versioning)) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, "all"), ({}, "none"), ([], "none"), (["a", "b"], "a, b"), ({"a": ["1", "2"]}, "a (1, 2)")],
)
def test_names_in_words(names: Any, expected: str) -> None:
    assert words.served(names) == expected


def test_a_worker_of_an_earlier_release_can_be_looked_at(root: Client) -> None:
    worker = factories.make_worker("w", queues=None)
    assert words.load(worker) is None
    assert root.get(url("change", worker)).status_code == root.get(LIST).status_code == 200


class TestMarks:
    def test_a_worker_is_drained_and_works_again(self, root: Client) -> None:
        worker = factories.make_worker("w")
        for page, other, marked, trail in (
            ("drain", "undrain", True, "Drained: the host goes"),
            ("undrain", "drain", False, "Undrained: the host goes"),
        ):
            shown = text(root.get(url("change", worker)))
            assert f'"{url(page, worker)}"' in shown
            assert f'"{url(other, worker)}"' not in shown
            assert root.get(url(page, worker)).status_code == 200
            assert is_marked(worker) is not marked
            response: Any = root.post(url(page, worker), {"reason": "the host goes"})
            assert (response.status_code, response["Location"]) == (302, url("change", worker))
            assert is_marked(worker) is marked
            assert LogEntry.objects.latest("pk").change_message == trail

    def test_a_reason_that_is_too_long_changes_nothing(self, root: Client) -> None:
        worker = factories.make_worker("w")
        assert root.post(url("drain", worker), {"reason": "x" * 1001}).status_code == 200
        assert not is_marked(worker)

    def test_one_that_leaves_meanwhile_is_said_to_be_gone(
        self, root: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = factories.make_worker("w")
        monkeypatch.setattr("durable_django.admin.workers.workers.mark", lambda *_, **__: False)
        assert "It is gone." in text(root.post(url("drain", worker), {"reason": ""}))
        assert not LogEntry.objects.exists()

    def test_there_is_nothing_to_do_to_nobody(self, root: Client) -> None:
        worker = factories.make_worker("w")
        worker.pk += 1
        assert root.get(url("drain", worker)).status_code == 404

    def test_the_selected_are_confirmed_first(self, root: Client) -> None:
        chosen = [factories.make_worker(name) for name in ("a", "b")]
        spared = factories.make_worker("c")
        body = {"_selected_action": [worker.pk for worker in chosen]}
        for action, marked in (("drain_selected", True), ("undrain_selected", False)):
            asked = text(root.post(LIST, body | {"action": action}))
            assert "a (here, 1)" in asked
            assert "c (here, 1)" not in asked
            assert is_marked(chosen[0]) is not marked
            root.post(LIST, body | {"action": action, "confirmed": "1", "reason": "both"})
            assert [is_marked(worker) for worker in (*chosen, spared)] == [marked, marked, False]
        assert LogEntry.objects.filter(change_message__endswith="both").count() == 4

    def test_it_takes_its_permission(self, staff: Callable[..., Client]) -> None:
        worker = factories.make_worker("w")
        onlooker = staff("view_worker")
        assert url("drain", worker) not in text(onlooker.get(url("change", worker)))
        assert "drain_selected" not in text(onlooker.get(LIST))
        for page in ("drain", "undrain"):
            assert onlooker.get(url(page, worker)).status_code == 403
            assert onlooker.post(url(page, worker)).status_code == 403
        chosen = {"action": "drain_selected", "confirmed": "1", "reason": "", "_selected_action": [worker.pk]}
        onlooker.post(LIST, chosen)
        assert not is_marked(worker)
        assert staff("view_worker", "drain_worker").post(url("drain", worker)).status_code == 302
        assert is_marked(worker)
