"""The worker process of the benchmark, spoken to through its pipes.

It says "ready", starts its worker when it is told to by a line, says when that was, and ends with its input.
"""

from __future__ import annotations

import sys
import time

import django


def main() -> None:
    """Run a worker from the first line of the standard input to its end."""
    django.setup()
    from durable_django.worker import DurableTaskWorker
    from tests.benchmarks import orchestrations

    worker = DurableTaskWorker()
    worker.add_orchestrator(orchestrations.chain)
    worker.add_orchestrator(orchestrations.fan_out)
    worker.add_orchestrator(orchestrations.local_chain)
    worker.add_orchestrator(orchestrations.inserting_chain)
    worker.add_activity(orchestrations.nothing)
    worker.add_activity(orchestrations.nothing_here)
    worker.add_activity(orchestrations.insert_here)
    worker.add_entity(orchestrations.counter)
    _say("ready")
    if sys.stdin.readline():
        _say(str(time.time()))
        with worker:
            worker.start()
            sys.stdin.read()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
