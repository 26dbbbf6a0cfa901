"""Forks ``durable_worker`` processes quickly: Django is loaded once, and no connection is open yet.

For each line on stdin it forks a worker and writes its process id to stdout.
"""

from __future__ import annotations

import os
import signal
import sys

import django
from django.core.management import call_command


def main() -> None:
    """Fork workers until stdin ends."""
    django.setup()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Whoever has died is gone at once: nobody waits.
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            call_command("durable_worker", *line.split())
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
