"""``manage.py durable_worker`` in processes of its own: what it runs, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from durable_django.client import DurableTaskClient, OrchestrationStatus
from durable_django.models import ActivityTask
from durable_django.worker import DurableTaskWorker
from tests.management.conftest import Gate, Start, eventually, worker_pids
from tests.management.project.workflows import ask_collector, pass_gate

RUNNING = OrchestrationStatus.RUNNING
COMPLETED = OrchestrationStatus.COMPLETED
PENDING = OrchestrationStatus.PENDING
FAILED = OrchestrationStatus.FAILED


def hanging_up(handler: signal.Handlers) -> Iterator[None]:
    """Give new processes what is done at SIGHUP: they inherit that it is ignored."""
    before = signal.signal(signal.SIGHUP, handler)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def terminal() -> Iterator[None]:
    """Commands are ended by SIGHUP, as from a terminal, however the tests were started."""
    yield from hanging_up(signal.SIG_DFL)


@pytest.fixture
def no_terminal() -> Iterator[None]:
    """Commands ignore SIGHUP, as under nohup."""
    yield from hanging_up(signal.SIG_IGN)


def begin(gate: Gate) -> str:
    return DurableTaskClient().schedule_new_orchestration(pass_gate, input=str(gate.path))


def status(instance_id: str) -> OrchestrationStatus:
    state = DurableTaskClient().get_orchestration_state(instance_id)
    assert state is not None
    return state.runtime_status


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestBurst:
    def test_does_all_there_is_and_exits(self, start: Start, gate: Gate) -> None:
        gate.open()
        ids = [begin(gate) for _ in range(20)]
        command = start("--burst", "--name", "finisher", "-v", "2")
        assert command.exit_code() == 0
        assert {status(instance_id) for instance_id in ids} == {COMPLETED}
        assert worker_pids() == set()
        assert f"pass_gate {ids[0]} completed" in command.log

    def test_says_who_starts_where_and_why_it_stops(self, start: Start) -> None:
        command = start("--burst", "--name", "finisher", "--queues", "default, mail")
        assert command.exit_code() == 0
        assert "started: name finisher; pid" in command.log
        assert "queues default, mail; " in command.log
        assert "pass_gate" in command.log
        assert "stops: nothing left to do" in command.log

    def test_with_several_processes(self, start: Start, gate: Gate) -> None:
        gate.open()
        ids = [begin(gate) for _ in range(20)]
        assert start("--burst", "--processes", "2").exit_code() == 0
        assert {status(instance_id) for instance_id in ids} == {COMPLETED}

    def test_leaves_other_queues_alone(self, start: Start, gate: Gate) -> None:
        gate.open()
        instance_id = begin(gate)
        assert start("--burst", "--queues", "mail").exit_code() == 0
        assert status(instance_id) is PENDING


class TestGarbageCollection:
    def test_leaves_what_was_loaded_alone_and_comes_seldom(self, start: Start) -> None:
        instance_id = DurableTaskClient().schedule_new_orchestration(ask_collector)
        assert start("--burst").exit_code() == 0
        state = DurableTaskClient().get_orchestration_state(instance_id)
        assert state is not None
        settled, awaited = state.get_output()
        assert settled > 10_000
        assert awaited >= 10 * gc.get_threshold()[0]

    @pytest.mark.django_db(transaction=True)
    def test_is_left_as_it_is_in_somebody_elses_process(self) -> None:
        before = gc.get_freeze_count(), gc.get_threshold()
        call_command("durable_worker", "--burst", verbosity=0)
        assert (gc.get_freeze_count(), gc.get_threshold()) == before


class TestNames:
    def test_unknown_ones_are_left_to_others(self, start: Start) -> None:
        instance_id = DurableTaskClient().schedule_new_orchestration("from_the_next_release")
        assert start("--burst").exit_code() == 0
        assert status(instance_id) is PENDING

    def test_unknown_ones_fail_if_told_so(self, start: Start) -> None:
        instance_id = DurableTaskClient().schedule_new_orchestration("from_the_next_release")
        command = start("--burst", "--all-names")
        assert command.exit_code() == 0
        assert status(instance_id) is FAILED
        assert f"from_the_next_release {instance_id} failed" in command.log


class TestVersions:
    def test_others_are_left_to_others(self, start: Start, gate: Gate) -> None:
        gate.open()
        client = DurableTaskClient(default_version="2.0")
        newer = client.schedule_new_orchestration(pass_gate, input=str(gate.path))
        older = client.schedule_new_orchestration(pass_gate, input=str(gate.path), version="0.9")
        options = ("--worker-version", "1.0", "--match-versions", "current-or-older")
        assert start("--burst", *options).exit_code() == 0
        assert (status(newer), status(older)) == (PENDING, COMPLETED)

    def test_others_fail_if_told_so(self, start: Start, gate: Gate) -> None:
        instance_id = DurableTaskClient().schedule_new_orchestration(pass_gate, version="2.0")
        options = ("--worker-version", "1.0", "--match-versions", "strict", "--other-versions", "fail")
        assert start("--burst", *options).exit_code() == 0
        assert status(instance_id) is FAILED


class TestElsewhere:
    @pytest.mark.django_db(transaction=True)
    def test_a_thread_may_work_until_nothing_is_left(self) -> None:
        def work() -> None:
            try:
                call_command("durable_worker", "--burst", verbosity=0)
            finally:
                connections.close_all()

        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        with ThreadPoolExecutor(1) as threads:
            threads.submit(work).result(30)
        assert worker_pids() == set()
        after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        assert after == before


class TestDraining:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    @pytest.mark.usefixtures("terminal")
    def test_records_what_runs_and_begins_nothing_new(
        self, start: Start, gate: Gate, number: signal.Signals
    ) -> None:
        command = start()
        instance_id = begin(gate)
        gate.wait_for(1)
        command.signal(number)
        command.wait_for_log(f"stops: {number.name}")
        late = begin(gate)
        gate.open()
        assert command.exit_code() == 0
        assert status(instance_id) is COMPLETED
        assert status(late) is PENDING
        assert worker_pids() == set()

    def test_gives_back_what_does_not_end_in_time(self, start: Start, gate: Gate) -> None:
        command = start(SHUTDOWN_GRACE_SECONDS=0.1, LEASE_SECONDS=3600)
        instance_id = begin(gate)
        gate.wait_for(1)
        command.signal(signal.SIGTERM)
        assert command.exit_code() == 0
        assert "another worker will run them" in command.log
        assert status(instance_id) is RUNNING
        assert not ActivityTask.objects.exclude(lease_token=None).exists()

        other = start("--burst")
        gate.wait_for(2)
        gate.open()
        assert other.exit_code() == 0
        assert status(instance_id) is COMPLETED
        assert gate.pids == [command.process.pid, other.process.pid]

    def test_second_signal_ends_it_at_once(self, start: Start, gate: Gate) -> None:
        command = start(SHUTDOWN_GRACE_SECONDS=3600)
        begin(gate)
        gate.wait_for(1)
        command.signal(signal.SIGTERM)
        command.wait_for_log("stops: SIGTERM")
        command.signal(signal.SIGTERM)
        assert command.exit_code() == 128 + signal.SIGTERM

    @pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
    @pytest.mark.usefixtures("terminal")
    def test_a_hangup_is_no_second_signal(self, start: Start, gate: Gate, first: signal.Signals) -> None:
        command = start()
        instance_id = begin(gate)
        gate.wait_for(1)
        command.signal(first)
        command.wait_for_log(f"stops: {first.name}")
        command.signal(signal.SIGHUP)
        gate.open()
        assert command.exit_code() == 0
        assert status(instance_id) is COMPLETED

    @pytest.mark.usefixtures("no_terminal")
    def test_a_hangup_that_is_ignored_stays_so(self, start: Start, gate: Gate) -> None:
        gate.open()
        command = start()
        command.wait_for_log("started: ")
        command.signal(signal.SIGHUP)
        command.signal(signal.SIGTERM)
        assert command.exit_code() == 0
        assert "stops: SIGTERM" in command.log


class TestProcesses:
    def test_share_the_work(self, start: Start, gate: Gate) -> None:
        command = start("--processes", "2", "--concurrency", "1")
        eventually(lambda: len(worker_pids()) == 2, "two workers have entered")
        pids = worker_pids()
        ids = [begin(gate) for _ in range(20)]
        eventually(lambda: set(gate.pids) == pids, "both work")
        gate.open()
        eventually(lambda: {status(instance_id) for instance_id in ids} == {COMPLETED}, "all is done")
        command.signal(signal.SIGTERM)
        assert command.exit_code() == 0
        assert worker_pids() == set()

    @pytest.mark.usefixtures("terminal")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_drain_together(self, start: Start, gate: Gate, number: signal.Signals) -> None:
        command = start("--processes", "2")
        instance_id = begin(gate)
        gate.wait_for(1)
        eventually(lambda: len(worker_pids()) == 2, "two workers have entered")
        command.signal(number)
        eventually(lambda: worker_pids() == set(gate.pids), "the idle one has left")
        # Service managers signal every process of a service: this is no second request.
        os.kill(gate.pids[0], number)
        gate.open()
        assert command.exit_code() == 0
        assert status(instance_id) is COMPLETED

    def test_second_signal_kills_them(self, start: Start, gate: Gate) -> None:
        command = start("--processes", "2", SHUTDOWN_GRACE_SECONDS=3600)
        begin(gate)
        gate.wait_for(1)
        command.signal(signal.SIGTERM)
        command.wait_for_log("stops: SIGTERM")
        command.signal(signal.SIGTERM)
        assert command.exit_code() == 128 + signal.SIGTERM
        assert not is_alive(gate.pids[0])

    def test_crashed_one_is_replaced(self, start: Start, gate: Gate) -> None:
        command = start("--processes", "2")
        eventually(lambda: len(worker_pids()) == 2, "two workers have entered")
        killed, survivor = worker_pids()
        os.kill(killed, signal.SIGKILL)
        command.wait_for_log(f"(pid {killed}) was killed by SIGKILL; it is started again")
        # The newcomer finds its predecessor dead and takes its row away.
        eventually(lambda: len(worker_pids() - {killed, survivor}) == 1, "a third worker has entered")
        assert worker_pids().isdisjoint({killed})
        command.signal(signal.SIGTERM)
        assert command.exit_code() == 0

    def test_drain_when_the_supervisor_is_gone(self, start: Start, gate: Gate) -> None:
        command = start("--processes", "2")
        instance_id = begin(gate)
        gate.wait_for(1)
        command.signal(signal.SIGKILL)
        command.wait_for_log("stops: the supervisor is gone")
        gate.open()
        eventually(lambda: worker_pids() == set(), "both have left")
        # If the other one looked at the instance just then, its result waits for whoever comes next.
        assert start("--burst").exit_code() == 0
        assert status(instance_id) is COMPLETED
        assert len(gate.pids) == 1


class TestRefusals:
    @pytest.mark.django_db
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"processes": 0}, "--processes must be at least 1, not 0"),
            ({"concurrency": -1}, "--concurrency must be at least 1, not -1"),
            ({"concurrency": 100_000}, "--concurrency must be at most 1000, not 100000"),
            ({"poll_interval": 0.0}, "--poll-interval must be a positive number of seconds, not 0.0"),
            ({"poll_interval": float("nan")}, "--poll-interval must be a positive number"),
            ({"queues": "a,,b"}, "--queues must be names between commas, like default,mail, not 'a,,b'"),
            ({"using": "elsewhere"}, "--using: DATABASES has no alias 'elsewhere'; it has default"),
            ({"match_versions": "strict"}, "give --worker-version too"),
            ({"processes": 2}, "use 1 with call_command"),
        ],
    )
    def test_bad_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            call_command("durable_worker", **options)

    @pytest.mark.django_db
    def test_threads_that_the_system_does_not_give(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: DurableTaskWorker) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(DurableTaskWorker, "start", refuse)
        with pytest.raises(CommandError, match=r"can't start new thread\. Try a lower --concurrency"):
            call_command("durable_worker", "--burst", verbosity=0)

    def test_database_without_migrations(
        self, start: Start, command_environment: dict[str, str], tmp_path: Path
    ) -> None:
        command_environment["DATABASE_URL"] = f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        command = start("--burst")
        assert command.exit_code() == 1
        assert "lacks durable_django.0001_initial" in command.log
        assert "manage.py migrate" in command.log

    def test_database_that_is_away(self, start: Start, command_environment: dict[str, str]) -> None:
        command_environment["DATABASE_URL"] = "sqlite:////nowhere/at/all.sqlite3"
        command = start("--burst")
        assert command.exit_code() == 1
        assert "CommandError: Database 'default' cannot be used" in command.log

    def test_faulty_settings(self, start: Start) -> None:
        command = start("--burst", POLL_INTERVALL=1)
        assert command.exit_code() == 1
        assert "Did you mean 'POLL_INTERVAL'?" in command.log
