"""The README's tutorial, carried out to the letter: its files, its commands, its requests."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from tests.documents import ROOT, blocks

README = blocks("README.md")

SETTINGS = "from testproject.settings import *\n\nINSTALLED_APPS.remove('durable_django')\n"
REQUESTS = """
import json
import time

import django

django.setup()

from django.test import RequestFactory

from shop import status, views
from shop.models import Order

paid, waiting = (json.loads(views.checkout(RequestFactory().post("/")).content)["order"] for _ in range(2))
views.payment_received(RequestFactory().post("/"), paid)
state = views.client.wait_for_orchestration_completion(f"order-{paid}", timeout=60)
state.raise_if_failed()
views.client.wait_for_orchestration_start(f"order-{waiting}", timeout=60)
print(json.dumps([
    status.status_of(paid),
    Order.objects.get(pk=paid).state,
    status.status_of(waiting),
    Order.objects.get(pk=waiting).state,
]))
"""


def _command(line: str) -> list[str]:
    """Return a line of the README's shell as a command of this environment."""
    program, script, *arguments = shlex.split(line)
    assert (program, script) == ("python", "manage.py")
    return [sys.executable, "-m", "django", *arguments]


@pytest.fixture
def environment(tmp_path: Path, command_environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The tutorial's project in a folder of its own, on the test's database."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    for block in README:
        if block.path is not None and block.path.startswith("shop/"):
            (tmp_path / block.path).write_text(block.code)
    installed = next(block.code for block in README if "INSTALLED_APPS" in block.code)
    (tmp_path / "tutorial_settings.py").write_text(SETTINGS + installed)
    yield command_environment | {
        "DJANGO_SETTINGS_MODULE": "tutorial_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS shop_order")


def test_tutorial(environment: dict[str, str]) -> None:
    shell = next(block.code for block in README if "durable_worker" in block.code).splitlines()
    migrate, durable_worker = map(_command, shell)
    # The reader's Order has been migrated; here its table is made without a migration.
    subprocess.run([*migrate, "--run-syncdb", "--verbosity", "0"], env=environment, check=True, timeout=60)
    worker = subprocess.Popen(durable_worker, env=environment)
    try:
        requests = [sys.executable, "-c", REQUESTS]
        answer = subprocess.run(
            requests, env=environment, check=True, timeout=90, capture_output=True, text=True
        )
    finally:
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(timeout=40)
    assert answer.stdout == '[["COMPLETED", "paid"], "paid", ["RUNNING", null], "new"]\n'
    assert code == 0


def test_tutorial_is_short() -> None:
    workflow = next(block.code for block in README if block.path == "shop/workflows.py")
    assert len([line for line in workflow.splitlines() if line and not line.startswith("#")]) <= 20


def test_sqlite_settings_satisfy_the_checks(tmp_path: Path) -> None:
    sqlite = next(block.code for block in README if "DATABASES" in block.code)
    base_dir = f"from pathlib import Path\n\nBASE_DIR = Path({str(tmp_path)!r})\n"
    (tmp_path / "sqlite_settings.py").write_text("from testproject.settings import *\n" + base_dir + sqlite)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "sqlite_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    command = [sys.executable, "-m", "django", "check", "--database", "default", "--fail-level", "WARNING"]
    subprocess.run(command, env=environment, check=True, timeout=60)


def test_commands_name_environments_of_tox() -> None:
    shell = [block.code.strip() for block in README if block.language == "shell"]
    assert "python -m pip install tox && python -m tox run -e demo" in shell
    assert "python -m pip install tox && python -m tox run" in shell
    assert "[testenv:demo]" in (ROOT / "tox.ini").read_text()
