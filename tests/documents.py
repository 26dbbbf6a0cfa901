"""The code blocks of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.py)$", re.MULTILINE)


class Block(NamedTuple):
    """One code block; ``path`` is the file that a comment in its first line names."""

    language: str
    code: str
    line: int

    @property
    def path(self) -> str | None:
        """The file that the block is, or belongs to."""
        named = _FILE.match(self.code)
        return named[1] if named else None


def blocks(document: str) -> list[Block]:
    """Return the code blocks of a document, named by its path in the repository."""
    text = (ROOT / document).read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _BLOCK.finditer(text)
    ]
