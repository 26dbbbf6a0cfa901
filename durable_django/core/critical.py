"""Critical sections: which entities an execution has locked, and what that forbids."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from durable_django.core.entity import EntityInstanceId

if TYPE_CHECKING:
    from durable_django.core.entity_calls import EntityCalls


class CriticalSection:
    """The locks of one execution, from their request to their release."""

    def __init__(self) -> None:
        self.section_id: str | None = None
        self.locks: tuple[EntityInstanceId, ...] = ()
        self._is_granted = False
        self._in_call: set[EntityInstanceId] = set()

    @property
    def is_open(self) -> bool:
        """Whether locks are requested or held."""
        return self.section_id is not None

    def check_request(self, entities: Iterable[EntityInstanceId]) -> tuple[EntityInstanceId, ...]:
        """Return the entities to lock, in the one order in which everybody locks them.

        Raises:
            RuntimeError: There are none, or there is a critical section already.
            TypeError: Something is not an `EntityInstanceId`, or they are no list.
        """
        if self.is_open:
            raise RuntimeError("A critical section cannot be entered from within a critical section.")
        try:
            wanted = list(entities)
        except TypeError:
            kind = type(entities).__name__
            raise TypeError(f"lock_entities() takes a list of EntityInstanceIds, not {kind}") from None
        for entity in wanted:
            if not isinstance(entity, EntityInstanceId):
                raise TypeError(f"lock_entities() takes EntityInstanceIds, not {type(entity).__name__}")
        if not wanted:
            raise RuntimeError("lock_entities() needs at least one entity to lock.")
        return tuple(sorted(set(wanted)))

    def enter(self, section_id: str, locks: tuple[EntityInstanceId, ...]) -> None:
        """Note that the locks are requested."""
        self.section_id, self.locks = section_id, locks
        self._is_granted = False
        self._in_call.clear()

    def grant(self, section_id: str) -> bool:
        """Note that the locks are held; False if they are not those that were asked for."""
        if section_id != self.section_id:
            return False
        self._is_granted = True
        return True

    def check_call(self, entity: EntityInstanceId) -> None:
        """Check that ``entity`` may be called now, and note that it is.

        Raises:
            RuntimeError: It may not.
        """
        if not self.is_open:
            return
        if not self._is_granted:
            raise RuntimeError("No entity can be called before the requested locks are granted.")
        if entity not in self.locks:
            raise RuntimeError(f"Entity {entity} cannot be called in a critical section: it is not locked.")
        if entity in self._in_call:
            raise RuntimeError(f"Entity {entity} cannot be called: a call to it is still under way.")
        self._in_call.add(entity)

    def returned(self, entity: EntityInstanceId) -> None:
        """Note that a call has ended."""
        self._in_call.discard(entity)

    def check_signal(self, entity: EntityInstanceId) -> None:
        """Check that ``entity`` may be signalled now.

        Raises:
            RuntimeError: It may not.
        """
        if entity in self.locks:
            raise RuntimeError(f"Entity {entity} cannot be signalled while it is locked: call it instead.")

    def check_child(self) -> None:
        """Check that a sub-orchestration may be started now.

        Raises:
            RuntimeError: It may not.
        """
        if self.is_open:
            raise RuntimeError("A sub-orchestration cannot be started in a critical section.")

    def leave(self) -> tuple[EntityInstanceId, ...]:
        """Note that the section is over, and return what to unlock; nothing, the second time."""
        locks, self.locks = self.locks, ()
        self.section_id = None
        self._in_call.clear()
        return locks


class EntityLock:
    """A critical section's locks, held from ``with`` to the end of its block."""

    def __init__(self, calls: EntityCalls, section_id: str) -> None:
        self._calls = calls
        self._section_id = section_id

    def __enter__(self) -> EntityLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.leave(self._section_id)
