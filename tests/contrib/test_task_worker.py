"""Tasks that real workers run, in threads and in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import Group

from durable_django.client import DurableTaskClient
from durable_django.contrib.django_tasks.framework import TaskResultStatus
from tests.contrib import tasks

if TYPE_CHECKING:
    from durable_django.worker import DurableTaskWorker

ROOT = Path(__file__).parents[2]
SUCCESSFUL = TaskResultStatus.SUCCESSFUL


def finished(result: Any) -> Any:
    """Wait for the end of a task, and return its result."""
    DurableTaskClient().wait_for_orchestration_completion(result.id, timeout=60)
    result.refresh()
    return result


@pytest.mark.parametrize("wanted", [tasks.add_group, tasks.add_group_async])
def test_in_threads(durable_worker: DurableTaskWorker, wanted: Any) -> None:
    result = finished(wanted.enqueue(name="editors"))
    assert result.return_value == Group.objects.get(name="editors").pk
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert (result.attempts, len(result.worker_ids)) == (1, 1)
    assert result.worker_ids[0]


@pytest.mark.parametrize("wanted", [tasks.tell_context, tasks.tell_context_async])
def test_context_names_the_worker_that_the_result_names(
    durable_worker: DurableTaskWorker, wanted: Any, seen: list[Any]
) -> None:
    result = finished(wanted.enqueue())
    assert result.status == SUCCESSFUL
    if wanted is tasks.tell_context:
        ((_, _, worker_ids, _),) = seen
        assert worker_ids == result.worker_ids


@pytest.mark.parametrize("wanted", [tasks.fail, tasks.fail_async])
def test_failures(durable_worker: DurableTaskWorker, wanted: Any) -> None:
    result = finished(wanted.enqueue())
    assert result.status == TaskResultStatus.FAILED
    assert [error.exception_class for error in result.errors] == [ValueError]


def work(environment: dict[str, str], *options: str) -> None:
    """Run ``manage.py durable_worker`` until there is nothing to do."""
    subprocess.run(
        [sys.executable, "manage.py", "durable_worker", "--burst", *options],
        cwd=ROOT,
        env=environment | {"DJANGO_SETTINGS_MODULE": "tests.contrib.settings"},
        capture_output=True,
        timeout=60,
        check=True,
    )


def test_in_a_process(command_environment: dict[str, str]) -> None:
    wanted: list[Any] = [tasks.add_group, tasks.add_group_async]
    results = [task.enqueue(name=f"group {number}") for number, task in enumerate(wanted)]
    mail = tasks.answer.using(queue_name="mail").enqueue()

    work(command_environment, "--queues", "default")
    for result in [*results, mail]:
        result.refresh()
    assert [result.status for result in results] == [SUCCESSFUL, SUCCESSFUL]
    assert Group.objects.filter(name__startswith="group ").count() == 2
    assert mail.status == TaskResultStatus.READY

    work(command_environment, "--queues", "mail")
    mail.refresh()
    assert mail.return_value == 42
    assert json.dumps(mail.worker_ids) != json.dumps(results[0].worker_ids)
