"""Counting what a Python file contains. Plain code that knows nothing about workflows."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counts:
    """What is in one file, or in many."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.files + other.files,
            self.lines + other.lines,
            self.functions + other.functions,
            self.classes + other.classes,
            self.imports + other.imports,
        )


def source_files(folder: Path) -> list[str]:
    """Return the Python files below a folder, as sorted paths relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))


def count(path: Path) -> Counts:
    """Parse one file and count what is in it."""
    source = path.read_bytes()
    nodes = [type(node) for node in ast.walk(ast.parse(source, str(path)))]
    return Counts(
        files=1,
        lines=len(source.splitlines()),
        functions=nodes.count(ast.FunctionDef) + nodes.count(ast.AsyncFunctionDef),
        classes=nodes.count(ast.ClassDef),
        imports=nodes.count(ast.Import) + nodes.count(ast.ImportFrom),
    )


def total(counts: Iterable[Counts]) -> Counts:
    """Add up."""
    return sum(counts, Counts())
