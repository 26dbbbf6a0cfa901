"""Activities on other engines: what runs there, in a process that is no worker of ours."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import InterfaceError, OperationalError, connections

from durable_django.conf import data_converter, queue_limits, settings
from durable_django.core.errors import FailureDetails
from durable_django.core.interrupts import is_interrupt
from durable_django.core.limits import Limits
from durable_django.core.registry import default_registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import activities, clock, queues, results
from durable_django.store.activities import Leased
from durable_django.worker.activities import ActivityResult, ActivityRunner
from durable_django.worker.leases import lease_end
from durable_django.worker.loop import send_activity_signals

logger = logging.getLogger("durable_django.worker")

_OUTAGE_SECONDS = 1.0
_LONGEST_WAIT = queues.LONGEST_WAIT
_TURNS_MISSED = 3


def execute_activity(using: str, token: int, *, engine: str) -> bool:
    """Run an activity that an `ActivityDispatcher` has handed over, and record its result.

    ``using`` and ``token`` are what was handed over, ``engine`` is what the history is to name, such as
    ``django-q2``. It returns whether the result was recorded: not if the lease has gone to somebody else, or
    the orchestration has ended meanwhile, or a rate does not let it begin yet. An activity that fails is a
    result like any other; so is one that was begun ``MAX_TRIES`` times already, and never came to an end:
    ``durable_django.worker.TooManyDeliveries``.

    Call it outside of a transaction: the lease must be seen by others while the activity runs.

    Raises:
        ActivityNotRegisteredError: This process does not know the activity. It is handed over again after
            ``LEASE_SECONDS``.
        RuntimeError: There is a transaction.
    """
    if connections[using].in_atomic_block:
        raise RuntimeError("An activity cannot be run inside a transaction: call this outside of atomic().")
    worker = f"{engine}@{socket.gethostname()}:{os.getpid()}"
    leased = activities.take_over(using, token, worker, lease_end())
    if leased is None:
        logger.info("The activity with lease %s is somebody else's by now, or over", token)
        return False
    if leased.name not in default_registry.activities:
        # Perhaps another process, of another deploy, knows it. It was not begun: that does not count.
        activities.postpone(using, leased.token, lease_end())
    default_registry.activity(leased.name)
    codec = PayloadCodec(data_converter(), settings.MAX_PAYLOAD_BYTES)
    runner = ActivityRunner(default_registry, codec, worker)
    with _renewed(using, leased.token):
        if leased.deliveries > settings.MAX_TRIES:
            result = runner.result(leased, clock.now(), None, _exhaustion(leased, engine))
        elif (later := _wait_for_turn(using, leased)) is not None:
            activities.postpone(using, leased.token, later)
            return False
        else:
            result = _run(runner, leased)
        return _record(using, result)


def _run(runner: ActivityRunner, leased: Leased) -> ActivityResult:
    started_at = clock.now()
    try:
        return runner.run(leased)
    except BaseException as error:  # An engine's timeout may strike between two of our own lines.
        if is_interrupt(error):
            raise
        return runner.result(leased, started_at, None, FailureDetails.from_exception(error))


def _record(using: str, result: ActivityResult) -> bool:
    """Record a result, with the database away for a while if need be: the activity has run, and for good."""
    leased, deadline = result.leased, time.monotonic() + settings.LEASE_SECONDS
    while True:
        try:
            if not results.add(using, leased.token, result.event):
                logger.warning("%s: the result of activity %r is dropped", leased.instance_id, leased.name)
                return False
            send_activity_signals(default_registry, using, [result])
            return True
        except (OperationalError, InterfaceError):
            # A timeout that has struck amid a query leaves a connection which is good for nothing, too.
            connections[using].close()
            if time.monotonic() > deadline:
                raise
            logger.warning("A result could not be recorded; it is tried again", exc_info=True)
            time.sleep(_OUTAGE_SECONDS)


def _exhaustion(leased: Leased, engine: str) -> FailureDetails:
    message = (
        f"Given up: activity {leased.name!r} was begun {leased.deliveries - 1} times on {engine}, and no "
        "result ever came. Each time its process died, was killed (as by a timeout), or lost the database."
    )
    return FailureDetails(message, "durable_django.worker.TooManyDeliveries")


def _wait_for_turn(using: str, leased: Leased) -> datetime | None:
    """Wait until an activity may begin, if that is soon; else return when it is to be handed over again."""
    limits = queue_limits().get(leased.queue, Limits())
    if not limits.has_rates:
        return None
    for _ in range(_TURNS_MISSED):
        begins = queues.reserve(using, leased.queue, leased.limit_key, limits, _LONGEST_WAIT)
        seconds = (begins - clock.now()).total_seconds()
        if seconds > _LONGEST_WAIT.total_seconds():
            return begins
        time.sleep(max(0.0, seconds))
        if clock.now() - begins <= limits.latest:
            break
        # Too late: others would begin at the same moment.
    return None


@contextmanager
def _renewed(using: str, token: int) -> Iterator[None]:
    """Renew a lease from a thread for as long as the activity runs."""
    is_over = threading.Event()
    thread = threading.Thread(target=_renew, args=(using, token, is_over), name="durable-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _renew(using: str, token: int, is_over: threading.Event) -> None:
    try:
        while not is_over.wait(settings.HEARTBEAT_SECONDS):
            try:
                activities.renew(using, [token], lease_end())
            except Exception:
                logger.warning("A lease could not be renewed; it is tried again", exc_info=True)
                connections[using].close()
    finally:
        connections.close_all()
