"""A durable worker and a cluster of django-q2 whose every step a test takes by hand, in its own thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from django.test import override_settings
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.monitor import monitor
from django_q.queues import Queue
from django_q.signing import SignedPackage
from django_q.worker import worker

from durable_django.client import DurableTaskClient
from durable_django.contrib.django_q import DjangoQDispatcher
from durable_django.core.registry import Registry
from durable_django.models import ActivityTask
from durable_django.store.scope import Served
from durable_django.worker.queue_loop import QueueLoop
from tests.worker.byhand import USING, HandWorker, HeldPool

BACKEND = "durable_django.contrib.django_q.DjangoQDispatcher"
QUEUE = "reports"


def settings(limits: dict[str, Any] | None = None, *, conf: Any = None, **options: Any) -> override_settings:
    """Give the settings of a queue on django-q2, for the duration of a test."""
    durable: dict[str, Any] = {"DISPATCHERS": {QUEUE: {"BACKEND": BACKEND, "OPTIONS": options}}}
    if limits:
        durable["QUEUE_LIMITS"] = {QUEUE: limits}
    return override_settings(DURABLE_DJANGO={**durable, **(conf or {})})


def dispatcher(**options: Any) -> DjangoQDispatcher:
    """Return a dispatcher with options."""
    return DjangoQDispatcher(QUEUE, options)


class Stage:
    """Moves orchestrations, hands their activities over, and runs what has been handed over."""

    def __init__(self, registry: Registry, *orchestrators: Callable[..., Any]) -> None:
        for orchestrator in orchestrators:
            registry.add_orchestrator(orchestrator)
        self.client = DurableTaskClient()
        self.worker = HandWorker(*orchestrators, slots=0)
        self.worker.processor.options.registry.__dict__.update(registry.__dict__)
        self.loop = self.queue_loop("worker", registry)
        self._registry = registry

    @staticmethod
    def queue_loop(name: str, registry: Registry) -> QueueLoop:
        """Return another durable worker's queue loop."""
        pool: Any = HeldPool(0)
        return QueueLoop(USING, Served(), registry, pool, worker=name, poll_interval=lambda: 0.0)

    def start(self, orchestrator: Callable[..., Any], input: Any = None, *, instance_id: str) -> None:
        """Start an orchestration, and hand over what it calls first."""
        self.client.schedule_new_orchestration(orchestrator, input=input, instance_id=instance_id)
        self.turn()

    def turn(self) -> None:
        """Move what is ready, and hand over what was called."""
        self.worker.step()
        self.look()

    def look(self) -> None:
        """Look once for activities to hand over."""
        self.loop._look_at = 0.0
        self.loop.step()

    def messages(self, cluster: str | None = None) -> list[dict[str, Any]]:
        """Return the tasks that wait in the broker."""
        waiting = OrmQ.objects.filter(key=cluster or Conf.CLUSTER_NAME).order_by("pk")
        return [SignedPackage.loads(message.payload) for message in waiting]

    def take(self) -> list[dict[str, Any]]:
        """Take all messages out of the broker."""
        taken = self.messages()
        OrmQ.objects.all().delete()
        return taken

    def cycle(self) -> None:
        """Let the cluster run all that waits, and move what comes of it."""
        run(self.take())
        self.turn()


def run(tasks: Sequence[dict[str, Any]]) -> None:
    """Run tasks by django-q2's own code, worker and monitor, in this process."""
    to_do, done = Queue(), Queue()
    for task in tasks:
        to_do.put(task)
        to_do.put("STOP")  # After a timeout the worker ends by itself.
        worker(to_do, done, multiprocessing.Value("f", -1), Conf.TIMEOUT)
    done.put("STOP")
    monitor(done, get_broker())
    for queue in (to_do, done):
        queue.close()
        queue.join_thread()


def activity_row() -> ActivityTask:
    """Return the one activity that has no result."""
    return ActivityTask.objects.using(USING).get()
