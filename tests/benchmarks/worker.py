"""The worker process of the benchmark, spoken to through its pipes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import django

from tests.benchmarks import pipes

if TYPE_CHECKING:
    from durable_django.worker import DurableTaskWorker


def main() -> None:
    """Run a worker for as long as the parent process wants it."""
    django.setup()
    from durable_django.worker import DurableTaskWorker
    from durable_django.worker.processes import settle
    from tests.benchmarks import orchestrations

    worker = DurableTaskWorker()
    for orchestrator in orchestrations.ORCHESTRATORS:
        worker.add_orchestrator(orchestrator)
    for activity in orchestrations.ACTIVITIES:
        worker.add_activity(activity)
    worker.add_entity(orchestrations.counter)
    settle()  # as manage.py durable_worker does
    pipes.serve(lambda: _started(worker))


@contextmanager
def _started(worker: DurableTaskWorker) -> Iterator[None]:
    """Run a worker as a context."""
    with worker:
        worker.start()
        yield


if __name__ == "__main__":
    main()
