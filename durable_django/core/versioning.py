"""Versions of orchestrations, and which of them a worker takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from packaging.version import InvalidVersion, Version


class VersionMatchStrategy(Enum):
    """Which versions of an orchestration a worker takes."""

    NONE = 1
    """Every version."""
    STRICT = 2
    """Only the worker's own version."""
    CURRENT_OR_OLDER = 3
    """The worker's own version and those before it."""


class VersionFailureStrategy(Enum):
    """What a worker does with an orchestration whose version it does not take."""

    REJECT = 1
    """Leave it to another worker."""
    FAIL = 2
    """Fail it, with the error type ``VersionMismatch``."""


@dataclass(frozen=True, slots=True)
class VersioningOptions:
    """How a worker treats the versions of orchestrations.

    - ``version``: the worker's own version, compared with an orchestration's.
    - ``default_version``: given to sub-orchestrations that are started without one; they do not inherit
      their parent's.
    - ``match_strategy``, ``failure_strategy``: see the enums; by default every version is taken.
    """

    version: str | None = None
    default_version: str | None = None
    match_strategy: VersionMatchStrategy = VersionMatchStrategy.NONE
    failure_strategy: VersionFailureStrategy = VersionFailureStrategy.REJECT

    def __post_init__(self) -> None:
        for field, kind in (
            ("match_strategy", VersionMatchStrategy),
            ("failure_strategy", VersionFailureStrategy),
        ):
            if not isinstance(getattr(self, field), kind):
                raise TypeError(f"{field} must be a {kind.__name__}, not {getattr(self, field)!r}")


def compare_versions(a: str | None, b: str | None) -> int:
    """Return -1, 0 or 1 as version ``a`` is older than, equal to or newer than ``b``.

    Versions compare as PEP 440 has it where both can be read that way (``1.10`` is newer than ``1.9``),
    else as strings. A missing version (None or empty) is older than any other.
    """
    if not a or not b:
        return bool(a) - bool(b)
    parsed_a, parsed_b = _parse(a), _parse(b)
    if parsed_a is None or parsed_b is None:
        return (a > b) - (a < b)
    return (parsed_a > parsed_b) - (parsed_a < parsed_b)


def accepts(options: VersioningOptions | None, version: str | None) -> bool:
    """Tell whether a worker with these options takes an orchestration of this version."""
    return version_mismatch(options, version) is None


def version_mismatch(options: VersioningOptions | None, version: str | None) -> str | None:
    """Say why a worker with these options does not take this version; None when it does."""
    if options is None or options.match_strategy is VersionMatchStrategy.NONE:
        return None
    order = compare_versions(version, options.version)
    theirs, ours = _shown(version), _shown(options.version)
    if options.match_strategy is VersionMatchStrategy.STRICT:
        return f"The orchestration's version {theirs} is not the worker's version {ours}." if order else None
    if order > 0:
        return f"The orchestration's version {theirs} is newer than the worker's version {ours}."
    return None


def _shown(version: str | None) -> str:
    return f"'{version}'" if version else "(none)"


@lru_cache(maxsize=1024)
def _parse(version: str) -> Version | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None
