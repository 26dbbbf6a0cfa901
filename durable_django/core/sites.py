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
    """Return the line of the user's code that is calling the engine now.

    None where nobody's code is: the engine decides on a retry by itself, for instance.
    """
    caller = _caller(sys._getframe(1))
    # The engine has called the user's code. Whom it has not called has called it: a worker, or a test.
    if caller is None or _engine_above(caller) is None:
        return None
    return Site(caller.f_code.co_filename, caller.f_lineno)


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


def _caller(frame: FrameType | None) -> FrameType | None:
    while frame is not None and _is_engine(frame):
        frame = frame.f_back
    return frame


def _engine_above(frame: FrameType | None) -> FrameType | None:
    while frame is not None and not _is_engine(frame):
        frame = frame.f_back
    return frame


def _is_engine(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("durable_django.core.")
