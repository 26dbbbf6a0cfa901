"""The OpenAPI schema says what the API takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # published without types
import pytest
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings
from rest_framework.test import APIClient
from rest_framework.versioning import NamespaceVersioning
from rest_framework.views import APIView

from durable_django import task
from durable_django.models import InstanceStatus
from durable_django.rest_framework.fields import PARTS
from durable_django.rest_framework.schema import SETTINGS
from durable_django.rest_framework.urls import urlpatterns
from tests import factories

pytestmark = pytest.mark.django_db

PAGE = {"cursor", "page_size", "payloads"}
INSTANCES = {
    "status",
    "name",
    "id_prefix",
    "created_after",
    "created_before",
    "completed_after",
    "completed_before",
    "parent",
    "subject",
    "queue",
    "version",
}
ENTITIES = {"name", "key_prefix", "modified_after", "modified_before", "locked"}
BULK = "/durable/instances/bulk/"


class Versions(NamespaceVersioning):
    """Takes the namespaces of a project's own views alone."""

    allowed_versions = ("v1",)


def plain(ctx: task.OrchestrationContext, _: Any) -> None:
    return None


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    generator: Any = SchemaGenerator
    with patched_settings(SETTINGS):
        found: dict[str, Any] = generator(urlconf="testproject.urls").get_schema(request=None, public=True)
    return found


def operation(schema: dict[str, Any], operation_id: str) -> dict[str, Any]:
    return next(one for one in operations(schema) if one["operationId"] == operation_id)


def operations(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in schema["paths"].items():
        if path.startswith("/durable/"):
            yield from methods.values()


def is_valid(schema: dict[str, Any], component: str, value: Any) -> bool:
    whole = {"$ref": f"#/components/schemas/{component}", "components": schema["components"]}
    return bool(jsonschema.Draft202012Validator(whole).is_valid(value))


@pytest.mark.parametrize(
    ("operation_id", "expected"),
    [
        ("list_instances", PAGE | INSTANCES | {"ordering"}),
        ("list_instance_children", PAGE | INSTANCES | {"ordering"}),
        ("list_entities", PAGE | ENTITIES),
        ("list_workers", {"cursor", "page_size"}),
        ("get_instance_history", {"after", "page_size", "execution_id"}),
        ("list_orchestrations", set()),
    ],
)
def test_a_list_names_its_parameters(schema: dict[str, Any], operation_id: str, expected: set[str]) -> None:
    parameters = operation(schema, operation_id).get("parameters", [])
    assert {one["name"] for one in parameters if one["in"] == "query"} == expected


@pytest.mark.parametrize(
    "operation_id", ["list_instances", "list_instance_children", "list_entities", "list_workers"]
)
def test_a_list_is_a_page(schema: dict[str, Any], operation_id: str) -> None:
    content = operation(schema, operation_id)["responses"]["200"]["content"]["application/json"]
    page = schema["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert page["properties"].keys() == {"next", "results"}


def test_whatever_may_be_answered_is_declared(schema: dict[str, Any]) -> None:
    for path, methods in schema["paths"].items():
        if path.startswith("/durable/"):
            for method, one in methods.items():
                expected = {"503"} | ({"411", "413", "415"} if method == "post" else set())
                assert expected <= one["responses"].keys(), one["operationId"]
                assert "application/problem+json" in one["responses"]["503"]["content"]


def test_examples_are_what_they_are_examples_of(schema: dict[str, Any]) -> None:
    checked = 0
    for one in operations(schema):
        bodies = [one["requestBody"]["content"]] if "requestBody" in one else []
        bodies += [response.get("content", {}) for response in one["responses"].values()]
        for content in bodies:
            for described in content.values():
                validator = jsonschema.Draft202012Validator(
                    {**described["schema"], "components": schema["components"]}
                )
                for example in described.get("examples", {}).values():
                    assert not list(validator.iter_errors(example["value"])), one["operationId"]
                    checked += 1
    assert checked > 10


@pytest.mark.parametrize(
    "body",
    [
        {"action": "purge", "filters": {"subject": "shop.order:42"}},
        {"action": "purge", "filters": {"subject": "a.b.c:x:y"}},
        {"action": "purge", "filters": {"status": "FAILED"}, "reason": ""},
        {"action": "purge", "filters": {"tag.a": "x" * 300}, "reason": "because"},
        {"action": "purge", "filters": {"subject": "42"}},
        {"action": "purge", "filters": {"name": "x" * 256}},
        {"action": "purge", "filters": {"name": "x"}, "reason": "two\nlines"},
        {"action": "purge", "filters": {"name": "x"}, "reason": "x" * 1001},
        {"action": "purge", "filters": {"name": "x"}, "cursor": None},
    ],
)
def test_a_bulk_body_is_valid_for_the_schema_if_it_is_taken(
    api: APIClient, schema: dict[str, Any], body: dict[str, Any]
) -> None:
    is_taken = api.post(BULK, body, format="json").status_code == 200
    assert is_valid(schema, "BulkRequest", body) == is_taken


@pytest.mark.parametrize("reason", ["", "because", "ä"])
def test_a_reason_may_be_empty(schema: dict[str, Any], reason: str) -> None:
    assert is_valid(schema, "ReasonRequest", {"reason": reason})


@pytest.mark.parametrize(
    "instance_id",
    ["a", "a.b", "...", "a/b", "bulk2", "bulk/a", "bulk", ".", "../a", "a/./b", "a/history", "@a"],
)
def test_an_id_is_valid_for_the_schema_if_it_is_taken(
    api: APIClient, registered: Callable[..., None], schema: dict[str, Any], instance_id: str
) -> None:
    registered(plain)
    body = {"instance_id": instance_id}
    is_taken = api.post("/durable/orchestrations/plain/", body, format="json").status_code == 202
    assert is_valid(schema, "StartRequest", body) == is_taken


def test_answers_to_actions_are_valid_for_the_schema(
    api: APIClient, as_user: Callable[..., APIClient], schema: dict[str, Any]
) -> None:
    for client, name in ((api, "a"), (as_user("terminate"), "b")):
        factories.make_instance(name)
        found = client.post(f"/durable/instances/{name}/terminate/", {}, format="json").json()
        assert is_valid(schema, "SteeredInstance", found)


def test_every_part_that_may_follow_an_id_is_kept_out_of_its_end() -> None:
    prefix = "instances/<path:instance_id>/"
    routes = [str(one.pattern).removeprefix(prefix) for one in urlpatterns if prefix in str(one.pattern)]
    assert {route.replace("<str:event>", "[^/]+").strip("/") for route in routes} - {""} == set(PARTS)


@pytest.mark.parametrize("url", ["instances/", "schema/?format=json", "instances/i/"])
def test_the_versions_of_a_projects_other_views_are_none_of_this_apis(
    api: APIClient, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    factories.make_instance("i", InstanceStatus.COMPLETED)
    monkeypatch.setattr(APIView, "versioning_class", Versions)
    assert api.get(f"/durable/{url}").status_code == 200


@pytest.mark.parametrize(("query", "field"), [("version=a%0Ab", "version"), ("lang=de", "lang")])
def test_the_schema_knows_no_parameters(api: APIClient, query: str, field: str) -> None:
    response = api.get(f"/durable/schema/?format=json&{query}")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, field)
