"""The state of an instance in words, for people who did not write its code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from durable_django.core.payloads import payload
from durable_django.models import Instance, InstanceStatus, Worker
from durable_django.store.monitoring import Pending, WorkerState, worker_state

NO_TIME = timedelta()
LONGEST = 4000
"""How many characters of a payload a page shows."""


_WORKER_STATES = {
    WorkerState.ALIVE: (gettext_lazy("alive"), "completed"),
    WorkerState.DRAINING: (gettext_lazy("draining"), "suspended"),
    WorkerState.DRAINED: (gettext_lazy("drained"), "terminated"),
    WorkerState.SILENT: (gettext_lazy("silent"), "failed"),
}


def pretty(text: str | None) -> str | None:
    """Return a payload with its structure made visible; what is no JSON, as it is."""
    if text is None:
        return None
    found = payload(text)
    if isinstance(found, str) and found == text:
        return text
    try:
        return json.dumps(found, indent=2, ensure_ascii=False)
    except RecursionError:  # Some versions of Python read deeper than they write.
        return text


def excerpt(text: str | None) -> tuple[str | None, bool]:
    """Return the beginning of a payload, readable if that is all of it, and whether it is cut."""
    shown = text
    if text is not None and len(text) <= LONGEST:
        shown = pretty(text)
    return shown and shown[:LONGEST], shown is not None and len(shown) > LONGEST


def badge(instance: Instance) -> str:
    """Return the status of an instance, coloured."""
    status = InstanceStatus(instance.status)
    return format_html('<span class="durable-badge durable-{}">{}</span>', status.name.lower(), status.label)


def worker_badge(worker: Worker) -> str:
    """Return how a worker is, coloured."""
    state = worker_state(worker)
    label, colour = _WORKER_STATES[state]
    return format_html('<span class="durable-badge durable-{}">{}</span>', colour, label)


def versions(worker: Worker) -> str:
    """Return which versions a worker takes."""
    versioning = worker.versioning or {"version": None, "match": "none", "others": "reject"}
    version = versioning["version"] or _("(none)")
    if versioning["match"] == "none":
        return _("all; its own is %(version)s") % {"version": version} if versioning["version"] else _("all")
    taken = version if versioning["match"] == "strict" else _("up to %(version)s") % {"version": version}
    return taken if versioning["others"] == "reject" else _("%(versions)s; others fail") % {"versions": taken}


def served(names: Mapping[str, Sequence[str]] | Sequence[str] | None) -> str:
    """Return the names that a worker takes, with their versions where it takes but some; None is all."""
    if names is None:
        return _("all")
    if isinstance(names, Mapping):
        names = [f"{name} ({', '.join(some)})" if some else name for name, some in sorted(names.items())]
    return ", ".join(names) or _("none")


def load(worker: Worker, *, full: bool = False) -> str | None:
    """Return how much a worker had to do at its last heartbeat, if it has told; in ``full``, or in short."""
    found = worker.load
    if found is None:
        return None
    values = {**found, "slots": found["threads"] + found["async_slots"]}
    parts = [_("activities: %(activities_running)s of %(slots)s")]
    if full or found["activities_waiting"]:
        parts.append(_("waiting: %(activities_waiting)s"))
    if full:
        parts += [_("orchestrations in memory: %(instances)s"), _("entities at work: %(entities)s")]
    parts.append(_("turns per minute: %(turns_per_minute)s"))
    return ", ".join(part % values for part in parts)


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
