"""The database connections of a worker's own threads, which are kept from one activity to the next."""

from __future__ import annotations

import gc
import logging
import threading
import time
from contextlib import suppress
from typing import Any

from django.db import Error as DatabaseError
from django.db import connections
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.utils.connection import ConnectionDoesNotExist

logger = logging.getLogger("durable_django.worker")

_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class _Connected(threading.local):
    """To which databases this thread is connected, as far as Django's signal tells.

    To ask Django takes longer than a short activity. It is done only now and then: another receiver of the
    signal may have failed before ours has heard it.
    """

    def __init__(self) -> None:
        self.aliases: set[str] = set()
        self.looked_at = time.monotonic()


_connected = _Connected()


@receiver(connection_created)
def _note(connection: Any, **_: object) -> None:
    _connected.aliases.add(connection.alias)


def tidy() -> bool:
    """Do for this thread's connections what Django does between requests, but keep them for a minute.

    With the default ``CONN_MAX_AGE`` of 0, every activity would connect anew. What goes wrong is logged: no
    result, and no thread, is to be lost for that.

    Returns whether somebody has left an atomic block open; see `leave_atomic_blocks`.
    """
    now = time.monotonic()
    if now - _connected.looked_at > _LOOK_SECONDS:
        _connected.looked_at = now
        _connected.aliases |= {connection.alias for connection in connections.all(initialized_only=True)}
    is_left_open = False
    for alias in _connected.aliases:
        try:
            connection: Any = connections[alias]
            if connection.in_atomic_block:
                is_left_open = True
                continue
            if connection.connection is None:
                continue
            if connection.close_at is not None and connection.settings_dict["CONN_MAX_AGE"] == 0:
                kept_until = getattr(connection, "_durable_close_at", None)
                if kept_until is None or kept_until[0] is not connection.connection:
                    kept_until = (connection.connection, now + _SECONDS)
                    connection._durable_close_at = kept_until
                connection.close_at = kept_until[1]
            connection.close_if_unusable_or_obsolete()
        except ConnectionDoesNotExist:
            _connected.aliases = _connected.aliases - {alias}  # The loop has the set as it was.
        except Exception:
            logger.exception("The connection to %r could not be looked after", alias)
    return is_left_open


def leave_atomic_blocks() -> None:
    """Undo what was begun in this thread in atomic blocks that nobody has left.

    Django would take all that comes for a part of them, for ever.
    """
    gc.collect()  # A generator that stands in one leaves it when it goes; later, it would leave another one.
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            _undo(connection)


def _undo(connection: Any) -> None:
    connection.in_atomic_block = connection.closed_in_transaction = connection.needs_rollback = False
    connection.savepoint_ids, connection.atomic_blocks = [], []
    with suppress(DatabaseError):
        connection.rollback()
        connection.set_autocommit(True)  # For one that is never closed, as SQLite's in memory.
    with suppress(DatabaseError):  # One that is closed already is none any more after this, either.
        connection.close()


def is_lost(using: str) -> bool:
    """Tell whether this thread's connection is good for nothing."""
    try:
        return not connections[using].is_usable()
    except DatabaseError:
        return True


def close_if_lost(using: str) -> None:
    """Let the next statement have a new connection, if there is one that is good for nothing."""
    connection = connections[using]
    if connection.connection is not None and is_lost(using):
        connection.close()
