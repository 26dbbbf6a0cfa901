"""The audit trail: who has done what to which instance or entity, and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.apps import apps
from django.db.models import Model
from rest_framework.request import Request

logger = logging.getLogger("durable_django.audit")

_REPR = 200


def leave_trail(
    request: Request, model: type[Model], done: str, subjects: Sequence[tuple[int | None, str]], reason: str
) -> None:
    """Record that the request has ``done`` something to ``subjects``, each with its key and its name.

    It goes to the log and, where Django's admin is installed and the user is known, to its `LogEntry`, in the
    present transaction.
    """
    user = request.user if request.user.is_authenticated else None
    why = f": {reason}" if reason else ""
    for _, name in subjects:
        logger.info("%s %s %s over HTTP%s", user or "Somebody", done, name, why)
    if user is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
    from django.contrib.contenttypes.models import ContentType

    flag = {"started": ADDITION, "purged": DELETION, "deleted": DELETION}.get(done, CHANGE)
    content_type = ContentType.objects.get_for_model(model)
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=user.pk,
            content_type_id=content_type.pk,
            object_id=None if key is None else str(key),
            object_repr=name[:_REPR],
            action_flag=flag,
            change_message=f"{done.capitalize()} over HTTP{why}",
        )
        for key, name in subjects
    )
