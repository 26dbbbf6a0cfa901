"""Lines of the user's code, for messages."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, NamedTuple


class Site(NamedTuple):
    """A line of the user's code."""

    filename: str
    line: int

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}"


def call_site() -> Site | None:
    """Return the line of the user's code that is calling the engine now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_engine(frame):
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno) if frame else None


def pause_site(body: Any) -> Site | None:
    """Return the line at which a generator or coroutine is paused, inside whatever it delegates to."""
    site: Site | None = None
    while body is not None:
        frame = getattr(body, "gi_frame", None) or getattr(body, "cr_frame", None)
        if frame is None or _is_engine(frame):
            break
        site = Site(frame.f_code.co_filename, frame.f_lineno)
        body = getattr(body, "gi_yieldfrom", None) or getattr(body, "cr_await", None)
    return site


def _is_engine(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("durable_django.core.")
