"""Workers over HTTP: what they serve and do, and the marks that drain them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from rest_framework.test import APIClient

from durable_django.models import Worker
from durable_django.store import clock
from tests import factories

pytestmark = pytest.mark.django_db

LOAD = {
    "activities_running": 2,
    "activities_waiting": 1,
    "threads": 16,
    "async_slots": 0,
    "instances": 3,
    "entities": 1,
    "turns_per_minute": 40,
}


def test_a_worker_tells_what_it_serves_and_how_much_it_does(api: APIClient) -> None:
    versioning = {"version": "2", "match": "strict", "others": "reject"}
    names = {"orchestrations": {"flow": ["2"]}, "activities": {}, "entities": []}
    factories.make_worker("w", versioning=versioning, names=names, load=LOAD)
    found = api.get("/durable/workers/w/").json()
    assert (found["versioning"], found["names"], found["load"]) == (versioning, names, LOAD)
    assert (found["identity"], found["state"], found["is_alive"]) == ("w", "alive", True)
    assert found["draining_since"] is found["drained_at"] is None
    assert api.get("/durable/stats/").json()["workers"] == [found]


def test_a_worker_of_an_earlier_release_tells_less(api: APIClient) -> None:
    factories.make_worker("w")
    found = api.get("/durable/workers/w/").json()
    assert found["versioning"] is found["names"] is found["load"] is None


def test_the_list_has_pages_and_says_how_each_is(api: APIClient) -> None:
    since = clock.aware(clock.now() - timedelta(minutes=1))
    factories.make_worker("a")
    factories.make_worker("b", draining_since=since)
    factories.make_worker("c", draining_since=since, drained_at=since)
    factories.make_worker("d", silent=1000, draining_since=since)
    first = api.get("/durable/workers/?page_size=3").json()
    second = api.get(first["next"]).json()
    assert [(one["identity"], one["state"]) for one in first["results"] + second["results"]] == [
        ("a", "alive"),
        ("b", "draining"),
        ("c", "drained"),
        ("d", "silent"),
    ]
    assert second["next"] is None
    assert second["results"][0]["is_alive"] is False


def test_a_worker_is_drained_and_works_again(api: APIClient) -> None:
    worker = factories.make_worker("w")
    response = api.post("/durable/workers/w/drain/", {"reason": "the host goes"}, format="json")
    assert (response.status_code, response.json()["state"]) == (200, "draining")
    marked = Worker.objects.get().draining_since
    assert marked is not None
    again = api.post("/durable/workers/w/drain/", {}, format="json")
    assert (again.status_code, Worker.objects.get().draining_since) == (200, marked)

    response = api.post("/durable/workers/w/undrain/", {}, format="json")
    assert (response.status_code, response.json()["state"]) == (200, "alive")
    assert Worker.objects.get().draining_since is None

    entries = LogEntry.objects.order_by("pk").values_list("object_id", "object_repr", "change_message")
    assert list(entries)[::2] == [
        (str(worker.pk), "w", "Drained: the host goes"),
        (str(worker.pk), "w", "Undrained"),
    ]


def test_a_drained_mark_is_taken_back_whole(api: APIClient) -> None:
    since = clock.aware(clock.now())
    factories.make_worker("w", draining_since=since, drained_at=since)
    found = api.post("/durable/workers/w/undrain/", {}, format="json").json()
    assert (found["state"], found["drained_at"]) == ("alive", None)
    assert api.post("/durable/workers/w/drain/", {}, format="json").json()["state"] == "draining"


@pytest.mark.parametrize("identity", ["nobody", "W", "%00", "x" * 300, "%F0%9F%8D%B0"])
@pytest.mark.parametrize(("method", "action"), [("get", ""), ("post", "drain/"), ("post", "undrain/")])
def test_there_is_no_such_worker(api: APIClient, identity: str, method: str, action: str) -> None:
    factories.make_worker("w2")
    response = getattr(api, method)(f"/durable/workers/{identity}/{action}", format="json")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"
    assert "There is no worker" in response.json()["detail"]
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("body", "field"), [({"reason": 7}, "reason"), ({"reason": "x" * 1001}, "reason"), ({"when": 1}, "when")]
)
def test_what_is_wrong_with_a_body_is_said(api: APIClient, body: Any, field: str) -> None:
    factories.make_worker("w")
    response = api.post("/durable/workers/w/drain/", body, format="json")
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == field
    assert Worker.objects.get().draining_since is None


@pytest.mark.parametrize("query", ["state=alive", "page_size=0", "ordering=pk2"])
def test_query_parameters_that_nobody_reads_are_refused(api: APIClient, query: str) -> None:
    assert api.get(f"/durable/workers/?{query}").status_code == 400


@pytest.mark.parametrize("action", ["drain", "undrain"])
def test_a_mark_is_posted(api: APIClient, action: str) -> None:
    factories.make_worker("w")
    assert api.get(f"/durable/workers/w/{action}/").status_code == 405
