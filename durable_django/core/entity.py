"""Entities: how they are named, and how one operation runs on one state. Pure: what it wants done is data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Self, TypeVar, overload

from durable_django.core.annotations import input_type
from durable_django.core.errors import FailureDetails, TaskFailedError, public_in
from durable_django.core.ids import check_instance_id, check_name, check_text, new_instance_id
from durable_django.core.registry import EntityRegistration
from durable_django.core.serialization import PayloadCodec
from durable_django.core.times import naive_utc

T = TypeVar("T")

DELETE = "delete"


@dataclass(frozen=True, order=True, slots=True)
class EntityInstanceId:
    """Names one entity: what it is, in lower case, and its key, as it is. Ordered by both.

    Raises:
        ValueError: A part is empty, too long, or has an ``@`` or a control character in it.
    """

    entity: str
    key: str

    def __post_init__(self) -> None:
        entity = check_name("entity", self.entity).lower()
        if len(entity) > len(self.entity):  # So it is with some letters.
            check_name("entity", entity)
        for part, value in (("entity", entity), ("key", check_text("key", self.key))):
            if "@" in value:
                raise ValueError(f"{part} must not have an '@' in it: {value!r}")
        object.__setattr__(self, "entity", entity)

    def __str__(self) -> str:
        return f"@{self.entity}@{self.key}"

    @classmethod
    def parse(cls, entity_id: str) -> Self:
        """Return the id that ``@entity@key`` stands for.

        Raises:
            ValueError: It is no text, or has another form.
        """
        if not isinstance(entity_id, str):
            raise ValueError(f"an entity id must be a str, not {type(entity_id).__name__}")
        blank, *parts = entity_id.split("@")
        if blank or len(parts) != 2:
            raise ValueError(f"an entity id has the form @entity@key, and {entity_id!r} has not")
        return cls(*parts)


@public_in("durable_django.entities")
class EntityOperationFailedException(TaskFailedError):
    """An operation that an orchestrator called has failed; ``failure_details`` are the operation's."""

    def __init__(
        self, entity_instance_id: EntityInstanceId, operation_name: str, failure_details: FailureDetails
    ) -> None:
        super().__init__(
            f"Operation '{operation_name}' on entity '{entity_instance_id}' failed with error: "
            f"{failure_details.message}",
            failure_details,
        )
        self.entity_instance_id = entity_instance_id
        self.operation_name = operation_name
        self.failure_details = failure_details


@dataclass(frozen=True, slots=True)
class Signal:
    """A one-way operation to send, at ``due`` (naive UTC) or at once."""

    target: EntityInstanceId
    operation: str
    payload: str | None
    due: datetime | None


@dataclass(frozen=True, slots=True)
class Start:
    """An orchestration to start."""

    name: str
    instance_id: str
    payload: str | None


@dataclass(slots=True)
class Effects:
    """What one operation wants done; nothing of it is, if the operation fails."""

    state: str | None
    signals: list[Signal] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)


class EntityContext:
    """What an entity's operation is given: its state, and its door to the world."""

    def __init__(
        self,
        orchestration_id: str,
        operation: str,
        entity_id: EntityInstanceId,
        state: str | None,
        codec: PayloadCodec | None = None,
        now: datetime | None = None,
    ) -> None:
        self._orchestration_id = orchestration_id
        self._operation = operation
        self._entity_id = entity_id
        self._codec = codec or PayloadCodec()
        self._now = now
        self._effects = Effects(state)
        self._keeps_state = False

    @property
    def orchestration_id(self) -> str:
        """The id of the instance that called or signalled; empty when a client or an entity did."""
        return self._orchestration_id

    @property
    def operation(self) -> str:
        """The name of the operation."""
        return self._operation

    @property
    def entity_id(self) -> EntityInstanceId:
        """This entity's id."""
        return self._entity_id

    @property
    def current_utc_datetime(self) -> datetime:
        """When the operation began, naive UTC.

        Raises:
            RuntimeError: Nobody has told: the context was made by hand, without ``now``.
        """
        if self._now is None:
            raise RuntimeError("This context was made without a time: give it now=.")
        return self._now

    @overload
    def get_state(self, intended_type: type[T], default: T) -> T: ...

    @overload
    def get_state(self, intended_type: type[T]) -> T | None: ...

    @overload
    def get_state(self, intended_type: None = None, default: Any = None) -> Any: ...

    def get_state(self, intended_type: Any = None, default: Any = None) -> Any:
        """Return a fresh copy of the state, rebuilt as ``intended_type``; ``default`` if there is none."""
        if self._effects.state is None:
            return default
        return self._codec.loads(self._effects.state, intended_type)

    def set_state(self, new_state: Any) -> None:
        """Replace the state, serialised at once; None clears it."""
        payload = self._codec.dumps(new_state, f"the state of entity {self._entity_id}")
        if not (self._keeps_state and self._effects.state is not None):
            self._effects.state = payload

    def signal_entity(
        self,
        entity_instance_id: EntityInstanceId,
        operation: str,
        input: Any = None,
        signal_time: datetime | None = None,
    ) -> None:
        """Send an entity an operation, at ``signal_time`` (naive is UTC) or at once, and do not wait."""
        self._effects.signals.append(
            make_signal(self._codec, entity_instance_id, operation, input, signal_time)
        )

    def schedule_new_orchestration(
        self, orchestration_name: str, input: Any = None, instance_id: str | None = None
    ) -> str:
        """Start an orchestration once the operation is done, and return its id.

        If the id is taken by then, nothing is started.
        """
        name = check_name("orchestrator", orchestration_name)
        chosen = new_instance_id() if instance_id is None else check_instance_id(instance_id)
        payload = self._codec.dumps(input, "the input of orchestrator", name)
        self._effects.starts.append(Start(name, chosen, payload))
        return chosen

    @contextmanager
    def _initialising(self) -> Iterator[None]:
        """Let `set_state` give a first state, but not replace one: a class's ``__init__`` runs every time."""
        self._keeps_state = True
        try:
            yield
        finally:
            self._keeps_state = False


def check_entity_id(entity_id: object) -> None:
    """Raise TypeError unless it is the id of an entity."""
    if not isinstance(entity_id, EntityInstanceId):
        raise TypeError(f"the entity must be an EntityInstanceId, not {type(entity_id).__name__}")


def make_signal(
    codec: PayloadCodec,
    target: EntityInstanceId,
    operation: str,
    value: Any,
    signal_time: datetime | None,
) -> Signal:
    """Return a checked signal.

    Raises:
        TypeError, ValueError: The target, the operation, the input or the time is not what it must be.
    """
    check_entity_id(target)
    check_name("operation", operation)
    if signal_time is not None and not isinstance(signal_time, datetime):
        raise TypeError(f"signal_time must be a datetime or None, not {type(signal_time).__name__}")
    due = None if signal_time is None else naive_utc("signal_time", signal_time)
    payload = codec.dumps(value, "the input of operation", operation)
    return Signal(target, operation, payload, due)


class DurableEntity:
    """The base of entities that are classes: each public method of the class is an operation.

    Every operation gets a fresh object. ``__init__`` may set a first state.
    """

    _context: EntityContext

    def _initialize_entity_context(self, context: EntityContext) -> None:
        self._context = context

    @property
    def entity_context(self) -> EntityContext:
        """The context of the present operation."""
        return self._context

    @overload
    def get_state(self, intended_type: type[T], default: T) -> T: ...

    @overload
    def get_state(self, intended_type: type[T]) -> T | None: ...

    @overload
    def get_state(self, intended_type: None = None, default: Any = None) -> Any: ...

    def get_state(self, intended_type: Any = None, default: Any = None) -> Any:
        """Return a fresh copy of the state; see `EntityContext.get_state`."""
        return self._context.get_state(intended_type, default)

    def set_state(self, state: Any) -> None:
        """Replace the state; see `EntityContext.set_state`."""
        self._context.set_state(state)

    def signal_entity(
        self,
        entity_instance_id: EntityInstanceId,
        operation: str,
        input: Any = None,
        signal_time: datetime | None = None,
    ) -> None:
        """Send an entity an operation; see `EntityContext.signal_entity`."""
        self._context.signal_entity(entity_instance_id, operation, input, signal_time)

    def schedule_new_orchestration(
        self, orchestration_name: str, input: Any = None, instance_id: str | None = None
    ) -> str:
        """Start an orchestration; see `EntityContext.schedule_new_orchestration`."""
        return self._context.schedule_new_orchestration(orchestration_name, input, instance_id)

    def delete(self, input: Any = None) -> Any:
        """Clear the state."""
        self.set_state(None)


def perform(registered: EntityRegistration, context: EntityContext, payload: str | None) -> Any:
    """Perform the context's operation and return its result, to be awaited where it is awaitable.

    Raises:
        AttributeError: A class has no such operation.
        Exception: Whatever the operation raises.
    """
    codec = context._codec
    if not isinstance(registered.fn, type):
        return registered.fn(context, codec.loads(payload, input_type(registered.fn, codec.converter)))
    cls: Any = registered.fn
    method = _operation_of(cls, context.operation)
    entity = cls.__new__(cls)
    if isinstance(entity, DurableEntity):
        entity._initialize_entity_context(context)
    with context._initialising():
        cls.__init__(entity)
    if payload is None and not _needs_input(method):
        return method(entity)
    return method(entity, codec.loads(payload, input_type(method, codec.converter)))


@lru_cache(maxsize=4096)
def _operation_of(cls: type, operation: str) -> Callable[..., Any]:
    """Return the method that is ``operation``: public, and the class's own rather than its base's."""
    if not operation.startswith("_"):
        for base in cls.__mro__:
            if base in (DurableEntity, object):
                continue
            if operation in vars(base):
                method = vars(base)[operation]
                if inspect.isfunction(method):
                    return method
                break
        if operation == DELETE and issubclass(cls, DurableEntity):
            return DurableEntity.delete
    raise AttributeError(f"Entity {cls.__name__!r} has no operation {operation!r}.")


@lru_cache(maxsize=4096)
def _needs_input(method: Callable[..., Any]) -> bool:
    _, *parameters = inspect.signature(method).parameters.values()
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )
