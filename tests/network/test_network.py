"""One worker is killed, one is cut off and comes back: nothing is lost, and nothing done twice."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.db import connection

from durable_django.core import events
from durable_django.models import Entity, EntityOperation, Instance, Worker
from durable_django.store import histories
from tests.network import places, workflows
from tests.network.machines import Machines
from tests.network.network import Cut, Network
from tests.stress.test_kill_storm import Storm, check_results, check_tables, describe_unfinished

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

STEADY, DOOMED, REMOTE = "steady", "doomed", "remote"
STORM = 240
COUNTERS = 40
KEYS = 4
CALLS = 3
SECONDS_TO_START = 30.0
SECONDS_TO_NOTICE = 30.0
SECONDS_TO_FINISH = 90.0
SECONDS_TO_STOP = 20.0

SETTINGS = {
    "LEASE_SECONDS": 3,
    "HEARTBEAT_SECONDS": 0.5,
    "POLL_INTERVAL": 0.2,
    "ACTIVITY_THREADS": 8,
    "SHUTDOWN_GRACE_SECONDS": 5,
}

EARLY = "early"
"""The gate that opens while the host behind it is cut off: a result that cannot be handed in."""
LATE = "late"
"""The gate that opens once the host is back: a result whose lease is over."""
FATAL = "fatal"
"""The gate that never opens: whoever stands there is killed."""
ACTIVITIES = {"errand-0": EARLY, "errand-1": LATE, "errand-2": EARLY, "errand-3": LATE}
ENTITIES = {"entity_errand-0": EARLY, "entity_errand-1": LATE}


class Trial:
    """The orchestrations of one test, the workers that run them, and what has been seen of both."""

    def __init__(self, machines: Machines, place: Path) -> None:
        self.machines = machines
        self.place = place
        self.storm = Storm(random.Random(1))
        self.held: list[str] = []
        self._counters = 0

    def hold_up_alone(self, instance_ids: dict[str, str]) -> None:
        """Start orchestrations that stand still on the remote host, the only one yet, and wait for that."""
        for instance_id, gate in instance_ids.items():
            places.gate_path(self.place, gate, REMOTE).touch()
            name = instance_id.partition("-")[0]
            self.storm.client.schedule_new_orchestration(name, input=gate, instance_id=instance_id)
            self.storm.expected[instance_id] = 1 if name == "entity_errand" else f"through {gate}"
        for instance_id in instance_ids:
            self.wait(lambda who=instance_id: self.begun(who) == {REMOTE}, SECONDS_TO_START, "held")  # type: ignore[misc]
        self.held += instance_ids

    def hold_up(self, host: str, name: str, gate: str) -> str:
        """Start orchestrations until one stands still on this host, and return which."""
        places.gate_path(self.place, gate, host).touch()

        def start_one() -> str:
            instance_id = f"{name}-{len(self.storm.expected)}"
            self.storm.client.schedule_new_orchestration(name, input=gate, instance_id=instance_id)
            self.storm.expected[instance_id] = f"through {gate}"
            self.wait(lambda: self.begun(instance_id) != set(), SECONDS_TO_START, f"begun with {instance_id}")
            return instance_id

        deadline = time.monotonic() + SECONDS_TO_START
        while host not in self.begun(instance_id := start_one()):
            assert time.monotonic() < deadline, f"{host} takes nothing\n{self.machines.logs()}"
        return instance_id

    def begun(self, instance_id: str) -> set[str]:
        """Return on which hosts an orchestration has come to its gate."""
        lines = [line.split() for line in places.notes(self.place)]
        return {host for what, about, host in lines if (what, about) == ("begun", instance_id)}

    def open(self, gate: str) -> None:
        """Let those through that stand still at a gate."""
        places.gate_path(self.place, gate, REMOTE).unlink()

    def start_share(self, parts: int) -> None:
        """Start one of ``parts`` shares of the storm and of the counters, and send some events."""
        for _ in range(STORM // parts):
            self.storm.start()
        for _ in range(COUNTERS // parts):
            instance_id = f"count_up-{self._counters}"
            about = {"key": key_of(self._counters), "count": CALLS}
            self.storm.client.schedule_new_orchestration("count_up", input=about, instance_id=instance_id)
            self.storm.expected[instance_id] = CALLS
            self._counters += 1
        self.storm.send_some(STORM // parts)

    def send_the_rest(self) -> None:
        """Send all events that are still waited for."""
        self.storm.send_some(STORM * 8)
        assert not self.storm.pending
        for instance_id in self.storm.expected:
            if "errand" in instance_id:
                self.storm.client.raise_orchestration_event(instance_id, workflows.GO_HOME)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not {what}: {describe_unfinished()}\n{self.machines.logs()}"
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory that the hosts share."""
    return tmp_path


@pytest.fixture
def trial(network: Network, place: Path) -> Iterator[Trial]:
    """A trial with no worker yet."""
    with Machines(network, place, connection.settings_dict, SETTINGS) as machines:
        yield Trial(machines, place)


@pytest.mark.parametrize("how", Cut, ids=lambda how: how.value)
def test_nothing_is_lost_and_nothing_done_twice(trial: Trial, network: Network, how: Cut) -> None:
    machines = trial.machines
    machines.start(REMOTE)  # Alone, so that it is the one on which things stand still.
    trial.hold_up_alone(ACTIVITIES | ENTITIES)
    machines.start(STEADY)
    machines.start(DOOMED)
    trial.wait(lambda: workers() == {STEADY, DOOMED, REMOTE}, SECONDS_TO_START, "three workers")
    trial.start_share(3)
    # Last, for it holds up the turns of its host: the cable is cut while that stands in a transaction.
    trial.held.append(trial.hold_up(REMOTE, "local_errand", EARLY))
    network.cut(REMOTE, how)
    try:
        trial.hold_up(DOOMED, "errand", FATAL)
        trial.start_share(3)
        machines.kill(DOOMED)
        trial.wait(lambda: workers() == {STEADY}, SECONDS_TO_NOTICE, "rid of the dead and the silent")
        trial.wait(
            lambda: went_on(trial.held), SECONDS_TO_FINISH, "done by others what the remote host holds"
        )
        trial.wait(lambda: not sessions(network), SECONDS_TO_NOTICE, "rid of the sessions of the remote host")
        trial.open(EARLY)
    finally:
        network.heal(REMOTE, how)
    trial.wait(lambda: workers() == {STEADY, REMOTE}, SECONDS_TO_NOTICE, "joined by the remote host again")
    trial.open(LATE)
    check_that_its_results_came_too_late(trial)
    trial.start_share(3)
    trial.send_the_rest()
    trial.wait(lambda: not trial.storm.unfinished(), SECONDS_TO_FINISH, "all finished")
    trial.wait(lambda: not EntityOperation.objects.exists(), SECONDS_TO_FINISH, "all signals performed")
    check_that_the_remote_host_works(trial)
    trial.wait(lambda: "LISTEN" in str(sessions(network)), SECONDS_TO_NOTICE, "listening again")
    assert [machines.stop(host, SECONDS_TO_STOP) for host in (STEADY, REMOTE)] == [0, 0]
    assert workers() == set()
    check_results(trial.storm)
    check_tables()
    check_entries(trial)
    check_tallies(trial)
    assert "durable_history_sequence" not in machines.logs(), (
        "the tripwire is for the case that all else fails"
    )


def test_a_worker_stops_though_it_is_cut_off(trial: Trial, network: Network) -> None:
    machines = trial.machines
    machines.start(REMOTE)
    machines.start(STEADY)
    trial.wait(lambda: workers() == {STEADY, REMOTE}, SECONDS_TO_START, "two workers")
    network.cut(REMOTE, Cut.SILENT)
    try:
        assert machines.stop(REMOTE, SECONDS_TO_STOP) == 0
    finally:
        network.heal(REMOTE, Cut.SILENT)
    assert "The database is away" in machines.log(REMOTE)
    trial.wait(lambda: workers() == {STEADY}, SECONDS_TO_NOTICE, "rid of the one that is gone")
    assert machines.stop(STEADY, SECONDS_TO_STOP) == 0
    assert workers() == set()


def workers() -> set[str]:
    """Return the names of the workers that have a row."""
    return set(Worker.objects.values_list("name", flat=True))


def went_on(instance_ids: list[str]) -> bool:
    """Tell whether all of these instances have come past their gates."""
    found = Instance.objects.filter(instance_id__in=instance_ids).values_list("waiting_for", flat=True)
    return list(found) == [[workflows.GO_HOME]] * len(instance_ids)


def sessions(network: Network) -> list[str]:
    """Return the last statements of the sessions that the server has with the remote host."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT query FROM pg_stat_activity WHERE client_addr = %s::inet", [network.address(REMOTE)]
        )
        return [query for (query,) in cursor.fetchall()]


def key_of(number: int) -> str:
    """Return the key of the tally that a counter adds to."""
    return f"key-{number % KEYS}"


def check_that_the_remote_host_works(trial: Trial) -> None:
    """Check that the remote host runs activities of orchestrations that are new since it is back."""

    def has_run_one() -> bool:
        instance_id = f"chain-late-{len(trial.storm.expected)}"
        trial.storm.client.schedule_new_orchestration("chain", input=3, instance_id=instance_id)
        trial.storm.expected[instance_id] = 3
        trial.wait(lambda: not trial.storm.unfinished(), SECONDS_TO_FINISH, "finished")
        instance = Instance.objects.get(instance_id=instance_id)
        history = histories.read("default", instance.pk, instance.execution_id)
        return any(
            isinstance(event, events.TaskCompletedEvent) and event.worker == REMOTE for event in history
        )

    trial.wait(has_run_one, SECONDS_TO_FINISH, "helped by the remote host")


def check_that_its_results_came_too_late(trial: Trial) -> None:
    """Check that what stood still on the remote host was run there to its end, and elsewhere, and dropped."""

    def dropped(instance_id: str) -> bool:
        text = f"{instance_id}: the result of activity 'hold' (#1) is dropped: its lease is over"
        return text in trial.machines.log(REMOTE)

    trial.wait(lambda: all(map(dropped, ACTIVITIES)), SECONDS_TO_NOTICE, "dropped what is too late")
    notes = Counter(places.notes(trial.place))
    for instance_id in trial.held:
        assert notes[f"begun {instance_id} {REMOTE}"] == 1
        assert notes[f"ended {instance_id} {REMOTE}"] == 1
        assert notes[f"ended {instance_id} {STEADY}"] + notes[f"ended {instance_id} {DOOMED}"] >= 1, (
            instance_id
        )


def check_entries(trial: Trial) -> None:
    """Check that what turns and entities have written with the ORM is there once; the rows are unique."""
    ledgers = [
        f"{instance_id} {number}"
        for instance_id, length in trial.storm.expected.items()
        if instance_id.startswith("ledger-")
        for number in range(length)
    ]
    held = [instance_id for instance_id in trial.storm.expected if instance_id.startswith("local_errand-")]
    assert ledgers
    assert held
    assert sorted(Group.objects.values_list("name", flat=True)) == sorted([*ledgers, *held, *ENTITIES])


def check_tallies(trial: Trial) -> None:
    """Check that each operation of an entity was performed once, calls and signals."""
    expected: dict[str, list[str]] = {instance_id: [instance_id] for instance_id in ENTITIES}
    for number in range(COUNTERS // 3 * 3):
        for kind in ("call", "signal"):
            items = [f"count_up-{number} {kind} {count}" for count in range(CALLS)]
            expected.setdefault(key_of(number), []).extend(items)
    found = {entity.key: json.loads(entity.state or "[]") for entity in Entity.objects.filter(name="tally")}
    assert {key: sorted(items) for key, items in found.items()} == {
        key: sorted(items) for key, items in expected.items()
    }
