"""What a worker is told: how much at once, and which work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from durable_django.conf import settings
from durable_django.core.registry import Registry
from durable_django.store.scope import Scope, Served


@dataclass(kw_only=True)
class ConcurrencyOptions:
    """How much a worker does at once. None stands for the setting, or for a default that suits the machine.

    ``maximum_concurrent_orchestration_work_items`` bounds the instances of one transaction
    (``BATCH_INSTANCES``; with the last of a backlog, a quarter more), ``maximum_thread_pool_workers`` the
    threads for plain activities (``ACTIVITY_THREADS``), ``maximum_concurrent_activity_work_items`` all
    activities, ``async def`` ones included (``MAX_CONCURRENT_ACTIVITIES``).

    Raises:
        ValueError: A number is not positive.
    """

    maximum_concurrent_activity_work_items: int | None = None
    maximum_concurrent_orchestration_work_items: int | None = None
    maximum_concurrent_entity_work_items: int | None = None
    maximum_thread_pool_workers: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.maximum_concurrent_activity_work_items is None:
            self.maximum_concurrent_activity_work_items = settings.MAX_CONCURRENT_ACTIVITIES
        if self.maximum_concurrent_orchestration_work_items is None:
            self.maximum_concurrent_orchestration_work_items = settings.BATCH_INSTANCES
        if self.maximum_concurrent_entity_work_items is None:
            self.maximum_concurrent_entity_work_items = settings.ENTITY_THREADS
        if self.maximum_thread_pool_workers is None:
            self.maximum_thread_pool_workers = min(
                settings.ACTIVITY_THREADS, self.maximum_concurrent_activity_work_items
            )

    @property
    def entity_threads(self) -> int:
        """How many entities perform operations at once."""
        assert self.maximum_concurrent_entity_work_items is not None
        return min(self.maximum_concurrent_entity_work_items, settings.ENTITY_THREADS)


@dataclass(frozen=True)
class OrchestrationWorkItemFilter:
    """An orchestration to take, in these versions; in any, if there are none."""

    name: str
    versions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ActivityWorkItemFilter:
    """An activity to take, of orchestrations in these versions; in any, if there are none."""

    name: str
    versions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EntityWorkItemFilter:
    """An entity to take; names do not care for case."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.lower())


@dataclass(frozen=True)
class WorkItemFilters:
    """What a worker takes; of a category without entries, nothing."""

    orchestrations: list[OrchestrationWorkItemFilter] = field(default_factory=list)
    activities: list[ActivityWorkItemFilter] = field(default_factory=list)
    entities: list[EntityWorkItemFilter] = field(default_factory=list)

    @classmethod
    def of(cls, registry: Registry) -> WorkItemFilters:
        """Return filters for exactly what is registered."""
        return cls(
            [OrchestrationWorkItemFilter(name) for name in registry.orchestrators],
            [ActivityWorkItemFilter(name) for name in registry.activities],
            [EntityWorkItemFilter(name) for name in registry.entities],
        )


def scope_of(queues: Iterable[str] | None, filters: WorkItemFilters | None) -> Scope:
    """Return the scope of a worker with these queues and filters; None is all."""
    names = None if queues is None else frozenset(queues)
    if filters is None:
        return Scope(Served(names), Served(names))
    return Scope(
        Served(names, _names(filters.orchestrations)),
        Served(names, _names(filters.activities)),
        Served(None, {entry.name: frozenset() for entry in filters.entities}),
    )


def _names(
    filters: Sequence[OrchestrationWorkItemFilter | ActivityWorkItemFilter],
) -> dict[str, frozenset[str]]:
    names: dict[str, frozenset[str]] = {}
    for entry in filters:
        versions = frozenset(entry.versions)
        before = names.get(entry.name)
        # Any version, said once, is any version.
        names[entry.name] = versions if before is None else versions and before and versions | before
    return names
