"""Entities under everything at once, against a model: which marks must, and which may, be in whose state."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from durable_django import task
from durable_django.entities import DurableEntity, EntityInstanceId
from durable_django.models import (
    Entity,
    EntityOperation,
    EntityOperationKind,
    HistoryEvent,
    Instance,
    InstanceStatus,
    Message,
)
from tests.worker.byhand import USING, client
from tests.worker.town import Town, locked, signal, state, waiting

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]

KEYS = "abc"
keys = st.sampled_from(KEYS)
_LIVE = (InstanceStatus.RUNNING, InstanceStatus.PENDING, InstanceStatus.SUSPENDED)


class Board(DurableEntity):
    """Keeps marks, each once at most."""

    def __init__(self) -> None:
        self.set_state([])

    def get(self) -> list[str]:
        return self.get_state(list, [])

    def mark(self, mark: str) -> None:
        self.set_state([*self.get(), mark])

    def put(self, marks: list[str]) -> None:
        self.set_state(marks)

    def fail(self, mark: str) -> None:
        self.mark(mark)
        self.signal_entity(EntityInstanceId("board", KEYS[0]), "mark", mark)
        raise ValueError(mark)

    def stumble(self, mark: str) -> None:
        if mark not in MENDED:
            self.fail(mark)


MENDED: set[str] = set()
"""Those whose operations stumble no more."""


def board(key: str) -> EntityInstanceId:
    return EntityInstanceId("board", key)


def caller(ctx: task.OrchestrationContext, order: list[str]) -> Steps:
    key, operation = order
    try:
        yield ctx.call_entity(board(key), operation, ctx.instance_id)
    except task.TaskFailedError:
        return "failed"
    return "fine"


def holder(ctx: task.OrchestrationContext, wanted: str) -> Steps:
    """Read, wait and write under locks: a lock that does not hold loses somebody's mark."""
    with (yield ctx.lock_entities([board(key) for key in wanted])):
        read = yield task.when_all([ctx.call_entity(board(key), "get") for key in sorted(set(wanted))])
        told = yield ctx.wait_for_external_event("go")
        if told == "fail":
            raise ValueError(told)
        if told == "again":
            ctx.continue_as_new(wanted)
            return None
        if told == "stumble":
            yield ctx.call_entity(board(max(wanted)), "stumble", ctx.instance_id)
        for key, marks in zip(sorted(set(wanted)), read, strict=True):
            yield ctx.call_entity(board(key), "put", [*marks, ctx.instance_id])
    return "done"


class EntityMachine(RuleBasedStateMachine):
    """Signals, calls, locks, failures, control and crashes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        for model in (Entity, EntityOperation, HistoryEvent, Message, Instance):
            model._default_manager.using(USING).all().delete()
        self.town = Town(caller, holder, entities={"board": Board})
        self.number = 0
        MENDED.clear()
        self.marks: dict[str, set[str]] = {key: set() for key in KEYS}
        self.callers: dict[str, str] = {}
        self.holders: dict[str, str] = {}
        self.rewound: set[str] = set()
        """Where marks may be lost: a rewound holder writes back what it read under its former locks."""

    def name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    # ---------------------------------------------------------------- what the world does

    @rule(key=keys, fails=st.booleans())
    def signal(self, key: str, fails: bool) -> None:
        mark = self.name("signal")
        signal("board", key, "fail" if fails else "mark", mark)
        if not fails:
            self.marks[key].add(mark)

    @rule(key=keys, fails=st.booleans())
    def call(self, key: str, fails: bool) -> None:
        mark = self.name("call")
        client().schedule_new_orchestration(
            caller, input=[key, "fail" if fails else "mark"], instance_id=mark
        )
        self.callers[mark] = "failed" if fails else "fine"
        if not fails:
            self.marks[key].add(mark)

    @rule(wanted=st.text(KEYS, min_size=1, max_size=4))
    def hold(self, wanted: str) -> None:
        mark = self.name("holder")
        client().schedule_new_orchestration(holder, input=wanted, instance_id=mark)
        self.holders[mark] = wanted

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), told=st.sampled_from(["go", "fail", "again", "stumble", "stumble"]))
    def tell(self, data: st.DataObject, told: str) -> None:
        client().raise_orchestration_event(data.draw(st.sampled_from(sorted(self.holders))), "go", data=told)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), purge=st.booleans())
    def terminate(self, data: st.DataObject, purge: bool) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.holders)))
        client().terminate_orchestration(chosen)
        if purge and client().purge_orchestration(chosen).deleted_instance_count:
            self.holders.pop(chosen)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.holders)))
        if Instance.objects.get(instance_id=chosen).status == InstanceStatus.FAILED:
            MENDED.add(chosen)
            self.rewound |= set(self.holders[chosen])
            client().rewind_orchestration(chosen)

    # ---------------------------------------------------------------- what workers do

    @rule()
    def turn(self) -> None:
        self.town.turn()

    @rule(key=keys)
    def perform(self, key: str) -> None:
        self.town.perform("board", key)

    @rule()
    def settle(self) -> None:
        self.town.settle()

    @rule()
    def turn_and_crash(self) -> None:
        with transaction.atomic(USING):
            self.town.turn()
            transaction.set_rollback(True, using=USING)
        self.town.crash()

    @rule(key=keys)
    def perform_and_crash(self, key: str) -> None:
        with transaction.atomic(USING):
            self.town.perform("board", key)
            transaction.set_rollback(True, using=USING)

    # ---------------------------------------------------------------- what must hold

    @invariant()
    def every_lock_has_a_live_holder_or_is_being_released(self) -> None:
        for entity in Entity.objects.filter(lock_instance__isnull=False):
            owner = Instance.objects.filter(pk=entity.lock_instance_id or 0).first()
            if owner and owner.status in _LIVE and owner.execution_id == entity.lock_execution_id:
                continue
            releases = EntityOperation.objects.filter(
                key=entity.key,
                kind=EntityOperationKind.RELEASE,
                instance=entity.lock_instance_id,
                execution_id=entity.lock_execution_id,
                request=entity.lock_request,
            )
            assert releases.exists(), (str(entity), waiting())

    @invariant()
    def no_mark_is_there_twice(self) -> None:
        for key in KEYS:
            found = state("board", key) or []
            assert len(found) == len(set(found)), found
            assert {mark for mark in found if not mark.startswith("holder")} <= self.marks[key]

    def teardown(self) -> None:
        """Let everything end, and compare."""
        self.town.settle()
        for _ in range(50):
            live = Instance.objects.filter(status__in=_LIVE)
            if not live.exists():
                break
            for instance in live:
                client().raise_orchestration_event(instance.instance_id, "go", data="go")
            self.town.settle()
        assert waiting() == locked() == []
        ended = {found.instance_id: found for found in Instance.objects.all()}
        for key in KEYS:
            found = {mark for mark in state("board", key) or [] if not mark.startswith("holder")}
            assert found == self.marks[key] or (key in self.rewound and found < self.marks[key])
        for mark, result in self.callers.items():
            assert ended[mark].output == f'"{result}"'
        for mark, wanted in self.holders.items():
            if ended[mark].status == InstanceStatus.COMPLETED:
                assert all(mark in state("board", key) for key in set(wanted) - self.rewound)


def test_entities_agree_with_the_model() -> None:
    run_state_machine_as_test(
        EntityMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
