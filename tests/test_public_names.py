from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import durable_django

PUBLIC = [
    "ActivityWorkItemFilter",
    "AsyncDurableTaskClient",
    "ConcurrencyOptions",
    "DurableTaskClient",
    "DurableTaskError",
    "DurableTaskWorker",
    "EntityWorkItemFilter",
    "OrchestrationWorkItemFilter",
    "RetryPolicy",
    "VersionFailureStrategy",
    "VersionMatchStrategy",
    "VersioningOptions",
    "WorkItemFilters",
    "activity",
    "client",
    "entities",
    "entity",
    "history",
    "orchestrator",
    "scheduled",
    "serialization",
    "task",
    "worker",
]


def test_the_public_names_are_these() -> None:
    assert sorted(durable_django.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(durable_django))
    assert durable_django.__version__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_loaded(name: str) -> None:
    loaded = getattr(durable_django, name)

    if inspect.ismodule(loaded):
        assert loaded is importlib.import_module(f"durable_django.{name}")
    else:
        assert loaded.__name__ == name


def test_what_a_type_checker_sees_is_what_there_is() -> None:
    tree = ast.parse(Path(str(durable_django.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert sorted(seen) == PUBLIC
    for name, module in seen.items():
        if module != "durable_django":
            assert getattr(importlib.import_module(str(module)), name) is getattr(durable_django, name)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'orchestrators'"):
        _ = durable_django.orchestrators  # type: ignore[attr-defined]


def test_registration_needs_no_django() -> None:
    code = (
        "import sys; sys.modules['django'] = None\n"
        "from durable_django import RetryPolicy, VersioningOptions, activity, entity, orchestrator\n"
        "@activity\n"
        "def greet(ctx, name): return name\n"
        "assert greet(None, 'x') == 'x'\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(str(durable_django.__file__)).parent.parent,
        timeout=60,
        check=True,
    )
