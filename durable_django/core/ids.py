"""Identifiers: made, derived and checked."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID, uuid4, uuid5

if TYPE_CHECKING:
    from datetime import datetime

MAX_ID_LENGTH = 255
"""Characters in an instance id."""

MAX_NAME_LENGTH = 255
"""Characters in the name of an orchestrator, activity, entity or queue."""

_UUID_NAMESPACE = UUID("6c3f0f6e-53c2-4b7c-9d1d-0d5a2f6a8a41")  # Fixed: replay must give the same uuids.
_DIGEST_LENGTH = 32
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def new_instance_id() -> str:
    """Return a random instance id: 32 hexadecimal digits."""
    return uuid4().hex


def new_execution_id() -> str:
    """Return a random execution id: 32 hexadecimal digits."""
    return uuid4().hex


def child_instance_id(parent_instance_id: str, task_id: int) -> str:
    """Return the id that a sub-orchestration gets by default: the same in every replay.

    Where parent and number do not fit into ``MAX_ID_LENGTH``, the parent's tail is replaced by a digest of
    the whole, so that different parents keep different children.
    """
    suffix = f":{task_id:04x}"
    full = parent_instance_id + suffix
    if len(full) <= MAX_ID_LENGTH:
        return full
    digest = sha256(full.encode()).hexdigest()[:_DIGEST_LENGTH]
    kept = MAX_ID_LENGTH - len(suffix) - 1 - _DIGEST_LENGTH
    return f"{parent_instance_id[:kept]}~{digest}{suffix}"


def deterministic_uuid(instance_id: str, now: datetime, counter: int) -> str:
    """Return the uuid number ``counter`` of an instance at ``now`` (naive UTC): the same in every replay."""
    return str(uuid5(_UUID_NAMESPACE, f"{instance_id}|{now.isoformat(timespec='microseconds')}|{counter}"))


def check_instance_id(instance_id: object, what: str = "instance_id") -> str:
    """Return ``instance_id`` if it can name an orchestration instance; else raise ``ValueError``.

    ``what`` is what the error calls it.
    """
    checked = check_text(what, instance_id, MAX_ID_LENGTH)
    if checked.startswith("@"):
        raise ValueError(
            f"{what} must not start with '@', which marks entity ids: {_excerpt(checked)}. "
            "Choose an id with another first character."
        )
    return checked


def check_name(kind: str, name: object) -> str:
    """Return ``name`` if it can name a ``kind`` ("orchestrator", "queue", …); else raise ``ValueError``."""
    return check_text(f"{kind} name", name, MAX_NAME_LENGTH)


def check_text(what: str, value: object, limit: int = MAX_NAME_LENGTH) -> str:
    """Return ``value`` if it is a text of 1 to ``limit`` characters that all databases store; else raise
    ``ValueError``, which calls it ``what``.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a str, not {type(value).__name__}. Convert it with str() first.")
    if not value:
        raise ValueError(f"{what} must not be empty. Give at least one character.")
    if len(value) > limit:
        raise ValueError(
            f"{what} has {len(value)} characters, more than {limit}: {_excerpt(value)}. "
            "Shorten it, or use a digest of it."
        )
    if found := _UNSTORABLE.search(value):
        raise ValueError(
            f"{what} contains U+{ord(found[0]):04X} at position {found.start()}: {_excerpt(value)}. "
            "Remove control characters and lone surrogates."
        )
    return value


def _excerpt(value: str) -> str:
    return ascii(value if len(value) <= 60 else value[:60] + "...")
