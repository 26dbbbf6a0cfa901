"""The order of the documentation: its curl lines are executed, and its answers must be what they show."""

from __future__ import annotations

import argparse
import base64
import json
import shlex
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from tests.documents import Block, blocks
from tests.processes.pack import Pack

pytestmark = pytest.mark.django_db(transaction=True)

_SECONDS = 30.0
_EXAMPLE = "https://example.com"


@pytest.fixture
def worker(command_environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    with Pack(command_environment, tmp_path / "worker.log", POLL_INTERVAL=0.1) as pack:
        pack.start()
        yield


def steps() -> list[tuple[str, Any]]:
    """Return the commands, each with the answer that is shown below it, if there is one."""
    found: list[tuple[str, Any]] = []
    for block in blocks("docs/rest.md"):
        if block.language == "console":
            found += [(command, None) for command in commands(block)]
        elif block.language == "json" and found and '"about:blank"' not in block.code:
            found[-1] = (found[-1][0], json.loads(block.code))
    return found


def commands(block: Block) -> list[str]:
    """Return the commands of a console, continued lines put together."""
    joined = block.code.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def curl(command: str, server: str) -> Any:
    """Do what curl would do: a fresh machine need not have one."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("url")
    parser.add_argument("-u")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    program, *words = shlex.split(command)
    assert program == "curl"
    given = parser.parse_args(words)
    request = urllib.request.Request(given.url.replace(_EXAMPLE, server), given.d and given.d.encode())
    request.add_header("Authorization", f"Basic {base64.b64encode(given.u.encode()).decode()}")
    for header in given.H:
        name, _, value = header.partition(": ")
        request.add_header(name, value)
    with urllib.request.urlopen(request) as response:
        body = response.read()
    return json.loads(body.replace(server.encode(), _EXAMPLE.encode())) if body else None


def shows(found: Any, shown: Any) -> bool:
    """Tell whether an answer has all that is shown of it."""
    if isinstance(shown, dict):
        return isinstance(found, dict) and all(
            name in found and shows(found[name], value) for name, value in shown.items()
        )
    if isinstance(shown, list):
        return len(found) == len(shown) and all(map(shows, found, shown))
    return bool(found == shown)


def test_the_order_is_approved_as_documented(live_server: Any, worker: None) -> None:
    User.objects.create_superuser("manager", password="secret")
    for command, shown in steps():
        until = time.monotonic() + _SECONDS
        found = curl(command, live_server.url)
        while shown is not None and not shows(found, shown):
            assert " -d " not in command, (command, found)
            assert time.monotonic() < until, (command, found)
            found = curl(command, live_server.url)
    assert len(steps()) == 6
