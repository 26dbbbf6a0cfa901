"""The audit trail: who has done what to which instance or entity, and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.db.models import Model

logger = logging.getLogger("durable_django.audit")

_REPR = 200


def leave_trail(
    user: Any, model: type[Model], done: str, subjects: Sequence[tuple[int | None, str]], reason: str
) -> None:
    """Record that a user has ``done`` something to ``subjects``, each with its key and its name.

    It goes to the log and, where Django's admin is installed and the user is known, to its `LogEntry`, in the
    present transaction.
    """
    who = user if user is not None and user.is_authenticated else None
    why = f": {reason}" if reason else ""
    for _, name in subjects:
        logger.info("%s has %s %s%s", who or "Somebody", done, name, why)
    if who is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
    from django.contrib.contenttypes.models import ContentType

    flag = {"started": ADDITION, "purged": DELETION, "deleted": DELETION}.get(done, CHANGE)
    content_type = ContentType.objects.get_for_model(model)
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=who.pk,
            content_type_id=content_type.pk,
            object_id=None if key is None else str(key),
            object_repr=name[:_REPR],
            action_flag=flag,
            change_message=f"{done[:1].upper()}{done[1:]}{why}",
        )
        for key, name in subjects
    )
