"""The database connections of a worker's own threads, which are kept from one activity to the next."""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db.backends.signals import connection_created
from django.dispatch import receiver

_SECONDS = 60.0


class _Opened(threading.local):
    """What has been connected in this thread. Django can be asked, but takes longer than a short activity."""

    def __init__(self) -> None:
        self.connections: list[Any] = []


_opened = _Opened()


@receiver(connection_created)
def _note(connection: Any, **_: object) -> None:
    if connection not in _opened.connections:
        _opened.connections.append(connection)


def tidy() -> None:
    """Do for this thread's connections what Django does between requests, but keep them for a minute.

    With the default ``CONN_MAX_AGE`` of 0, every activity would connect anew.
    """
    for connection in _opened.connections:
        if connection.connection is None:
            continue
        if connection.close_at is not None and connection.settings_dict["CONN_MAX_AGE"] == 0:
            kept_until = getattr(connection, "_durable_close_at", None)
            if kept_until is None or kept_until[0] is not connection.connection:
                kept_until = (connection.connection, time.monotonic() + _SECONDS)
                connection._durable_close_at = kept_until
            connection.close_at = kept_until[1]
        connection.close_if_unusable_or_obsolete()
