"""What clients are told of an entity."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, overload

from durable_django.core.entity import EntityInstanceId
from durable_django.core.errors import public_in
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, DataConverter

T = TypeVar("T")


@public_in("durable_django.entities")
@dataclass(frozen=True)
class EntityMetadata:
    """An entity as it was when it was read.

    ``last_modified`` is aware; ``backlog_queue_size`` counts the operations that wait, future signals
    included. ``locked_by`` is the id of the instance whose critical section holds it.
    """

    id: EntityInstanceId
    last_modified: datetime
    backlog_queue_size: int
    locked_by: str | None = None
    includes_state: bool = True
    _state: str | None = field(default=None, repr=False)
    _converter: DataConverter = field(default=DEFAULT_DATA_CONVERTER, repr=False, compare=False)

    @overload
    def get_state(self, intended_type: type[T]) -> T | None: ...
    @overload
    def get_state(self, intended_type: None = None) -> Any: ...
    def get_state(self, intended_type: Any = None) -> Any:
        """Return the state as ``intended_type``, or its text as stored; None if there is none, or not read.

        Raises:
            TypeError: The state is no ``intended_type``; `get_typed_state` would return it as plain JSON.
        """
        if self._state is None or intended_type in (None, str):
            return self._state
        value = self._converter.deserialize(self._state, intended_type)
        if value is None or not isinstance(intended_type, type) or isinstance(value, intended_type):
            return value
        try:
            return intended_type(value)
        except Exception as error:
            raise TypeError(
                f"the state of entity {self.id} cannot be read as {intended_type.__name__}"
            ) from error

    @overload
    def get_typed_state(self, intended_type: type[T]) -> T | None: ...
    @overload
    def get_typed_state(self, intended_type: None = None) -> Any: ...
    def get_typed_state(self, intended_type: Any = None) -> Any:
        """Return the state as ``intended_type`` where it fits, else as plain JSON; None if there is none."""
        return self._converter.deserialize(self._state, intended_type)

    def get_locked_by(self) -> str | None:
        """Return the id of the instance that holds the entity's lock."""
        return self.locked_by
