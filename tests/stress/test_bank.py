"""A bank whose workers are killed at random: no money appears or vanishes, and no lock is left."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from durable_django.client import DurableTaskClient
from durable_django.models import ActivityTask, Entity, EntityOperation, Instance, InstanceStatus, Message
from durable_django.store import retention
from tests.processes.pack import Pack

pytestmark = [pytest.mark.stress, pytest.mark.django_db(transaction=True), pytest.mark.timeout(360)]

ACCOUNTS = 50
FIRST_BALANCE = 100  # As the account has it.
KILLS = 10
SECONDS_TO_FINISH = 240.0

_SETTINGS = {"LEASE_SECONDS": 3, "HEARTBEAT_SECONDS": 0.5, "POLL_INTERVAL": 0.2}


def test_no_transfer_is_lost_or_made_twice(command_environment: dict[str, str], tmp_path: Path) -> None:
    rng = random.Random(1)
    workers, count = (1, 800) if connection.vendor == "sqlite" else (2, 1000)
    count = int(os.environ.get("BANK_TRANSFERS", count))
    orders: dict[str, dict[str, Any]] = {}
    client = DurableTaskClient()
    with Pack(command_environment, tmp_path / "workers.log", **_SETTINGS) as pack:
        for _ in range(workers):
            pack.start()
        for number in range(count):
            source, target = rng.sample(range(ACCOUNTS), 2)
            instance_id = f"transfer-{number}"
            orders[instance_id] = {"source": str(source), "target": str(target), "amount": rng.randint(1, 9)}
            client.schedule_new_orchestration("transfer", input=orders[instance_id], instance_id=instance_id)
        deadline = time.monotonic() + SECONDS_TO_FINISH
        kills = 0
        while left := unfinished():
            assert time.monotonic() < deadline, f"{left} unfinished\n{pack.log()[-5000:]}"
            time.sleep(rng.uniform(0.0, 0.2))
            # By what is done, not by the clock: however fast the machine, each kill finds work under way.
            if kills < KILLS and count - left > (kills + 1) * count / (KILLS + 1):
                pack.kill(rng.choice(pack.pids))
                pack.start()
                kills += 1
        assert kills == KILLS
        settle(deadline)
        log = pack.log()
    check_transfers(orders)
    assert "durable_history_sequence" not in log


def unfinished() -> int:
    ended = (InstanceStatus.COMPLETED, InstanceStatus.FAILED, InstanceStatus.TERMINATED)
    return Instance.objects.exclude(status__in=ended).count()


def settle(deadline: float) -> None:
    """Wait until the last releases have been performed."""
    while EntityOperation.objects.exists():
        assert time.monotonic() < deadline, list(EntityOperation.objects.values())
        time.sleep(0.05)


def check_transfers(orders: dict[str, dict[str, Any]]) -> None:
    """Check that every account has what its transfers have left, each of them made once."""
    for instance in Instance.objects.all():
        assert instance.status == InstanceStatus.COMPLETED, (instance.instance_id, instance.failure)
    balances: Counter[str] = Counter({str(number): FIRST_BALANCE for number in range(ACCOUNTS)})
    transfers: dict[str, list[str]] = {}
    for instance_id, order in orders.items():
        balances[order["source"]] -= order["amount"]
        balances[order["target"]] += order["amount"]
        for end in ("source", "target"):
            transfers.setdefault(order[end], []).append(instance_id)
    accounts = {account.key: account for account in Entity.objects.all()}
    for key, account in accounts.items():
        state = json.loads(account.state or "")
        assert sorted(state["transfers"]) == sorted(transfers[key])
        assert state["balance"] == balances[key]
        assert account.lock_instance_id is None
    assert accounts.keys() == transfers.keys()
    assert sum(balances.values()) == ACCOUNTS * FIRST_BALANCE
    retention.sweep("default")
    assert not Message.objects.exists()
    assert not ActivityTask.objects.exists()
