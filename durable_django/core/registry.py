"""Which orchestrators, activities and entities there are, by name."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durable_django.core.errors import (
    ActivityNotRegisteredError,
    DurableTaskError,
    EntityNotRegisteredError,
    OrchestratorNotRegisteredError,
)
from durable_django.core.ids import check_name
from durable_django.core.retry import RetryPolicy, check_retry_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Function = Callable[..., Any]

MAX_PRIORITY = 32_767
"""The highest priority; the lowest is its negative. A small integer column holds both."""

_ATTRIBUTE = "__durable__"
_LAMBDA = "<lambda>"
_OWN = "durable_django."


@dataclass(frozen=True, slots=True)
class OrchestratorRegistration:
    """An orchestrator and its options: ``queue`` None is the default; the higher ``priority`` goes first."""

    name: str
    fn: Function
    queue: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ActivityRegistration:
    """An activity and its options; ``retry_policy`` applies to calls that bring none of their own.

    A ``local`` one is run by the turn that calls it.
    """

    name: str
    fn: Function
    queue: str | None = None
    priority: int = 0
    retry_policy: RetryPolicy | None = None
    is_async: bool = False
    atomic: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True)
class EntityRegistration:
    """An entity, function or class, under its lower-case name."""

    name: str
    fn: Function
    is_async: bool = False


Registration = OrchestratorRegistration | ActivityRegistration | EntityRegistration
_R = TypeVar("_R", OrchestratorRegistration, ActivityRegistration, EntityRegistration)


class Fault(Enum):
    """What rules a function out from being registered."""

    DUPLICATE_NAME = "duplicate name"
    LAMBDA = "lambda"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


class RegistrationError(DurableTaskError, ValueError):
    """A function cannot be registered; ``fault`` says why, ``fn`` is the function."""

    def __init__(self, message: str, fault: Fault, fn: Function) -> None:
        super().__init__(message)
        self.fault = fault
        self.fn = fn


def registration_of(fn: object) -> Registration | None:
    """Return what a decorator has declared of ``fn``; None for a function that none has touched."""
    # A subclass of a declared entity class is another entity: what it inherits does not count.
    declared = vars(fn).get(_ATTRIBUTE) if isinstance(fn, type) else getattr(fn, _ATTRIBUTE, None)
    return declared if declared is not None and isinstance(declared, Registration) else None


def get_name(fn: Function) -> str:
    """Return the name that ``fn`` goes by: the declared one, else its own.

    Raises ``ValueError`` for a lambda and for a callable that has no name.
    """
    if declared := registration_of(fn):
        return declared.name
    name = getattr(fn, "__name__", None)
    if name == _LAMBDA:
        raise RegistrationError(
            f"A lambda has no name: {_place(fn)}. Give it one with name=, or use def.",
            Fault.LAMBDA,
            fn,
        )
    if not isinstance(name, str):
        raise ValueError(f"{fn!r} has no __name__. Give it a name with name=, or wrap it in a function.")
    return name


def get_entity_name(fn: Function) -> str:
    """Return the lower-case name that an entity, function or class, goes by.

    Raises ``ValueError`` for a lambda and for a callable that has no name.
    """
    return get_name(fn).lower()


class Registry:
    """Orchestrators, activities and entities by name. Thread-safe; the mappings it gives are snapshots.

    The ``add_*`` methods raise ``RegistrationError`` (a ``ValueError``) for a name that is taken, a lambda
    without a name, and a function of a kind that cannot work. Options that are not given come from the
    function's decorator, if it has one.
    """

    def __init__(self) -> None:
        self._orchestrators = _Table[OrchestratorRegistration]("orchestrator")
        self._activities = _Table[ActivityRegistration]("activity")
        self._entities = _Table[EntityRegistration]("entity")
        self._lock = RLock()
        self._problems: tuple[RegistrationError, ...] = ()

    @property
    def orchestrators(self) -> Mapping[str, OrchestratorRegistration]:
        """The orchestrators by name."""
        return self._orchestrators.entries

    @property
    def startable(self) -> Mapping[str, OrchestratorRegistration]:
        """The orchestrators that people may start: not the package's own, ``durable_django.…``."""
        found = self._orchestrators.entries.items()
        return {name: registered for name, registered in found if not name.startswith(_OWN)}

    @property
    def activities(self) -> Mapping[str, ActivityRegistration]:
        """The activities by name."""
        return self._activities.entries

    @property
    def entities(self) -> Mapping[str, EntityRegistration]:
        """The entities by lower-case name."""
        return self._entities.entries

    @property
    def problems(self) -> tuple[RegistrationError, ...]:
        """What decorators could not register; system checks report it."""
        return self._problems

    def orchestrator(self, name: str) -> OrchestratorRegistration:
        """Return the orchestrator called ``name``, or raise ``OrchestratorNotRegisteredError``."""
        try:
            return self.orchestrators[name]
        except KeyError:
            message = _not_registered("orchestrator", name, self.orchestrators)
            raise OrchestratorNotRegisteredError(message) from None

    def activity(self, name: str) -> ActivityRegistration:
        """Return the activity called ``name``, or raise ``ActivityNotRegisteredError``."""
        try:
            return self.activities[name]
        except KeyError:
            raise ActivityNotRegisteredError(_not_registered("activity", name, self.activities)) from None

    def entity(self, name: str) -> EntityRegistration:
        """Return the entity called ``name`` in any case, or raise ``EntityNotRegisteredError``."""
        try:
            return self.entities[name.lower()]
        except KeyError:
            raise EntityNotRegisteredError(_not_registered("entity", name, self.entities)) from None

    def add_orchestrator(
        self, fn: Function, *, name: str | None = None, queue: str | None = None, priority: int | None = None
    ) -> str:
        """Register an orchestrator and return its name."""
        return self._add(
            self._orchestrators, make_orchestrator(fn, name=name, queue=queue, priority=priority)
        )

    def add_activity(
        self,
        fn: Function,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        retry_policy: RetryPolicy | None = None,
        local: bool | None = None,
    ) -> str:
        """Register an activity and return its name."""
        made = make_activity(
            fn, name=name, queue=queue, priority=priority, retry_policy=retry_policy, local=local
        )
        return self._add(self._activities, made)

    def add_entity(self, fn: Function, name: str | None = None) -> str:
        """Register an entity, function or class, and return its lower-case name."""
        return self._add(self._entities, make_entity(fn, name=name))

    def declare(self, registration: Registration) -> None:
        """Take what a decorator has declared, without raising: what is wrong goes to ``problems``.

        A function that a reload of its module has defined again replaces its former self.
        """
        with self._lock:
            origin = _origin(registration.fn)[:2]
            self._problems = tuple(p for p in self._problems if _origin(p.fn)[:2] != origin)
            try:
                _check_shape(registration)
                if isinstance(registration, OrchestratorRegistration):
                    self._orchestrators.insert(registration, replace_reloaded=True)
                elif isinstance(registration, ActivityRegistration):
                    self._activities.insert(registration, replace_reloaded=True)
                else:
                    self._entities.insert(registration, replace_reloaded=True)
            except RegistrationError as problem:
                self.note(problem)

    def note(self, problem: RegistrationError) -> None:
        """Remember a problem for the system checks."""
        with self._lock:
            self._problems += (problem,)

    def _add(self, table: _Table[_R], registration: _R) -> str:
        _check_shape(registration)
        with self._lock:
            table.insert(registration)
        return registration.name


class _Table(Generic[_R]):
    """The registrations of one kind. Writers replace the mapping, so that readers need no lock."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._origins: dict[str, tuple[str, str, object]] = {}
        self.entries: Mapping[str, _R] = MappingProxyType({})

    def insert(self, registration: _R, *, replace_reloaded: bool = False) -> None:
        name, origin = registration.name, _origin(registration.fn)
        if name in self.entries and not (replace_reloaded and _is_reloaded(self._origins[name], origin)):
            raise RegistrationError(
                f"The {self._kind} name '{name}' is taken by {_place(self.entries[name].fn)}. "
                f"Give {_place(registration.fn)} another one with name=.",
                Fault.DUPLICATE_NAME,
                registration.fn,
            )
        self._origins[name] = origin
        self.entries = MappingProxyType({**self.entries, name: registration})


def make_orchestrator(
    fn: Function, *, name: str | None = None, queue: str | None = None, priority: int | None = None
) -> OrchestratorRegistration:
    """Build an orchestrator's registration; options that are None come from the function's decorator."""
    known = registration_of(fn)
    if not isinstance(known, OrchestratorRegistration):
        known = OrchestratorRegistration("", fn)
    return OrchestratorRegistration(
        name=_name("orchestrator", fn, name),
        fn=fn,
        queue=known.queue if queue is None else check_name("queue", queue),
        priority=known.priority if priority is None else check_priority(priority),
    )


def make_activity(
    fn: Function,
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    retry_policy: RetryPolicy | None = None,
    local: bool | None = None,
) -> ActivityRegistration:
    """Build an activity's registration; options that are None come from the function's decorator."""
    known = registration_of(fn)
    if not isinstance(known, ActivityRegistration):
        known = ActivityRegistration("", fn)
    if retry_policy is not None:
        check_retry_policy(retry_policy)
    made = ActivityRegistration(
        name=_name("activity", fn, name),
        fn=fn,
        queue=known.queue if queue is None else check_name("queue", queue),
        priority=known.priority if priority is None else check_priority(priority),
        retry_policy=known.retry_policy if retry_policy is None else retry_policy,
        is_async=_is_async(fn),
        local=known.local if local is None else _check_flag("local", local),
    )
    if made.local:
        _check_local(made)
    return made


def make_entity(fn: Function, *, name: str | None = None) -> EntityRegistration:
    """Build an entity's registration."""
    checked = check_name("entity", _name("entity", fn, name).lower())
    if "@" in checked:
        raise ValueError(f"An entity name must not contain '@', which separates it from the key: '{checked}'")
    return EntityRegistration(name=checked, fn=fn, is_async=_is_async(fn))


def attach(registration: Registration) -> None:
    """Let the function carry its registration, for ``get_name`` and for calls by function."""
    try:
        setattr(registration.fn, _ATTRIBUTE, registration)
    except AttributeError:
        raise TypeError(f"{registration.fn!r} cannot be decorated. Wrap it in a function.") from None


def _name(kind: str, fn: Function, given: str | None) -> str:
    if not callable(fn):
        raise TypeError(f"An {kind} must be callable, not {type(fn).__name__}")
    return check_name(kind, get_name(fn) if given is None else given)


def check_priority(priority: object) -> int:
    """Return ``priority`` if it is one."""
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise TypeError(f"priority must be an int, not {type(priority).__name__}")
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise ValueError(f"priority must be between -{MAX_PRIORITY} and {MAX_PRIORITY}, not {priority}")
    return priority


def _check_flag(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{option} must be True or False, not {value!r}")
    return value


def _check_local(made: ActivityRegistration) -> None:
    """Refuse what a local activity cannot have: it is run in the turn's own thread, and waits in no queue."""
    if made.is_async:
        raise TypeError(
            f"Activity {_place(made.fn)} is async def, and local=True: a turn runs its local activities in "
            "its own thread and transaction. Write it with def, or drop local=True."
        )
    if made.queue is not None or made.priority:
        given = "queue" if made.queue is not None else "priority"
        raise ValueError(
            f"Activity {_place(made.fn)} has {given}=, and local=True: a local activity waits in no queue. "
            f"Drop {given}=, or local=True."
        )


def _check_shape(registration: Registration) -> None:
    """Refuse the kinds of function whose call could never give what the engine needs."""
    fn = registration.fn
    if isinstance(registration, OrchestratorRegistration):
        if inspect.isasyncgenfunction(fn):
            raise RegistrationError(
                f"Orchestrator {_place(fn)} is an async generator. Use `await` alone (async def) or `yield` "
                "alone (def).",
                Fault.ASYNC_GENERATOR,
                fn,
            )
    elif inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        kind = "Activity" if isinstance(registration, ActivityRegistration) else "Entity"
        raise RegistrationError(
            f"{kind} {_place(fn)} is a generator function: its call returns a generator and runs none of its "
            "code. Return the result instead, or register it as an orchestrator.",
            Fault.GENERATOR,
            fn,
        )


def _is_async(fn: Function) -> bool:
    if isinstance(fn, type):
        return False
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def _origin(fn: Function) -> tuple[str, str, object]:
    """Return where a function was defined: its module, its name there, and this execution of the module."""
    module = str(getattr(fn, "__module__", None))
    # Each import and each reload makes a new spec. A script or a notebook has none.
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return module, getattr(fn, "__qualname__", repr(fn)), spec


def _is_reloaded(old: tuple[str, str, object], new: tuple[str, str, object]) -> bool:
    if old[:2] != new[:2]:
        return False
    # Twice in one execution of a module is two functions of one name, unless an outer function runs again.
    return "<locals>" in new[1] or new[2] is None or old[2] is not new[2]


def _place(fn: Function) -> str:
    module, qualname, _ = _origin(fn)
    code = getattr(inspect.unwrap(fn), "__code__", None)
    line = f" (line {code.co_firstlineno})" if code else ""
    return f"{module}.{qualname}{line}"


def _not_registered(kind: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"No {kind} is registered under the name '{name}'.{hint}"


default_registry = Registry()
"""What the decorators fill, and what ``manage.py durable_worker`` serves."""
