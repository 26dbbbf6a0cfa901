"""The processes beside the browser: workers, and a server with settings of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MANAGE = Path(__file__).parents[2] / "manage.py"
_SECONDS = 30


@contextmanager
def worker_process(environment: Mapping[str, str], log: Path, name: str = "press") -> Iterator[None]:
    """Run a worker."""
    command = [sys.executable, str(MANAGE), "durable_worker", "--poll-interval", "0.1", "--name", name]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            _end(process)


@contextmanager
def server_process(environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Run a server, and yield its address."""
    command = [sys.executable, "-u", str(MANAGE), "runserver", "--noreload", "--insecure", "127.0.0.1:0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=output, text=True)
        try:
            yield _address(process, log)
        finally:
            _end(process)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found.group()
    raise RuntimeError(f"The server does not start:\n{log.read_text()}")


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
