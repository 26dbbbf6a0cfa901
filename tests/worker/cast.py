"""The entities and orchestrations that tests of entity turns let meet."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction

from durable_django import task
from durable_django.client import DurableTaskClient
from durable_django.entities import DurableEntity, EntityContext, EntityInstanceId
from tests.worker.town import Town

Steps = Generator[task.Task[Any], Any, Any]

A, B, C = (EntityInstanceId("account", key) for key in "abc")


class Account(DurableEntity):
    def __init__(self) -> None:
        self.set_state(10)

    def get(self) -> int:
        return self.get_state(int, 0)

    def add(self, amount: int) -> int:
        self.set_state(self.get_state(int, 0) + amount)
        return self.get()

    def spend(self, amount: int) -> None:
        """Do everything, then fail if there is too little."""
        Group.objects.create(name=f"spent {amount}")
        self.signal_entity(EntityInstanceId("log", "log"), "note", amount)
        self.schedule_new_orchestration("greet", amount, f"spent-{amount}")
        self.add(-amount)
        if self.get() < 0:
            raise ValueError("too little")

    async def spend_async(self, amount: int) -> None:
        await Group.objects.acreate(name=f"async {amount}")
        self.add(-amount)
        if self.get() < 0:
            raise ValueError("too little")

    def break_transaction(self) -> str:
        Group.objects.create(name="once")
        try:
            Group.objects.create(name="once")
        except IntegrityError:
            return "hidden"
        return "impossible"

    def exit(self) -> None:
        raise SystemExit

    def commit(self) -> None:
        Group.objects.create(name="by itself")
        with connection.cursor() as cursor:
            cursor.execute("COMMIT")

    def hook(self, fail: bool) -> None:
        transaction.on_commit(lambda: HOOKED.append(fail))
        if fail:
            raise ValueError("hooked")

    def grow(self) -> None:
        self.set_state("x" * 2000)

    def shout(self) -> str:
        return "x" * 2000


HOOKED: list[bool] = []


def log(ctx: EntityContext, input: Any) -> None:
    ctx.set_state([*ctx.get_state(list, []), input])


def greet(ctx: task.OrchestrationContext, name: Any) -> str:
    return f"Hello {name}"


def caller(ctx: task.OrchestrationContext, calls: list[list[Any]]) -> Steps:
    """Call one after another, and return results and what failures say."""
    results: list[Any] = []
    for key, operation, *given in calls:
        try:
            target = EntityInstanceId(key, "k") if len(key) > 1 else EntityInstanceId("account", key)
            results.append((yield ctx.call_entity(target, operation, *given)))
        except task.TaskFailedError as error:
            results.append(str(error))
    return results


def holder(ctx: task.OrchestrationContext, keys: str) -> Steps:
    """Hold locks until an event says what to do."""
    with (yield ctx.lock_entities([EntityInstanceId("account", key) for key in keys])):
        told = yield ctx.wait_for_external_event("go")
        if told == "fail":
            raise ValueError(told)
        if told == "again":
            ctx.continue_as_new("z")
            return None
        for key in keys:
            yield ctx.call_entity(EntityInstanceId("account", key), "add", 1)
    return "done"


def make_town() -> Town:
    HOOKED.clear()
    return Town(greet, caller, holder, entities={"account": Account, "log": log}, max_bytes=1000)


def start(fn: Callable[..., Any], input: Any, instance_id: str) -> str:
    return DurableTaskClient().schedule_new_orchestration(fn, input=input, instance_id=instance_id)
