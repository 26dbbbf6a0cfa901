"""However much is sent or stored, the answer comes soon, is short, and says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.exceptions import ParseError
from rest_framework.test import APIClient

from durable_django.core import strict_json
from durable_django.models import Entity, InstanceStatus
from durable_django.store import clock
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

ROOT = "/durable/instances/"
BULK = f"{ROOT}bulk/"
MANY = 100_000


def post(api: APIClient, url: str, text: str) -> Any:
    return api.post(url, text, content_type="application/json")


class CountedText(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedText.compared += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


def test_a_name_that_is_there_twice_is_found_in_one_pass() -> None:
    names = [CountedText(f"n{number}") for number in range(1000)]
    CountedText.compared = 0
    with pytest.raises(ValueError, match="'n999' is there twice"):
        strict_json._as_object([(name, 1) for name in (*names, names[-1], CountedText("n999"))])
    assert CountedText.compared < 5000


@pytest.mark.timeout(20)
def test_a_name_that_is_there_twice_among_many_is_refused(api: APIClient) -> None:
    names = ",".join(f'"n{number}":1' for number in range(MANY))
    response = post(api, BULK, f'{{{names},"n7":1}}')
    assert (response.status_code, "'n7' is there twice" in response.json()["detail"]) == (400, True)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "NaN", "Infinity"])
def test_a_number_is_one_that_json_has(api: APIClient, text: str) -> None:
    assert post(api, BULK, f'{{"action": {text}}}').json()["code"] == ParseError.default_code


@pytest.mark.parametrize("place", ["body", "filters"])
def test_of_many_unknown_names_a_few_are_told(api: APIClient, place: str) -> None:
    unknown = {f"name{number}": "x" for number in range(MANY)}
    body = unknown if place == "body" else {"action": "purge", "filters": unknown}
    response = post(api, BULK, json.dumps(body))
    errors = response.json()["errors"]
    assert (response.status_code, len(errors), len(response.content) < 10_000) == (400, 11, True)
    prefix = "" if place == "body" else "filters."
    assert errors[0]["field"] == f"{prefix}name0"
    assert errors[-1]["detail"] == f"{MANY - 10} more names are not known."


def test_of_many_other_errors_a_hundred_are_told(api: APIClient) -> None:
    response = post(api, BULK, json.dumps({"action": "purge", "ids": [1] * 10_000}))
    errors = response.json()["errors"]
    assert (response.status_code, len(errors)) == (400, 101)
    assert errors[-1]["detail"] == "There are 9900 more errors."


@pytest.mark.parametrize("name", ["name", "id_prefix", "parent", "queue", "version", "subject"])
def test_a_filter_that_nothing_is_as_long_as_is_refused(api: APIClient, name: str) -> None:
    text = "x" * 50_001 if name != "subject" else f"a.b:{'x' * 50_001}"
    response = api.get(ROOT, {name: text})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, name)
    response = api.post(BULK, {"action": "purge", "filters": {name: text}}, format="json")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, f"filters.{name}")


@pytest.mark.parametrize("name", ["name", "key_prefix"])
def test_that_is_so_for_entities_too(api: APIClient, name: str) -> None:
    response = api.get("/durable/entities/", {name: "x" * 50_001})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, name)


def test_there_are_only_so_many_filters_of_tags(api: APIClient) -> None:
    tags = {f"tag.{number}": "x" for number in range(1200)}
    response = api.post(BULK, {"action": "purge", "filters": tags}, format="json")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "filters.tag.*")
    few = dict(list(tags.items())[:20])
    assert api.get(ROOT, few).status_code == 200


@pytest.mark.parametrize("url", [ROOT, f"{ROOT}i/children/", "/durable/entities/"])
def test_a_page_has_so_many_items_at_most(api: APIClient, url: str) -> None:
    factories.make_instance("i")
    for wanted, status in ((1000, 200), (1001, 400)):
        assert api.get(f"{url}?payloads=true&page_size={wanted}").status_code == status
        assert api.get(f"{url}?page_size={wanted}").status_code == status


@pytest.mark.parametrize("size", ["", "&page_size=101", "&page_size=1000"])
def test_a_page_with_payloads_is_shorter(api: APIClient, settings: Any, size: str) -> None:
    settings.DURABLE_DJANGO = {"REST_PAGE_SIZE": 500}
    for number in range(101):
        factories.make_instance(f"i{number}", InstanceStatus.PENDING)
    page = api.get(f"{ROOT}?payloads=true{size}").json()
    assert len(page["results"]) == 100
    assert len(api.get(page["next"]).json()["results"]) == 1
    assert len(api.get(f"{ROOT}?payloads=false{size}").json()["results"]) == 101


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("get", f"{ROOT}i/?payloads=false"),
        ("get", f"{ROOT}i/status/?payloads=false"),
        ("get", f"{ROOT}i/history/"),
        ("get", f"{ROOT}i/pending/"),
        ("get", f"{ROOT}i/children/"),
        ("post", f"{ROOT}i/events/go/"),
        ("post", f"{ROOT}i/suspend/"),
    ],
)
def test_payloads_that_are_not_shown_are_not_read(api: APIClient, method: str, url: str) -> None:
    factories.make_instance("i")
    with CaptureQueriesContext(connection) as queries:
        assert getattr(api, method)(url, {}, format="json").status_code in (200, 202)
    quoted = connection.ops.quote_name
    column = f"{quoted('durable_django_instance')}.{quoted('output')}"
    reading = [
        one["sql"] for one in queries if "WHERE" in one["sql"] and f"{quoted('instance_id')} = " in one["sql"]
    ]
    assert reading
    assert not any(column in sql for sql in reading if "FOR" not in sql and "parent_instance_id" in sql)


@pytest.mark.parametrize("accept", ["application/json", "application/json; indent=4", "text/html"])
@pytest.mark.parametrize("depth", [100, 600, 900])
def test_a_payload_of_any_depth_is_shown(api: APIClient, accept: str, depth: int) -> None:
    text = "[" * depth + "]" * depth
    factories.make_instance("i", InstanceStatus.COMPLETED, output=text)
    Entity.objects.create(name="a", key="1", state=text, last_modified_at=clock.aware(NOW))
    for url in (f"{ROOT}i/", "/durable/entities/a/1/"):
        assert api.get(url, HTTP_ACCEPT=accept).status_code == 200
    shown = api.get(f"{ROOT}i/").json()["output"]
    assert (shown == text) == (depth > 200)
