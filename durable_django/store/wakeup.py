"""Wake-ups: hints that there is something to do, or to see.

Within a process they go through a `Hub`; on PostgreSQL, LISTEN and NOTIFY carry them to all others. A hint
may be lost or sent in vain: that costs a poll, never correctness. All are sent after the commit.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple
from uuid import uuid4

from django.db import connections, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.conf import settings
from durable_django.store import pipeline, postgres

logger = logging.getLogger("durable_django.wakeup")

CHANNEL = "durable_django"
_SENDER = "from:"
_WORK = "work:"
_TURNS = "turns:"
_START = "start:"
_CHANGED = "changed:"
_BEAT = 0.5
_LINGER = 1.0
_RETRY = 1.0

Callback = Callable[[], None]


class _Worker(NamedTuple):
    """Who is told of work and, if it takes turns of orchestrations, of new ones to start."""

    work: Callback
    start: Callback | None


class Hub:
    """The wake-ups of one database alias in this process."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._waiters: defaultdict[str, list[threading.Event]] = defaultdict(list)
        self._listener: threading.Thread | None = None
        self._users = 0
        self._idle_since = 0.0
        self.is_listening = False
        """Whether wake-ups of other processes arrive here."""
        identity = uuid4().hex
        self.sender = f"{_SENDER}{identity}"
        self.work_payload = f"{_WORK}{identity}"
        self.turns_payload = f"{_TURNS}{identity}"
        self.start_payload = f"{_START}{identity}"

    def work(self, but: Callback | None = None) -> None:
        """Wake the workers of this process, ``but`` one."""
        for worker in list(self._workers):
            if worker.work != but:
                worker.work()

    def turns(self, but: Callback | None = None) -> None:
        """Wake those workers of this process that take turns of orchestrations, ``but`` one."""
        for worker in list(self._workers):
            if worker.start is not None and worker.work != but:
                worker.work()

    def start(self) -> None:
        """Wake those workers of this process that start orchestrations."""
        for worker in list(self._workers):
            if worker.start is not None:
                worker.start()

    def changed(self, instance_id: str) -> None:
        """Wake the clients of this process that wait for an instance."""
        if instance_id not in self._waiters:  # Of the most, nobody here wants to know.
            return
        with self._lock:
            waiting = list(self._waiters.get(instance_id, ()))
        for event in waiting:
            event.set()

    @contextmanager
    def worker(self, callback: Callback, at_start: Callback | None = None, *, listen: bool) -> Iterator[None]:
        """Call ``callback``, from whatever thread, whenever there may be work.

        It is not called for new orchestrations to start: there, ``at_start`` is. Who has none takes no turns
        of orchestrations, and is not called where there are more of these than one worker can take.
        """
        worker = _Worker(callback, at_start)
        self._workers.append(worker)
        try:
            with self._in_use(listen):
                yield
        finally:
            self._workers.remove(worker)

    @contextmanager
    def waiter(self, change: str, *, listen: bool) -> Iterator[threading.Event]:
        """Give an event that is set at each such change: an instance's id is for its end."""
        event = threading.Event()
        with self._lock:
            self._waiters[change].append(event)
        try:
            with self._in_use(listen):
                yield event
        finally:
            with self._lock:
                self._waiters[change].remove(event)
                if not self._waiters[change]:
                    del self._waiters[change]

    @contextmanager
    def _in_use(self, listen: bool) -> Iterator[None]:
        """Keep the listener of this process alive; it goes a moment after its last user."""
        if not (listen and can_listen(self._using)):
            yield
            return
        with self._lock:
            self._users += 1
            if self._listener is None:
                self._listener = threading.Thread(
                    target=self._listen, name=f"durable-listen-{self._using}", daemon=True
                )
                self._listener.start()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._idle_since = time.monotonic()

    def close(self) -> None:
        """Stop listening, and wait until the connection is closed. For whoever drops the database."""
        with self._lock:
            listener, self._idle_since = self._listener, float("-inf")
        if listener is not None:
            listener.join()

    def _listen(self) -> None:
        while not self._retire():
            try:
                with closing(postgres.listen(self._using, CHANNEL, _BEAT)) as payloads:
                    next(payloads)
                    self.is_listening = True
                    self.work()  # Whatever came while nobody listened.
                    for payload in payloads:
                        self._receive(payload)
                        if self._retire():
                            return
            except Exception:
                self.is_listening = False
                logger.warning("LISTEN on %r failed; polling goes on", self._using, exc_info=True)
                time.sleep(_RETRY)

    def _receive(self, notification: str | None) -> None:
        if notification is None or notification == self.start_payload or notification.startswith(self.sender):
            return  # Nothing, or our own, and told already.
        for payload in notification.split(postgres.SEPARATOR):
            if payload.startswith(_WORK):
                self.work()
            elif payload.startswith(_TURNS):
                self.turns()
            elif payload.startswith(_START):
                self.start()
            else:
                self.changed(payload.removeprefix(_CHANGED))

    def _retire(self) -> bool:
        with self._lock:
            if self._users or time.monotonic() - self._idle_since < _LINGER:
                return False
            if self._listener is threading.current_thread():
                self._listener = None
                self.is_listening = False
            return True


@cache
def hub(using: str) -> Hub:
    """Return this process's hub for a database alias."""
    return Hub(using)


def can_listen(using: str) -> bool:
    """Tell whether wake-ups can come from other processes."""
    return settings.LISTEN and connections[using].vendor == "postgresql"


def announce_work(using: str) -> None:
    """Wake workers once the present transaction is committed."""
    _announce(using, _work_sender(using))


def announce_start(using: str) -> None:
    """Wake workers that start orchestrations, once the present transaction is committed."""
    _announce(using, _start_sender(using))


def can_announce_along(using: str) -> bool:
    """Tell whether `execute_and_announce_start` is possible, and worth it."""
    return can_listen(using) and pipeline.can_commit_and_notify(using)


def execute_and_announce_start(
    cursor: CursorWrapper, sql: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Execute a statement outside a transaction, wake workers as `announce_start` does, and return its rows.

    An error may come after the commit: then other processes are not told.
    """
    here = hub(cursor.db.alias)
    found = pipeline.commit_and_notify(cursor, sql, parameters, CHANNEL, here.start_payload)
    here.start()
    return found


def _announce(using: str, send: Callback) -> None:
    connection = connections[using]
    pending = connection.run_on_commit
    # Once a transaction is enough, as long as no rollback to a savepoint can take that one back.
    if pending and _is_or_wraps(pending[-1][1], send) and pending[-1][0] <= set(connection.savepoint_ids):
        return
    after_commit(using, send)


def _is_or_wraps(hook: Any, send: Callback) -> bool:
    return getattr(hook, "__wrapped__", hook) is send


def announce_changes(using: str, instance_ids: Sequence[str]) -> None:
    """Wake clients that wait for these instances once the present transaction is committed."""
    if instance_ids:
        after_commit(using, lambda: _send_changes(using, instance_ids))


def after_commit(using: str, hook: Callback) -> None:
    """Call a hook that may be left out once the present transaction is committed.

    It is left out where transactions are begun and ended by hand: there, nothing tells when.
    """
    connection = connections[using]
    if connection.in_atomic_block or connection.get_autocommit():
        transaction.on_commit(hook, using=using, robust=True)


def announce_within(cursor: CursorWrapper, instance_ids: Sequence[str], *, is_small: bool) -> bool:
    """Wake clients of other processes by the very commit, if it is of few instances: that is soonest.

    That of many would hold the lock that PostgreSQL takes for notifications for long, while the log is
    written; False says that nobody has been told.
    """
    if not (is_small and can_listen(cursor.db.alias)):
        return False
    if instance_ids:
        changes = [_CHANGED + instance_id for instance_id in instance_ids]
        postgres.notify_within(cursor, CHANNEL, hub(cursor.db.alias).sender, changes)
    return True


def waiter(using: str, instance_id: str) -> AbstractContextManager[threading.Event]:
    """Give an event that is set, as far as anybody tells, at an instance's end.

    Nobody tells of its start: hardly anybody waits for that, and all would pay for it.
    """
    return hub(using).waiter(instance_id, listen=True)


@cache
def _work_sender(using: str) -> Callback:
    # No partial: if it fails, Django logs its qualified name.
    return lambda: _send_work(using)


@cache
def _start_sender(using: str) -> Callback:
    return lambda: _send_start(using)


class Outbox:
    """Sends a worker's wake-ups, of what it has committed, from a thread: the next turn does not wait.

    Until it is started, and once it is stopped, it sends them at once.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._hub = hub(using)
        self._queue: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, where there is anybody to tell."""
        if can_listen(self._using):
            self._thread = threading.Thread(target=self._run, name="durable-outbox", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send what is left, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def work(self, but: Callback) -> None:
        """Wake all workers ``but`` one: it has seen to itself."""
        self._hub.work(but)
        self._send([self._hub.work_payload])

    def turns(self, but: Callback) -> None:
        """Wake all workers ``but`` one that take turns of orchestrations: there are more than it can take."""
        self._hub.turns(but)
        self._send([self._hub.turns_payload])

    def changes(self, instance_ids: Sequence[str], *, here_only: bool = False) -> None:
        """Wake the clients that wait for these instances; ``here_only`` if others are told already."""
        for instance_id in instance_ids:
            self._hub.changed(instance_id)
        if not here_only:
            self._send([_CHANGED + instance_id for instance_id in instance_ids])

    def _send(self, payloads: list[str]) -> None:
        if not payloads or not can_listen(self._using):
            return
        if self._thread is None:
            postgres.notify(self._using, CHANNEL, self._hub.sender, payloads)
        else:
            self._queue.put(payloads)

    def _run(self) -> None:
        try:
            while (payloads := self._queue.get()) is not None:
                with suppress(queue.Empty):
                    while (more := self._queue.get_nowait()) is not None:
                        payloads = payloads + more
                    self._queue.put(None)
                try:
                    distinct = list(dict.fromkeys(payloads))
                    postgres.notify(self._using, CHANNEL, self._hub.sender, distinct)
                except Exception:
                    logger.warning("NOTIFY on %r failed; polling goes on", self._using, exc_info=True)
                    connections[self._using].close()
        finally:
            connections.close_all()


def _send_work(using: str) -> None:
    here = hub(using)
    here.work()
    if can_listen(using):
        postgres.notify(using, CHANNEL, here.sender, [here.work_payload])


def _send_start(using: str) -> None:
    here = hub(using)
    here.start()
    if can_listen(using):
        postgres.notify(using, CHANNEL, here.sender, [here.start_payload])


def _send_changes(using: str, instance_ids: Sequence[str]) -> None:
    here = hub(using)
    for instance_id in instance_ids:
        here.changed(instance_id)
    if can_listen(using):
        changes = [_CHANGED + instance_id for instance_id in instance_ids]
        postgres.notify(using, CHANNEL, here.sender, changes)
