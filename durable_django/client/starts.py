"""What clients start: orchestrations with their inputs and ids, checked before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.db.models import Model

from durable_django.client.checks import check_tags, check_time, check_version
from durable_django.conf import settings
from durable_django.core.errors import OrchestrationAlreadyExistsError
from durable_django.core.ids import check_instance_id, check_name, new_execution_id, new_instance_id
from durable_django.core.registry import (
    OrchestratorRegistration,
    check_priority,
    default_registry,
    get_name,
    registration_of,
)
from durable_django.core.serialization import PayloadCodec
from durable_django.store import clock
from durable_django.store.instances import NewInstance
from durable_django.store.subjects import Subject

Orchestrator = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Start:
    """All that starts of one orchestrator have in common; ``start_at`` is naive UTC."""

    codec: PayloadCodec
    name: str
    version: str | None
    queue: str
    priority: int
    tags: dict[str, str] | None
    start_at: datetime
    subject: Subject | None

    @classmethod
    def checked(
        cls,
        codec: PayloadCodec,
        orchestrator: Orchestrator | str,
        *,
        version: str | None,
        queue: str | None,
        priority: int | None,
        tags: Mapping[str, str] | None,
        start_at: datetime | None,
        subject: Model | None,
    ) -> Start:
        """Check what a caller has given, and fill in the orchestrator's own options and the settings'.

        Raises:
            PayloadError: No database holds a tag.
            TypeError: An argument is of the wrong type.
            ValueError: The name or another argument is out of bounds.
        """
        name = check_name(
            "orchestrator", orchestrator if isinstance(orchestrator, str) else get_name(orchestrator)
        )
        options = _options(orchestrator, name)
        return cls(
            codec,
            name,
            version=check_version(version) or settings.DEFAULT_VERSION,
            queue=options.queue or settings.DEFAULT_QUEUE if queue is None else check_name("queue", queue),
            priority=options.priority if priority is None else check_priority(priority),
            tags=check_tags(tags, codec),
            start_at=check_time("start_at", start_at) or clock.now(),
            subject=None if subject is None else Subject.of(subject),
        )

    def one(self, input: Any, instance_id: str | None) -> NewInstance:
        """Return one instance to start.

        Raises:
            PayloadError: The input is too large, or no database holds it.
            TypeError: The input cannot be serialized.
            ValueError: The id is out of bounds.
        """
        checked_id = new_instance_id() if instance_id is None else check_instance_id(instance_id)
        return self._instance(checked_id, input, f"the input of orchestrator {self.name!r}")

    def many(self, inputs: Iterable[Any], instance_ids: Iterable[str] | None) -> list[NewInstance]:
        """Return an instance to start for each input, in order. What is wrong is named with its index.

        Raises:
            OrchestrationAlreadyExistsError: An id is given twice.
            PayloadError: An input is too large, or no database holds it.
            TypeError: An input cannot be serialized, or an argument is of the wrong type.
            ValueError: An id is out of bounds, or there are not as many ids as inputs.
        """
        given = list(_several("inputs", inputs))
        ids = _new_ids(len(given)) if instance_ids is None else _checked_ids(instance_ids, len(given))
        return [
            self._instance(instance_id, value, f"inputs[{index}] of orchestrator {self.name!r}")
            for index, (instance_id, value) in enumerate(zip(ids, given, strict=True))
        ]

    def _instance(self, instance_id: str, input: Any, what: str) -> NewInstance:
        return NewInstance(
            instance_id=instance_id,
            execution_id=new_execution_id(),
            name=self.name,
            version=self.version,
            queue=self.queue,
            priority=self.priority,
            input=self.codec.dumps(input, what),
            tags=self.tags,
            subject=self.subject,
            start_at=self.start_at,
        )


def _options(orchestrator: Orchestrator | str, name: str) -> OrchestratorRegistration:
    """Return what is known here of an orchestrator's queue and priority."""
    registered = default_registry.orchestrators.get(name)
    if registered is None:
        declared = registration_of(orchestrator)
        registered = declared if isinstance(declared, OrchestratorRegistration) else None
    return registered or OrchestratorRegistration(name, _unknown)


def _unknown(*_: object) -> None:
    """Stand for an orchestrator that only workers know."""


def _several(what: str, values: Iterable[Any]) -> Iterator[Any]:
    # These are iterable, and each is one value all the same.
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(
            f"{what} must be an iterable with one item per orchestration, not {type(values).__name__}. "
            "Put a single one into a list."
        )
    return iter(values)


def _new_ids(count: int) -> list[str]:
    # Instances are inserted by ascending id. With these they start in the order of their inputs.
    return sorted(new_instance_id() for _ in range(count))


def _checked_ids(instance_ids: Iterable[str], count: int) -> list[str]:
    given = islice(_several("instance_ids", instance_ids), count + 1)
    ids = [check_instance_id(value, f"instance_ids[{index}]") for index, value in enumerate(given)]
    if len(ids) != count:
        found = f"only {len(ids)}" if len(ids) < count else "more"
        raise ValueError(f"instance_ids has {found} for {count} inputs. Give one id for each input.")
    if twice := [repr(instance_id) for instance_id, times in Counter(ids).items() if times > 1]:
        raise OrchestrationAlreadyExistsError(
            f"instance_ids has {', '.join(twice)} more than once. Choose another id for each input."
        )
    return ids
