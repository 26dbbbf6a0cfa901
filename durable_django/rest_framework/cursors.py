"""Cursors: where a list or a bulk action goes on, as a text that callers hand back as it is."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

PATTERN = "^[A-Za-z0-9_-]+$"
"""What all cursors look like."""

_MAX_KEY = 2**63 - 1


def write(*parts: Any) -> str:
    """Return the cursor of these parts."""
    text = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read(cursor: str) -> list[Any]:
    """Return the parts of a cursor.

    Raises:
        ValueError: It is none.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, RecursionError, ValueError) as error:
        raise ValueError("it has no parts") from error
    if not isinstance(found, list):
        raise ValueError("it has no parts")
    return found


def key(part: Any) -> int:
    """Return the part of a cursor that is a primary key.

    Raises:
        ValueError: It is none.
    """
    if type(part) is not int or not 0 <= part <= _MAX_KEY:
        raise ValueError("it has no key")
    return part
