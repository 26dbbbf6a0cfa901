"""The entity loop with an entity that a test holds: draining, and working again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import pytest

from durable_django.store import wakeup
from durable_django.store.operations import Address
from durable_django.store.scope import Served
from durable_django.worker.entities import EntityReport
from durable_django.worker.entity_loop import EntityLoop
from tests.acceptance.conftest import TIMEOUT, eventually

pytestmark = pytest.mark.django_db(transaction=True)

Note = Callable[[int], AbstractContextManager[None]]

A, B, C = ("box", "a"), ("box", "b"), ("box", "c")


class HeldProcessor:
    """Performs an operation when it may; says that entities have something to do until they have done it."""

    using = "default"
    served = Served()

    def __init__(self) -> None:
        self.waiting: set[Address] = set()
        self.begun: list[Address] = []
        self.noted: list[list[int]] = []
        self.suspect: Address | None = None
        self.is_careful = False
        self.go_on = threading.Event()
        self.looks = 0

    def ready(self, limit: int) -> list[Address]:
        self.looks += 1
        return sorted(self.waiting)[:limit]

    def next_due(self) -> datetime | None:
        return None

    def run(self, address: Address, *, leave_suspects: bool) -> EntityReport:
        if leave_suspects and address == self.suspect:
            return EntityReport(is_suspect=True)
        self.begun.append(address)
        assert self.go_on.wait(TIMEOUT)
        self.waiting.discard(address)
        return EntityReport(performed=1, has_more=address == A, sends_later=address == C)

    def run_noted(self, address: Address, note: Note, *, leave_suspects: bool) -> EntityReport:
        if leave_suspects and address == self.suspect:
            return EntityReport(is_suspect=True)
        with note(ord(address[1])):
            return self.run(address, leave_suspects=False)


@pytest.fixture
def processor() -> HeldProcessor:
    return HeldProcessor()


def make_loop(processor: HeldProcessor, poll_interval: float, threads: int = 1) -> EntityLoop:
    made: Any = processor
    return EntityLoop(
        made,
        threads=threads,
        poll_interval=lambda: poll_interval,
        moved=lambda _: None,
        careful=lambda: processor.is_careful,
        note=processor.noted.append,
        outbox=wakeup.Outbox("default"),
    )


@pytest.fixture
def loop(processor: HeldProcessor) -> Iterator[EntityLoop]:
    loop = make_loop(processor, 0.01)
    loop.start()
    yield loop
    processor.go_on.set()
    loop.stop()


def test_what_has_begun_ends_and_nothing_else_begins(processor: HeldProcessor, loop: EntityLoop) -> None:
    processor.waiting = {A, B}
    loop.hint()
    eventually(lambda: processor.begun == [A])
    loop.drain()
    assert (loop.is_idle, loop.busy) == (False, 1)
    told = threading.Event()
    with wakeup.hub("default").worker(told.set, listen=False):
        processor.go_on.set()
        eventually(lambda: loop.is_idle)
        # It has more to do, and nobody else was told.
        assert told.wait(TIMEOUT)
    loop.submit([B])
    loop.hint()
    looks = processor.looks
    assert loop.is_idle
    assert (processor.begun, loop.busy) == ([A], 0)

    loop.resume()
    eventually(lambda: processor.waiting == set())
    eventually(lambda: loop.is_idle)
    assert processor.begun.count(B) >= 1
    assert processor.looks > looks


def test_a_drained_loop_ends_when_it_is_stopped(processor: HeldProcessor, loop: EntityLoop) -> None:
    loop.drain()
    loop.drain()
    loop.submit([A])
    assert loop.is_idle
    loop.stop()
    assert processor.begun == []


def test_after_a_death_each_operation_is_noted(processor: HeldProcessor, loop: EntityLoop) -> None:
    processor.is_careful = True
    processor.waiting = {B}
    processor.go_on.set()
    loop.hint()
    eventually(lambda: loop.is_idle and processor.waiting == set())
    assert processor.noted == [[ord("b")], []]


def test_a_slow_operation_holds_up_no_others_after_a_death(processor: HeldProcessor) -> None:
    loop = make_loop(processor, 0.01, threads=2)
    processor.is_careful = True
    loop.start()
    try:
        loop.submit([B, C])
        eventually(lambda: sorted(processor.begun) == [B, C])
        assert processor.noted[-1] == [ord("b"), ord("c")]
    finally:
        processor.go_on.set()
        loop.stop()
    assert processor.noted[-1] == []


def test_a_suspect_runs_beside_no_other_and_is_left_when_it_is_to_stop(processor: HeldProcessor) -> None:
    loop = make_loop(processor, 0.01, threads=2)
    processor.suspect = B
    loop._alone.acquire()
    loop.start()
    try:
        loop.submit([B, A])
        eventually(lambda: processor.begun == [A])
        processor.go_on.set()
    finally:
        loop.stop()
    assert B not in processor.begun


def test_a_suspect_is_noted_whenever_it_comes(processor: HeldProcessor, loop: EntityLoop) -> None:
    processor.suspect = B
    processor.waiting = {A, B}
    processor.go_on.set()
    loop.hint()
    eventually(lambda: loop.is_idle and processor.waiting == set())
    assert processor.noted == [[ord("b")], []]


def test_signals_to_come_are_looked_for_at_once(processor: HeldProcessor) -> None:
    loop = make_loop(processor, 2 * TIMEOUT)
    loop._pause = 2 * TIMEOUT
    processor.go_on.set()
    loop.start()
    try:
        eventually(lambda: loop.is_idle and processor.looks == 1)
        loop.submit([C])
        eventually(lambda: processor.looks == 2)
    finally:
        loop.stop()


def test_what_is_not_served_here_is_announced(processor: HeldProcessor, loop: EntityLoop) -> None:
    processor.served = Served(names={"nobody": frozenset()})
    told = threading.Event()
    with wakeup.hub("default").worker(told.set, listen=False):
        loop.submit([A])
        assert told.wait(TIMEOUT)
    assert processor.begun == []


class FirstWait(threading.Event):
    """Notes whether there is something to wait for, and has the loop end."""

    def __init__(self, loop: EntityLoop) -> None:
        super().__init__()
        self._stopping = loop._stopping
        self.was_set: bool | None = None

    def wait(self, timeout: float | None = None) -> bool:
        self.was_set = self.is_set()
        self._stopping.set()
        return True


def test_the_first_look_sees_to_what_was_told_before(processor: HeldProcessor) -> None:
    loop = make_loop(processor, TIMEOUT)
    loop._wake = wake = FirstWait(loop)
    loop.hint()
    loop._look()
    assert processor.looks == 1
    assert wake.was_set is False, "it would look again at once"
