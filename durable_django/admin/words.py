"""The state of an instance in words, for people who did not write its code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from durable_django.core.payloads import payload
from durable_django.models import Instance, InstanceStatus
from durable_django.store.monitoring import Pending

LONGEST = 4000
"""How many characters of a payload a page shows."""


def pretty(text: str | None) -> str | None:
    """Return a payload with its structure made visible; what is no JSON, as it is."""
    if text is None:
        return None
    found = payload(text)
    return (
        text if isinstance(found, str) and found == text else json.dumps(found, indent=2, ensure_ascii=False)
    )


def badge(instance: Instance) -> str:
    """Return the status of an instance, coloured."""
    status = InstanceStatus(instance.status)
    return format_html('<span class="durable-badge durable-{}">{}</span>', status.name.lower(), status.label)


def duration(span: timedelta) -> str:
    """Return a length of time, in its two largest units."""
    seconds = span.total_seconds()
    if seconds < 1:
        return _("%(number)s ms") % {"number": round(seconds * 1000)}
    whole = int(seconds)
    units = [
        (_("%(number)s d"), whole // 86400),
        (_("%(number)s h"), whole // 3600 % 24),
        (_("%(number)s min"), whole // 60 % 60),
        (_("%(number)s s"), whole % 60),
    ]
    first = next(place for place, (_unit, number) in enumerate(units) if number)
    shown = [unit % {"number": number} for unit, number in units[first : first + 2] if number]
    return " ".join(shown)


def waiting(pending: Pending, now: datetime) -> list[str]:
    """Return what an instance waits for, a phrase for each."""
    return list(_waiting(pending, now))


def _waiting(pending: Pending, now: datetime) -> Iterator[str]:
    for name in pending.events:
        yield _("waiting for event “%(name)s”") % {"name": name}
    for activity in pending.activities[:5]:
        values: dict[str, Any] = {"name": activity.name, "attempt": activity.attempt}
        if activity.is_leased:
            yield _("activity “%(name)s” is running, attempt %(attempt)s") % values
        else:
            yield _("activity “%(name)s” is queued, attempt %(attempt)s") % values
    if (more := len(pending.activities) - 5) > 0:
        yield ngettext("%(count)s more activity", "%(count)s more activities", more) % {"count": more}
    for timer in pending.timers[:5]:
        if timer.fire_at > now:
            yield _("timer due in %(span)s") % {"span": duration(timer.fire_at - now)}
        else:
            yield _("timer due since %(span)s") % {"span": duration(now - timer.fire_at)}
    for child in pending.children[:5]:
        yield _("sub-orchestration “%(name)s” is under way") % {"name": child.instance_id}
    for call in pending.entity_calls[:5]:
        yield _("waiting for entity %(entity)s") % {"entity": call.entity}
