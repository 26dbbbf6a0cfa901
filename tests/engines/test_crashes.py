"""The cluster, its broker and a durable worker are killed in the middle: nothing is lost, or done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.models import Instance, InstanceStatus
from tests.engines.engines import QUEUE, House, Site, built
from tests.engines.workflows import misfortunes, slow_chain
from tests.stress.test_kill_storm import check_tables

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

COUNT = 200
LENGTH = 3


def test_each_is_killed_and_started_again(site: Callable[..., Site]) -> None:
    client = DurableTaskClient()
    with built("django-q2 on redis", site(), workers=2) as house:
        assert house.cluster is not None
        assert house.redis is not None
        client.schedule_new_orchestrations(slow_chain, [LENGTH] * COUNT, queue=QUEUE)
        wait_for(house, COUNT // 8)
        house.cluster.kill()
        house.cluster.start()
        wait_for(house, COUNT // 4)
        assert house.redis.waiting("django_q:engines:q"), "nothing would be lost with it"
        house.redis.kill()
        house.redis.start()
        wait_for(house, COUNT // 2)
        house.workers.kill(house.workers.pids[0])
        house.workers.start()
        wait_for(house, COUNT)
    check_tables()
    outputs = [json.loads(instance.output or "null") for instance in Instance.objects.all()]
    assert outputs == [LENGTH] * COUNT


def test_activities_that_never_end_do_not_loop_for_ever(site: Callable[..., Site]) -> None:
    client = DurableTaskClient()
    place = site(MAX_TRIES=2)
    place.options["timeout"] = 1
    with built("django-q2 on the database", place) as house:
        instance_id = client.schedule_new_orchestration(misfortunes, queue=QUEUE)
        state = client.wait_for_orchestration_completion(instance_id, timeout=90)
        assert state.runtime_status is OrchestrationStatus.COMPLETED, house.log()
        assert state.get_output() == ["durable_django.worker.TooManyDeliveries"] * 2
    check_tables()


def wait_for(house: House, count: int, seconds: float = 90.0) -> None:
    """Wait until so many orchestrations have completed, and make sure that there was a middle to look at."""
    before = completed()
    assert before < count, "they were too quick to be interrupted"
    deadline = time.monotonic() + seconds
    while completed() < count:
        assert time.monotonic() < deadline, f"{completed()} of {count}\n{house.log()}"
        time.sleep(0.02)


def completed() -> int:
    return Instance.objects.filter(status=InstanceStatus.COMPLETED).count()
