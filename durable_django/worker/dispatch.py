"""Activity dispatchers: who runs the activities of a queue, if it is not the worker itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from durable_django.conf import SETTING, settings
from durable_django.core.registry import ActivityRegistration


class Handed(NamedTuple):
    """An activity that is handed to an engine: what `durable_django.worker.remote.execute_activity` takes.

    ``using`` is the database alias, ``token`` the lease; the rest is for the engine's own books.
    """

    using: str
    token: int
    name: str
    queue: str
    instance_id: str


class ActivityDispatcher(ABC):
    """Hands the activities of one queue to an engine that runs them elsewhere.

    There is one for each queue that ``DISPATCHERS`` in the settings names, made with that queue and its
    ``OPTIONS``. Whoever runs an activity calls `durable_django.worker.remote.execute_activity` with its alias
    and token, and all rules of leases, results and failures hold. A message that is lost comes again when its
    lease has run out, ``lease_seconds`` (an option, 300 by default) after it was handed over, with the same
    token; one that comes twice, or too late, finds its lease gone, and does nothing.
    """

    supports_async: ClassVar[bool] = True
    """Whether ``async def`` activities run there."""

    def __init__(self, queue: str, options: Mapping[str, Any]) -> None:
        self.queue = queue
        self.options = dict(options)
        self.lease_seconds: float = self.options.pop("lease_seconds", 300)
        """After how long an activity that nobody has begun is handed over again, the first time.

        Where no limit bounds how many wait, each further time comes after twice as long as the one before.
        """
        self.batch: int = self.options.pop("batch", 100)
        """How many are handed over at once."""

    def check(self) -> list[CheckMessage]:
        """Return what is wrong with its settings, for Django's system checks."""
        where = f"{SETTING}['DISPATCHERS'][{self.queue!r}]['OPTIONS']"
        errors: list[CheckMessage] = []
        for name in ("lease_seconds", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                message = f"{where}[{name!r}] must be a positive number, not {value!r}."
                errors.append(Error(message, id="durable_django.E006"))
        return errors

    def activities(self) -> Iterable[ActivityRegistration]:
        """Return activities that come with the engine: functions of its own that may be called."""
        return ()

    @abstractmethod
    def dispatch(self, activities: Sequence[Handed]) -> None:
        """Hand activities over.

        Whatever it raises, all of them are given back, and handed over again a little later.
        """


@cache
def dispatchers() -> Mapping[str, ActivityDispatcher]:
    """Return the dispatchers of those queues that have one.

    Raises:
        ImproperlyConfigured: One cannot be loaded or made.
    """
    return {queue: _make(queue, given) for queue, given in settings.DISPATCHERS.items()}


def _make(queue: str, given: Mapping[str, Any]) -> ActivityDispatcher:
    path, where = given["BACKEND"], f"{SETTING}['DISPATCHERS'][{queue!r}]"
    try:
        made = import_string(path)(queue, given.get("OPTIONS", {}))
    except Exception as error:
        raise ImproperlyConfigured(f"{where}: cannot make {path!r}: {error}") from error
    if not isinstance(made, ActivityDispatcher):
        raise ImproperlyConfigured(f"{where}: {path!r} is no ActivityDispatcher.")
    return made


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting == SETTING:
        dispatchers.cache_clear()
