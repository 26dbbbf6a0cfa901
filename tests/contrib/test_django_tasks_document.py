"""What ``docs/django_tasks.md`` shows runs, in the order in which it is shown."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import django
import pytest

from durable_django import testing
from durable_django.client import DurableTaskClient
from durable_django.contrib.django_tasks.framework import task_backends
from durable_django.core import registry as registries
from durable_django.core.registry import Registry
from tests.documents import ROOT, blocks

if TYPE_CHECKING:
    from pytest_django import Settings

DOCUMENT = "docs/django_tasks.md"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module for the document's code, where workers find its tasks."""
    module = ModuleType("shop_of_the_document")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    if django.VERSION < (6, 0):
        import django_tasks

        monkeypatch.setitem(sys.modules, "django.tasks", django_tasks)
    return module


@pytest.mark.django_db
def test_code_blocks_run(shop: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr(registries, "default_registry", registry)
    monkeypatch.setattr("durable_django.testing.inline.default_registry", registry)
    configuration, *code = [block for block in blocks(DOCUMENT) if block.language == "python"]
    exec(configuration.code, vars(shop))
    settings.TASKS = shop.TASKS
    assert list(task_backends["default"].check()) == []

    for block in code:
        text = "\n" * (block.line - 1) + block.code
        exec(compile(text, ROOT / DOCUMENT, "exec", dont_inherit=True), vars(shop))

    assert registry.problems == ()
    instance_id = DurableTaskClient().schedule_new_orchestration(shop.fulfil, input=7)
    testing.drain()
    state = DurableTaskClient().get_orchestration_state(instance_id)
    assert state is not None
    assert state.get_output() == "receipt of order 7"
