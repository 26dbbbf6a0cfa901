"""The fixtures for pytest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from durable_django import task
from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.core.registry import Registry
from durable_django.testing import VirtualClock
from durable_django.worker import DurableTaskWorker

Steps = Generator[Any, Any, Any]


def sleeper(ctx: task.OrchestrationContext, days: int) -> Steps:
    yield ctx.create_timer(timedelta(days=days))
    return ctx.current_utc_datetime.isoformat()


@pytest.fixture
def durable_registry() -> Registry:
    registry = Registry()
    registry.add_orchestrator(sleeper)
    return registry


def test_the_worker_runs(durable_worker: DurableTaskWorker) -> None:
    assert durable_worker.is_running
    assert not connection.in_atomic_block
    client = DurableTaskClient()
    instance_id = client.schedule_new_orchestration(sleeper, input=0)
    state = client.wait_for_orchestration_completion(instance_id, timeout=10)
    assert state.runtime_status is OrchestrationStatus.COMPLETED


def test_the_worker_keeps_virtual_time(
    durable_clock: VirtualClock, durable_worker: DurableTaskWorker
) -> None:
    client = DurableTaskClient()
    start = durable_clock.now
    instance_id = client.schedule_new_orchestration(sleeper, input=10)
    client.wait_for_orchestration_start(instance_id, timeout=10)
    durable_clock.move(timedelta(days=11))
    state = client.wait_for_orchestration_completion(instance_id, timeout=10)
    assert state.get_output() == (start + timedelta(days=11)).isoformat()


def test_the_plugin_loads_without_django() -> None:
    program = (
        "import sys; import durable_django.testing.plugin;"
        "sys.exit(' '.join(name for name in sys.modules if name.partition('.')[0] == 'django'))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
