"""Entities and orchestrations whose every turn a test takes by hand, in the test's own thread."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from durable_django.core.options import ExecutionOptions
from durable_django.core.registry import Registry
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, PayloadCodec
from durable_django.entities import EntityInstanceId
from durable_django.models import Entity, EntityOperation, EntityOperationKind, Instance
from durable_django.store.families import TERMINAL
from durable_django.store.scope import Scope
from durable_django.worker.entities import EntityProcessor, EntityReport
from durable_django.worker.turns import TurnProcessor
from durable_django.worker.work import Report, Work
from tests.worker.byhand import USING, client

_MOST_ROUNDS = 200
_ROUNDS_EACH = 20
"""How many rounds more each live orchestration may take: those that want one lock take turns."""


class Town:
    """A `TurnProcessor` and an `EntityProcessor` over one registry."""

    def __init__(
        self,
        *orchestrators: Callable[..., Any],
        entities: dict[str, Callable[..., Any]] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.registry = Registry()
        for orchestrator in orchestrators:
            self.registry.add_orchestrator(orchestrator)
        for name, entity in (entities or {}).items():
            self.registry.add_entity(entity, name)
        codec = PayloadCodec(DEFAULT_DATA_CONVERTER, max_bytes or 1_000_000)
        scope = Scope()
        self.turns = TurnProcessor(USING, ExecutionOptions(self.registry), scope, worker="town")
        self.entities = EntityProcessor(USING, self.registry, codec, scope.entities)

    def turn(self) -> Report:
        """Move every instance that has something to do, once."""
        return self.turns.run(Work(scan=True, starts=100))

    def perform(self, name: str, key: str) -> EntityReport:
        """Have one entity perform its operations."""
        return self.entities.run((name, key))

    def perform_all(self) -> int:
        """Have every entity that is ready perform its operations, once."""
        return sum(self.entities.run(address).performed for address in self.entities.ready(100))

    def settle(self) -> None:
        """Go on until nothing is ready."""
        most = (
            _MOST_ROUNDS + _ROUNDS_EACH * Instance.objects.using(USING).exclude(status__in=TERMINAL).count()
        )
        for _ in range(most):
            if not self.turn().did_something and not self.perform_all():
                return
        raise AssertionError(f"not idle after {most} rounds")

    def crash(self) -> None:
        """Forget what is in memory."""
        self.turns.cache.clear()


def signal(name: str, key: str, operation: str, input: Any = None, **options: Any) -> None:
    client().signal_entity(EntityInstanceId(name, key), operation, input, **options)


def entity(name: str, key: str) -> Entity:
    return Entity.objects.using(USING).get(name=name, key=key)


def state(name: str, key: str) -> Any:
    """Return an entity's state; None if it has none."""
    found = Entity.objects.using(USING).filter(name=name, key=key).first()
    return None if found is None or found.state is None else json.loads(found.state)


def locked() -> list[str]:
    """Return the entities that are locked."""
    return [str(found) for found in Entity.objects.using(USING).filter(lock_instance__isnull=False)]


def waiting() -> list[str]:
    """Return what waits at entities, as kind, name and key."""
    return [
        f"{EntityOperationKind(op.kind).name} {op.name} {op.key}"
        for op in EntityOperation.objects.using(USING).order_by("pk")
    ]
