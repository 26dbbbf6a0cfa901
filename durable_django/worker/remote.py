"""Activities on other engines: what runs there, in a process that is no worker of ours."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db import connections

from durable_django.conf import data_converter, queue_limits, settings
from durable_django.core.limits import Limits
from durable_django.core.registry import default_registry
from durable_django.core.serialization import PayloadCodec
from durable_django.store import activities, clock, queues, results
from durable_django.store.activities import Leased
from durable_django.worker.activities import ActivityRunner
from durable_django.worker.loop import send_activity_signals

logger = logging.getLogger("durable_django.worker")


def execute_activity(using: str, token: int, *, engine: str) -> bool:
    """Run an activity that an `ActivityDispatcher` has handed over, and record its result.

    ``using`` and ``token`` are what was handed over, ``engine`` is what the history is to name, such as
    ``django-q2``. It returns whether the result was recorded: not if the lease has gone to somebody else, or
    the orchestration has ended meanwhile. An activity that fails is a result like any other.

    Call it outside of a transaction: the lease must be seen by others while the activity runs.

    Raises:
        ActivityNotRegisteredError: This process does not know the activity. Its lease runs out, and it is
            handed over again.
        RuntimeError: There is a transaction.
    """
    if connections[using].in_atomic_block:
        raise RuntimeError("An activity cannot be run inside a transaction: call this outside of atomic().")
    worker = f"{engine}@{socket.gethostname()}:{os.getpid()}"
    leased = activities.take_over(using, token, worker, _lease_end())
    if leased is None:
        logger.info("The activity with lease %s is somebody else's by now, or over", token)
        return False
    default_registry.activity(leased.name)
    codec = PayloadCodec(data_converter(), settings.MAX_PAYLOAD_BYTES)
    with _renewed(using, leased.token):
        _wait_for_turn(using, leased)
        result = ActivityRunner(default_registry, codec, worker).run(leased)
    is_recorded = results.add(using, leased.token, result.event)
    if is_recorded:
        send_activity_signals(default_registry, using, [result])
    else:
        logger.warning("%s: the result of activity %r is dropped", leased.instance_id, leased.name)
    return is_recorded


def _wait_for_turn(using: str, leased: Leased) -> None:
    limits = queue_limits().get(leased.queue, Limits())
    if limits.has_rates:
        begins = queues.reserve(using, leased.queue, leased.limit_key, limits)
        time.sleep(max(0.0, (begins - clock.now()).total_seconds()))


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
                activities.renew(using, [token], _lease_end())
            except Exception:
                logger.warning("A lease could not be renewed; it is tried again", exc_info=True)
                connections[using].close()
    finally:
        connections.close_all()


def _lease_end() -> datetime:
    return clock.now() + timedelta(seconds=settings.LEASE_SECONDS)
