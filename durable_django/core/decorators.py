"""The decorators that register orchestrators, activities and entities app-wide.

Each returns the function itself, which stays callable in a plain unit test. They raise ``TypeError`` or
``ValueError`` for a bad option; what is wrong with the function or its name is left to the system checks, so
that one ``manage.py check`` shows everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from durable_django.core import registry as registries
from durable_django.core.registry import RegistrationError

if TYPE_CHECKING:
    from durable_django.core.registry import Registration, Registry
    from durable_django.core.retry import RetryPolicy

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def orchestrator(fn: _F, /) -> _F: ...
@overload
def orchestrator(
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    registry: Registry | None = None,
) -> Callable[[_F], _F]: ...
def orchestrator(
    fn: _F | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    registry: Registry | None = None,
) -> _F | Callable[[_F], _F]:
    """Register an orchestrator: ``@orchestrator`` or ``@orchestrator(name=…, queue=…, priority=…)``.

    - ``name``: what it is started by; the function's own name by default, at most 255 characters.
    - ``queue``: the queue of its instances; the setting ``DEFAULT_QUEUE`` by default.
    - ``priority``: the higher goes first within a queue; 0 by default.
    - ``registry``: where to register it; app-wide by default.
    """

    def make(target: _F) -> Registration:
        return registries.make_orchestrator(target, name=name, queue=queue, priority=priority)

    return _decorate(fn, make, registry)


@overload
def activity(fn: _F, /) -> _F: ...
@overload
def activity(
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    retry_policy: RetryPolicy | None = None,
    local: bool | None = None,
    registry: Registry | None = None,
) -> Callable[[_F], _F]: ...
def activity(
    fn: _F | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    retry_policy: RetryPolicy | None = None,
    local: bool | None = None,
    registry: Registry | None = None,
) -> _F | Callable[[_F], _F]:
    """Register an activity: ``@activity`` or ``@activity(name=…, queue=…, priority=…, retry_policy=…)``.

    - ``name``: what it is called by; the function's own name by default, at most 255 characters.
    - ``queue``: the queue that its calls wait in; the setting ``DEFAULT_QUEUE`` by default.
    - ``priority``: the higher goes first within a queue; 0 by default.
    - ``retry_policy``: for calls by function that bring none of their own; none by default.
    - ``local``: True for short work, pure or with Django's ORM alone, that the orchestration's turn does
      itself, at once and inside its own transaction: what it writes to the database happens exactly once, and
      a hundred in a row cost one commit. It must be a plain function, and has neither queue nor priority.
    - ``registry``: where to register it; app-wide by default.
    """

    def make(target: _F) -> Registration:
        return registries.make_activity(
            target, name=name, queue=queue, priority=priority, retry_policy=retry_policy, local=local
        )

    return _decorate(fn, make, registry)


@overload
def entity(fn: _F, /) -> _F: ...
@overload
def entity(*, name: str | None = None, registry: Registry | None = None) -> Callable[[_F], _F]: ...
def entity(
    fn: _F | None = None, /, *, name: str | None = None, registry: Registry | None = None
) -> _F | Callable[[_F], _F]:
    """Register an entity, function or class: ``@entity`` or ``@entity(name=…)``.

    - ``name``: lower-cased; the function's or class's own name by default, at most 255 characters.
    - ``registry``: where to register it; app-wide by default.
    """

    def make(target: _F) -> Registration:
        return registries.make_entity(target, name=name)

    return _decorate(fn, make, registry)


def _decorate(
    fn: _F | None, make: Callable[[_F], Registration], registry: Registry | None
) -> _F | Callable[[_F], _F]:
    into = registries.default_registry if registry is None else registry

    def register(target: _F) -> _F:
        try:
            registration = make(target)
        except RegistrationError as problem:
            into.note(problem)
            return target
        registries.attach(registration)
        into.declare(registration)
        return target

    return register if fn is None else register(fn)
