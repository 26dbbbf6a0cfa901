"""What workers and the test tell each other past the database: who has run what, and which gates are shut.

It is a directory that all hosts share, as containers share a volume. `gethostname` tells them apart.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

VARIABLE = "NETWORK_PLACE"
_SECONDS = 120.0
_LOOK_SECONDS = 0.01


def stay(gate: str, about: str) -> None:
    """Note that this host has begun ``about``, and go on once the gate is not shut for it."""
    place = Path(os.environ[VARIABLE])
    note(place, f"begun {about} {socket.gethostname()}")
    path = gate_path(place, gate, socket.gethostname())
    deadline = time.monotonic() + _SECONDS
    while path.exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    note(place, f"ended {about} {socket.gethostname()}")


def gate_path(place: Path, gate: str, host: str) -> Path:
    """Return the file that shuts a gate for a host."""
    return place / f"gate-{gate}-{host}"


def note(place: Path, line: str) -> None:
    """Add a line to what has been run."""
    with (place / "runs").open("a") as notes:  # Short appended lines are written whole.
        notes.write(f"{line}\n")


def notes(place: Path) -> list[str]:
    """Return the lines, in order."""
    path = place / "runs"
    return path.read_text().splitlines() if path.exists() else []
