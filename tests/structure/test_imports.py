"""The package, the core and the façades import where there is no Django.

The import contracts prove this from the source; these tests prove it on a running interpreter.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FACADES = ["task", "entities", "history", "serialization"]
CORE = sorted(
    path.stem for path in (ROOT / "durable_django" / "core").glob("*.py") if path.stem != "__init__"
)

BLOCK_DJANGO = """
import importlib
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"django", "asgiref", "psycopg"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def run_without_django(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK_DJANGO + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_django_is_really_blocked() -> None:
    assert "django is blocked" in run_without_django("import django").stderr


@pytest.mark.parametrize(
    "module",
    ["durable_django", *(f"durable_django.{name}" for name in FACADES)]
    + [f"durable_django.core.{name}" for name in CORE],
)
def test_module_imports_without_django(module: str) -> None:
    result = run_without_django(f"importlib.import_module({module!r})")
    assert result.returncode == 0, result.stderr


def test_importing_the_package_loads_nothing_else() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import durable_django, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert "django" not in loaded
    assert not [name for name in result.stdout.split() if name.startswith("durable_django.")]
