"""Orchestrators and operations that take their worker down, or never let go of it, in real processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection

from durable_django.client import DurableTaskClient
from durable_django.entities import EntityInstanceId
from durable_django.models import Entity, EntityOperation, Instance, InstanceStatus, Worker
from tests.processes.pack import Pack, is_alive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

_SETTINGS = {
    "LEASE_SECONDS": 2,
    "HEARTBEAT_SECONDS": 0.25,
    "POLL_INTERVAL": 0.1,
    "SLOW_TURN_SECONDS": 0.3,
    "MAX_TRIES": 3,
}


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.02)


def status(instance_id: str) -> int:
    return Instance.objects.values_list("status", flat=True).get(instance_id=instance_id)


def has_failed(instance_id: str) -> bool:
    return status(instance_id) == InstanceStatus.FAILED


def message_of(instance_id: str) -> str:
    failure = Instance.objects.get(instance_id=instance_id).failure
    assert failure is not None
    return str(json.loads(failure)["message"])


@pytest.mark.parametrize("after", [0, 2], ids=["at once", "after activities"])
def test_an_orchestrator_that_kills_its_worker_fails_and_takes_nobody_with_it(
    after: int, command_environment: dict[str, str], tmp_path: Path
) -> None:
    client = DurableTaskClient()
    innocent = [client.schedule_new_orchestration("chain", input=3) for _ in range(10)]
    client.schedule_new_orchestration("killer", input=after, instance_id="killer")
    innocent += [client.schedule_new_orchestration("chain", input=3) for _ in range(10)]
    starts = 0
    with Pack(command_environment, tmp_path / "log", **_SETTINGS) as pack:
        while not has_failed("killer"):
            assert starts <= 3 + 1, pack.log()
            starts += 1
            pid = pack.start()
            wait_for(lambda pid=pid: not is_alive(pid) or has_failed("killer"), "death of the worker")  # type: ignore[misc]
        wait_for(
            lambda: (
                not Instance.objects.filter(
                    status__in=[InstanceStatus.RUNNING, InstanceStatus.PENDING]
                ).exists()
            ),
            "end of the others",
        )
    # Who it was is not known at the first death, for the whole batch has died with it.
    assert starts == 1 + 3 + 1
    assert message_of("killer") == "Given up after 3 tries: each time the worker that ran it died or hung"
    for instance_id in innocent:
        instance = Instance.objects.get(instance_id=instance_id)
        assert (instance.status, instance.output, instance.tries) == (InstanceStatus.COMPLETED, "3", 0)


def test_an_operation_that_kills_its_worker_fails_and_takes_nobody_with_it(
    command_environment: dict[str, str], tmp_path: Path
) -> None:
    client = DurableTaskClient()
    keys = [str(number) for number in range(5)]
    for key in keys:
        client.signal_entity(EntityInstanceId("grave", key), "visit", "before")
    client.schedule_new_orchestration("digger", input="3", instance_id="digger")
    for key in keys:
        client.signal_entity(EntityInstanceId("grave", key), "visit", "after")

    def has_ended() -> bool:
        return status("digger") == InstanceStatus.COMPLETED

    starts = 0
    with Pack(command_environment, tmp_path / "log", **_SETTINGS) as pack:
        while not has_ended():
            assert starts <= 3 + 1, pack.log()
            starts += 1
            pid = pack.start()
            wait_for(lambda pid=pid: not is_alive(pid) or has_ended(), "death of the worker")  # type: ignore[misc]
        wait_for(lambda: not EntityOperation.objects.exists(), "end of the others")
    assert starts == 1 + 3 + 1
    output = Instance.objects.get(instance_id="digger").output
    assert output is not None
    failure, visitors = json.loads(output)
    assert "Given up after 3 tries: each time the worker that performed it died" in failure
    assert visitors == ["before", "after", "digger"]
    for key in keys:
        found = Entity.objects.get(name="grave", key=key)
        assert json.loads(found.state or "") == ["before", "after"] + ["digger"] * (key == "3")


def test_an_orchestrator_that_hangs_is_named_and_counted_against_when_its_worker_is_killed(
    command_environment: dict[str, str], tmp_path: Path
) -> None:
    client = DurableTaskClient()
    client.schedule_new_orchestration("hanger", instance_id="hanger")
    with Pack(command_environment, tmp_path / "log", **_SETTINGS) as pack:
        for number in range(1, 20):
            pid = pack.start()
            warnings = number

            def is_reported(warnings: int = warnings) -> bool:
                reported = pack.log().count(
                    "Orchestrator 'hanger' of instance hanger has been running for over 0.3 s"
                )
                return reported >= warnings or has_failed("hanger")

            wait_for(is_reported, "warning that names the orchestrator")
            if has_failed("hanger"):
                break
            if connection.vendor != "sqlite":  # There, the hanging turn has the only write lock.
                wait_for(lambda: Worker.objects.filter(suspect__instance_id="hanger").exists(), "note")
            pack.kill(pid)
            innocent = client.schedule_new_orchestration("chain", input=1)
        else:
            pytest.fail("it hangs for ever")
        wait_for(lambda: status(innocent) == InstanceStatus.COMPLETED, "end of the other")
    assert message_of("hanger") == "Given up after 3 tries: each time the worker that ran it died or hung"


def test_a_slow_turn_that_ends_is_no_longer_suspected(
    command_environment: dict[str, str], tmp_path: Path
) -> None:
    client = DurableTaskClient()
    client.schedule_new_orchestration("slow", input=1.0, instance_id="slow")
    with Pack(command_environment, tmp_path / "log", **_SETTINGS) as pack:
        pid = pack.start()
        wait_for(lambda: status("slow") == InstanceStatus.RUNNING, "turn")
        wait_for(lambda: not Worker.objects.filter(suspect__isnull=False).exists(), "withdrawal of the note")
        pack.kill(pid)
        assert Instance.objects.get(instance_id="slow").tries == 0
        pack.start()
        client.raise_orchestration_event("slow", "go")
        wait_for(lambda: status("slow") == InstanceStatus.COMPLETED, "end")
