"""The ``DURABLE_DJANGO`` setting: one dictionary, read when it is first needed.

``Settings`` is the table of its keys. ``settings`` gives their values::

    from durable_django.conf import settings

    settings.LEASE_SECONDS
"""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from functools import cache
from typing import Any, cast

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from durable_django.core.ids import MAX_NAME_LENGTH, check_name
from durable_django.core.limits import Limits
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, DataConverter

SETTING = "DURABLE_DJANGO"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What values a key takes, in words and as a test."""

    description: str
    accepts: Callable[[Any], bool]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # What a thread can wait for: neither NaN nor the infinite is, nor an integer that no float holds.
    return (_is_integer(value) or isinstance(value, float)) and abs(value) <= threading.TIMEOUT_MAX


def _is_name(value: object) -> bool:
    try:
        check_name("any", value)
    except ValueError:
        return False
    return True


def _is_dispatcher(given: Any) -> bool:
    return (
        isinstance(given, Mapping)
        and set(given) <= {"BACKEND", "OPTIONS"}
        and isinstance(given.get("BACKEND"), str)
        and isinstance(given.get("OPTIONS", {}), Mapping)
    )


_FLAG = _Kind("True or False", lambda value: isinstance(value, bool))
_TEXT = _Kind("a non-empty string", lambda value: isinstance(value, str) and bool(value))
_TEXT_OR_NONE = _Kind("a non-empty string or None", lambda value: value is None or _TEXT.accepts(value))
_NAME_WORDS = f"a non-empty string of at most {MAX_NAME_LENGTH} characters without control characters"
_NAME = _Kind(_NAME_WORDS, _is_name)
_NAME_OR_NONE = _Kind(f"{_NAME_WORDS}, or None", lambda value: value is None or _is_name(value))
_COUNT = _Kind("a positive integer", lambda value: _is_integer(value) and value > 0)
_COUNT_OR_NONE = _Kind("a positive integer or None", lambda value: value is None or _COUNT.accepts(value))
_PAGE = _Kind("an integer from 1 to 1,000", lambda value: _is_integer(value) and 1 <= value <= 1000)
_SECONDS = _Kind("a positive number of seconds", lambda value: _is_number(value) and value > 0)
_GRACE = _Kind("a number of seconds, 0 or more", lambda value: _is_number(value) and value >= 0)
_INTERVAL = _Kind(
    "a positive datetime.timedelta", lambda value: isinstance(value, timedelta) and value > timedelta(0)
)
_LIMITS = _Kind(
    "a dictionary of limits by queue, such as {'mail': {'concurrency': 3, 'rate': '20/s'}}",
    lambda value: isinstance(value, Mapping) and all(_TEXT.accepts(queue) for queue in value),
)
_DISPATCHERS = _Kind(
    "a dictionary by queue of {'BACKEND': dotted path, 'OPTIONS': dictionary}",
    lambda value: (
        isinstance(value, Mapping)
        and all(_TEXT.accepts(queue) and _is_dispatcher(given) for queue, given in value.items())
    ),
)
_MODULE = _Kind(
    "a module's name, without the app's", lambda value: isinstance(value, str) and value.isidentifier()
)


def _key(kind: _Kind, default: Any, doc: str) -> Any:
    return field(default=default, metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The keys of ``DURABLE_DJANGO``, their defaults and what they mean.

    Raises ``ImproperlyConfigured`` when a value is of the wrong type or out of range.
    """

    DATABASE_ALIAS: str = _key(_TEXT, "default", "The alias in DATABASES that keeps the orchestrations.")
    DATA_CONVERTER: str | None = _key(
        _TEXT_OR_NONE,
        None,
        "The dotted path of a DataConverter class, made without arguments, or of an instance. "
        "None is the JSON converter.",
    )
    MAX_PAYLOAD_BYTES: int | None = _key(
        _COUNT_OR_NONE, 1_048_576, "The largest payload, as UTF-8 bytes of JSON. None is no limit."
    )
    DEFAULT_VERSION: str | None = _key(
        _NAME_OR_NONE, None, "The version of orchestrations that are started without one."
    )
    DEFAULT_QUEUE: str = _key(_NAME, "default", "The queue of what names none.")
    MAXIMUM_TIMER_INTERVAL: timedelta = _key(  # noqa: RUF009  (it returns a field)
        _INTERVAL, timedelta(days=3), "A longer timer is kept as a chain of timers of at most this interval."
    )
    POLL_INTERVAL: float = _key(
        _SECONDS,
        1.0,
        "An idle worker looks for work at least this often, in seconds; more rarely while LISTEN works.",
    )
    LISTEN: bool = _key(
        _FLAG,
        True,
        "Whether workers and waiting clients use LISTEN and NOTIFY on PostgreSQL. "
        "False behind a connection pooler in transaction mode.",
    )
    PIPELINE: bool = _key(
        _FLAG,
        True,
        "Whether small turns, and what clients do most, go through a pipeline of prepared statements on "
        "PostgreSQL, with LISTEN only. "
        "False behind a connection pooler that does not know prepared statements.",
    )
    LEASE_SECONDS: float = _key(
        _SECONDS, 60, "Seconds after which an activity of a silent worker goes to another one."
    )
    HEARTBEAT_SECONDS: float = _key(
        _SECONDS, 10, "Seconds between a worker's signs of life, which renew its leases; below LEASE_SECONDS."
    )
    SHUTDOWN_GRACE_SECONDS: float = _key(
        _GRACE, 25, "Seconds that running activities get to finish when a worker is told to stop."
    )
    MAX_TRIES: int = _key(
        _COUNT, 5, "How many workers an orchestration may take down with it before it is failed."
    )
    BATCH_INSTANCES: int = _key(
        _COUNT,
        800,
        "The most instances that one transaction moves; with the last of a backlog, a quarter more.",
    )
    BATCH_EVENTS: int = _key(_COUNT, 5000, "The most new events that one transaction takes in.")
    CACHE_EXECUTIONS: int = _key(
        _COUNT,
        10_000,
        "How many live orchestrations a worker keeps: their history is not read again.",
    )
    MAX_CONCURRENT_ACTIVITIES: int = field(
        default_factory=lambda: 100 * (os.cpu_count() or 1),
        metadata={
            "kind": _COUNT,
            "doc": "How many activities a worker runs at once, async ones included; 100 per CPU by default.",
        },
    )
    ACTIVITY_THREADS: int = _key(_COUNT, 16, "How many threads a worker has for sync activities.")
    QUEUE_LIMITS: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "kind": _LIMITS,
            "doc": "By queue: how many of its activities run at once in the whole cluster (concurrency), or "
            "begin within some time (rate, such as '20/s'); key_concurrency and key_rate are for each "
            "limit key.",
        },
    )
    DISPATCHERS: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "kind": _DISPATCHERS,
            "doc": "By queue: the engine that runs its activities, as {'BACKEND': dotted path of an "
            "ActivityDispatcher, 'OPTIONS': {...}}. Other queues' activities run in the workers themselves.",
        },
    )
    ENTITY_THREADS: int = _key(_COUNT, 4, "How many entities of a worker perform operations at once.")
    AUTODISCOVER_MODULE: str = _key(
        _MODULE,
        "workflows",
        "The module that is imported at start from each installed app that has it.",
    )
    SLOW_TURN_SECONDS: float = _key(
        _SECONDS, 1.0, "An orchestrator that runs longer without a pause, in seconds, is reported by name."
    )
    SLOW_LOCAL_SECONDS: float = _key(
        _SECONDS, 0.1, "A local activity that takes longer, in seconds, is reported by name."
    )
    LOCAL_ACTIVITIES: int = _key(
        _COUNT, 500, "The most local activities that one transaction runs; the next goes on."
    )
    LOCAL_SECONDS: float = _key(
        _SECONDS, 0.5, "After so many seconds of local activities a transaction commits; the next goes on."
    )
    LOCAL_LOCK_SECONDS: float = _key(
        _SECONDS,
        1.0,
        "How long a statement of a local activity waits for a lock, in seconds, before the activity fails. "
        "On PostgreSQL.",
    )
    REST_PERMISSION: str = _key(
        _TEXT,
        "durable_django.rest_framework.permissions.DurablePermission",
        "The dotted path of the DRF permission class of the REST API.",
    )
    REST_SCOPE: str = _key(
        _TEXT,
        "durable_django.rest_framework.scoping.Scope",
        "The dotted path of the class that says which instances and entities a REST request may see.",
    )
    REST_MAX_BODY_BYTES: int = _key(_COUNT, 2_097_152, "The largest body of a REST request, in bytes.")
    REST_PAGE_SIZE: int = _key(_PAGE, 100, "How many items a REST list has on one page; at most 1,000.")
    REST_MAX_WAIT_SECONDS: float = _key(
        _SECONDS, 30, "How long a REST request may wait for an orchestration, in seconds."
    )

    def __post_init__(self) -> None:
        wrong = find_problems({key.name: getattr(self, key.name) for key in fields(self)})
        if wrong:
            raise ImproperlyConfigured("\n".join(problem.message for problem in wrong))


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with ``DURABLE_DJANGO``: a key that nobody reads (``unknown``), or a bad value."""

    message: str
    unknown: bool = False


_KEYS: dict[str, Field[Any]] = {key.name: key for key in fields(Settings)}


def find_problems(given: object) -> list[Problem]:
    """Say everything that is wrong with a value of ``DURABLE_DJANGO``."""
    if not isinstance(given, Mapping):
        return [Problem(f"{SETTING} must be a dictionary, not {given!r}.")]
    problems = []
    for name, value in given.items():
        if name not in _KEYS:
            problems.append(
                Problem(f"{SETTING} has the unknown key {name!r}.{_suggestion(name)}", unknown=True)
            )
        elif not (kind := _KEYS[name].metadata["kind"]).accepts(value):
            problems.append(Problem(f"{SETTING}[{name!r}] must be {kind.description}, not {value!r}."))
    return problems or _find_contradictions(given)


def _find_contradictions(given: Mapping[str, Any]) -> list[Problem]:
    for queue, limits in given.get("QUEUE_LIMITS", {}).items():
        try:
            Limits.parse(limits)
        except ValueError as error:
            return [Problem(f"{SETTING}['QUEUE_LIMITS'][{queue!r}]: {error}")]
    lease, heartbeat = (given.get(name, _default(name)) for name in ("LEASE_SECONDS", "HEARTBEAT_SECONDS"))
    if heartbeat < lease:
        return []
    return [
        Problem(
            f"{SETTING}['HEARTBEAT_SECONDS'] ({heartbeat}) must be below LEASE_SECONDS ({lease}): "
            "leases would run out before they are renewed."
        )
    ]


def _default(name: str) -> Any:
    key = _KEYS[name]
    return key.default if key.default_factory is MISSING else key.default_factory()


def _suggestion(name: object) -> str:
    close = difflib.get_close_matches(str(name).upper(), _KEYS, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" The keys are {', '.join(sorted(_KEYS))}."


@cache
def _load() -> Settings:
    given = getattr(django_settings, SETTING, {})
    if problems := find_problems(given):
        raise ImproperlyConfigured("\n".join(problem.message for problem in problems))
    return Settings(**given)


@cache
def data_converter() -> DataConverter:
    """Return the converter that ``DATA_CONVERTER`` names; ``ImproperlyConfigured`` where it names none."""
    path = settings.DATA_CONVERTER
    if path is None:
        return DEFAULT_DATA_CONVERTER
    try:
        found = import_string(path)
        made = found() if isinstance(found, type) else found
    except Exception as error:
        raise ImproperlyConfigured(f"{SETTING}['DATA_CONVERTER']: cannot load {path!r}: {error}") from error
    if not isinstance(made, DataConverter):
        raise ImproperlyConfigured(f"{SETTING}['DATA_CONVERTER']: {path!r} is no DataConverter.")
    return made


@cache
def queue_limits() -> Mapping[str, Limits]:
    """Return the limits of those queues that have any."""
    return {queue: Limits.parse(given) for queue, given in settings.QUEUE_LIMITS.items()}


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting == SETTING:
        _load.cache_clear()
        data_converter.cache_clear()
        queue_limits.cache_clear()


class _LazySettings:
    """Stands for the current ``Settings``: Django's may not be ready when this module is imported."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_load(), name)

    def __repr__(self) -> str:
        return f"<{SETTING}>"


settings = cast("Settings", _LazySettings())
"""The values in force."""
