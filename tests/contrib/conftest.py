from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from durable_django import testing
from durable_django.contrib.django_tasks import framework
from durable_django.testing import VirtualClock
from tests.contrib import tasks
from tests.listeners import listener_is_gone_before_the_database

__all__ = ["listener_is_gone_before_the_database"]

PATH = "durable_django.contrib.django_tasks.DurableBackend"


@pytest.fixture(autouse=True)
def backend(settings: Settings) -> Any:
    """The backend under test, which takes tasks of any queue."""
    settings.TASKS = {"default": {"BACKEND": PATH, "QUEUES": []}}
    return framework.task_backends["default"]


@pytest.fixture(autouse=True)
def seen() -> Iterator[list[Any]]:
    """What the tasks of `tests.contrib.tasks` have done."""
    tasks.seen.clear()
    yield tasks.seen
    tasks.seen.clear()


@pytest.fixture
def clock(db: None) -> Iterator[VirtualClock]:
    """A clock that stands still."""
    with testing.virtual_time() as virtual:
        yield virtual


@pytest.fixture
def signals() -> Iterator[list[tuple[str, Any, Any, int]]]:
    """The signals sent: name, sender, the status of the result at that time, and its attempts."""
    sent: list[tuple[str, Any, Any, int]] = []

    def receiver(name: str) -> Any:
        def receive(sender: Any, task_result: Any, **_: Any) -> None:
            sent.append((name, sender, task_result.status, task_result.attempts))

        return receive

    receivers = {
        name: (getattr(framework, f"task_{name}"), receiver(name))
        for name in ("enqueued", "started", "finished")
    }
    for signal, receive in receivers.values():
        signal.connect(receive)
    yield sent
    for signal, receive in receivers.values():
        signal.disconnect(receive)
