"""The engines that the acceptance tests run on: a queue's settings, and the processes that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engines.brokers import Cluster, Redis, TasksWorker, cluster_settings
from tests.processes.pack import Pack

QUEUE = "elsewhere"
BACKEND = "durable_django.contrib.django_q.DjangoQDispatcher"
SHORT = {"LEASE_SECONDS": 3, "HEARTBEAT_SECONDS": 0.5, "POLL_INTERVAL": 0.2, "ACTIVITY_THREADS": 8}


class Workers(Pack):
    """Durable workers that know what these tests run."""

    SETTINGS = "tests.engines.settings"


@dataclass
class House:
    """Durable workers, and the processes of the engine that runs the activities of `QUEUE`."""

    workers: Workers
    cluster: Cluster | None = None
    redis: Redis | None = None

    def log(self) -> str:
        """Return the last words of all of them."""
        servers = [server for server in (self.cluster, self.redis) if server is not None]
        return "\n---\n".join(text[-4000:] for text in (self.workers.log(), *(s.log() for s in servers)))


@dataclass
class Site:
    """Where a house is built: the environment of its processes, a folder, and what they do differently."""

    environment: dict[str, str]
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def workers(self, count: int, dispatchers: dict[str, Any], broker: dict[str, Any]) -> Workers:
        """Return durable workers, started."""
        self.environment["Q_CLUSTER"] = cluster_settings(broker)
        settings = {**SHORT, **self.settings}
        if dispatchers:
            settings["DISPATCHERS"] = dispatchers
        workers = Workers(self.environment, self.folder / "workers.log", **settings)
        for _ in range(count):
            workers.start()
        return workers

    def cluster(self, workers: Workers) -> Cluster:
        """Return a cluster with the settings of these workers."""
        return Cluster(workers.environment, self.folder)


Engine = Callable[[Site, ExitStack, int], House]


def in_process(site: Site, stack: ExitStack, count: int) -> House:
    """The workers themselves."""
    return House(stack.enter_context(site.workers(count, {}, {"orm": "default"})))


def q2_on_database(site: Site, stack: ExitStack, count: int) -> House:
    """A cluster of django-q2 whose broker is the database."""
    workers = stack.enter_context(site.workers(count, _dispatchers(site), {"orm": "default"}))
    return House(workers, stack.enter_context(site.cluster(workers)))


def q2_on_redis(site: Site, stack: ExitStack, count: int) -> House:
    """A cluster of django-q2 whose broker is Redis."""
    redis = stack.enter_context(Redis(site.folder))
    broker = {"redis": {"host": "127.0.0.1", "port": redis.port}}
    workers = stack.enter_context(site.workers(count, _dispatchers(site), broker))
    return House(workers, stack.enter_context(site.cluster(workers)), redis)


def tasks(site: Site, stack: ExitStack, count: int) -> House:
    """Workers of a backend of Django's Tasks framework, on the database."""
    dispatchers = _dispatchers(site, "durable_django.contrib.django_tasks.TasksDispatcher")
    workers = site.workers(count, dispatchers, {"orm": "default"})
    for number in range(4):
        stack.enter_context(TasksWorker(workers.environment, site.folder, number))
    return House(stack.enter_context(workers))


def _dispatchers(site: Site, backend: str = BACKEND) -> dict[str, Any]:
    return {QUEUE: {"BACKEND": backend, "OPTIONS": {"lease_seconds": 5, **site.options}}}


ENGINES: dict[str, Engine] = {
    "in process": in_process,
    "django-q2 on the database": q2_on_database,
    "django-q2 on redis": q2_on_redis,
    "django-tasks": tasks,
}


@contextmanager
def built(engine: str, site: Site, *, workers: int = 1) -> Iterator[House]:
    """Start all the processes of an engine, and kill them in the end."""
    with ExitStack() as stack:
        yield ENGINES[engine](site, stack, workers)
