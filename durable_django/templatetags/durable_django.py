"""Template tags of the admin's pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template

register = template.Library()


@register.filter
def durable_time(moment: datetime) -> datetime:
    """Return a time of the engine's, naive UTC, as templates show it: in the zone of all other times."""
    from durable_django.store import clock

    return clock.aware(moment)


@register.simple_tag
def durable_overview() -> dict[str, Any]:
    """Return what the overview shows."""
    from durable_django.admin.overview import overview

    return overview()


@register.simple_tag
def durable_instances(inline_formset: Any) -> dict[str, Any] | None:
    """Return what an inline of instances shows, and where the rest is; None on a new object."""
    from durable_django.admin.base import url_if_there

    inline, target = inline_formset.opts, inline_formset.formset.instance
    if target._state.adding:  # It may have a key all the same, by default.
        return None
    rows = inline.rows(target)
    list_url = url_if_there(inline.admin_site, "instance_changelist") if len(rows) > inline.most else None
    all_url = None if list_url is None else f"{list_url}?{inline.list_query(target)}"
    return {"rows": rows[: inline.most], "all_url": all_url}
