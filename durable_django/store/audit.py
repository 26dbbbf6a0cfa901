"""The audit trail: who has done what to which instance or entity, and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import router
from django.db.models import Model

logger = logging.getLogger("durable_django.audit")

_REPR = 200


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes changes: a name for the log and, for one of Django's own users, their key."""

    name: str
    key: Any

    @classmethod
    def of(cls, user: Any) -> Author:
        """Return who a request's user is, whatever has authenticated them.

        It takes a query, so that it is asked once for all changes of a request.
        """
        if user is None or not user.is_authenticated:
            return cls("Somebody", None)
        return cls(str(user), user.pk if _is_known(user) else None)


def leave_trail(
    author: Author, model: type[Model], done: str, subjects: Sequence[tuple[int | None, str]], reason: str
) -> None:
    """Record that somebody has ``done`` something to ``subjects``, each with its key and its name.

    It goes to the log and, where Django's admin is installed and the author is one of its users, to its
    `LogEntry`, in the present transaction.
    """
    why = f": {reason}" if reason else ""
    for _, name in subjects:
        logger.info("%s", _on_one_line(f"{author.name} has {done} {name}{why}"))
    if author.key is None:
        return
    from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
    from django.contrib.contenttypes.models import ContentType

    flag = {"started": ADDITION, "purged": DELETION, "deleted": DELETION}.get(done, CHANGE)
    content_type = ContentType.objects.get_for_model(model)
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=author.key,
            content_type_id=content_type.pk,
            object_id=None if key is None else str(key),
            object_repr=name[:_REPR],
            action_flag=flag,
            change_message=f"{done[:1].upper()}{done[1:]}{why}",
        )
        for key, name in subjects
    )


def _is_known(user: Any) -> bool:
    """Tell whether there is a row for a user, without which the admin's log has nobody to point at.

    Tokens may stand for users of another service, or for those who have left.
    """
    if not apps.is_installed("django.contrib.admin"):
        return False
    model = get_user_model()
    if not isinstance(user, model) or user.pk is None:
        return False
    from django.contrib.admin.models import LogEntry

    using = router.db_for_write(LogEntry)
    try:
        return model._base_manager.using(using).filter(pk=user.pk).exists()
    except (TypeError, ValueError, ValidationError):  # A key of another kind than theirs.
        return False


def _on_one_line(text: str) -> str:
    """Return a text with everything escaped that could end a line or move what is shown of it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
