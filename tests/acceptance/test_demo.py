"""The demo, with a small census, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MANAGE = Path(__file__).parents[2] / "manage.py"


def test_all_of_it_holds(command_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(MANAGE), "demo", "--limit", "2000"],
        env=command_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "All checks hold" in done.stdout
    assert "FAILED" not in done.stdout
    assert "worker killed with SIGKILL" in done.stdout
