"""The size that a file and a function may have. Complexity is ruff's to count."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500
MAX_FUNCTION_LINES = 60
# What is over its budget is two things, most of the time. What is one thing stands here with its reason, as
# "durable_django/x.py" or "durable_django/x.py:function".
WAIVERS: dict[str, str] = {}


def source_files(*packages: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts
    )


def functions_over_budget(name: str) -> list[str]:
    """Name the functions of a file that are too long; docstrings are free."""
    return [
        f"{name}:{node.name}"
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _lines(node) - _docstring_lines(node) > MAX_FUNCTION_LINES
    ]


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return 0 if ast.get_docstring(node) is None else _lines(node.body[0])


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_over_budget(name: str) -> bool:
    return len((ROOT / name).read_text(encoding="utf-8").splitlines()) > MAX_LINES


# Tests are as long as what they tell: a theme's tests stay together.
@pytest.mark.parametrize("name", source_files("durable_django", "testproject"))
def test_file_stays_within_its_budget(name: str) -> None:
    assert not is_over_budget(name) or name in WAIVERS


@pytest.mark.parametrize("name", source_files("durable_django", "testproject"))
def test_functions_stay_within_their_budget(name: str) -> None:
    assert [function for function in functions_over_budget(name) if function not in WAIVERS] == []


def test_waivers_are_still_needed() -> None:
    for name in WAIVERS:
        file, _, function = name.partition(":")
        assert name in functions_over_budget(file) if function else is_over_budget(file)
