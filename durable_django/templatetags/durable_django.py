"""Template tags of the admin's pages."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import reverse

register = template.Library()


@register.simple_tag
def durable_overview() -> dict[str, Any]:
    """Return what the overview shows."""
    from durable_django.admin.overview import overview

    return overview()


@register.simple_tag
def durable_instances(inline_formset: Any) -> dict[str, Any] | None:
    """Return what an inline of instances shows, and where all are if that are not all; None on a new object."""
    inline, target = inline_formset.opts, inline_formset.formset.instance
    if target._state.adding:  # It may have a key all the same, by default.
        return None
    rows = inline.rows(target)
    all_url = None
    if len(rows) > inline.most:
        all_url = f"{reverse('admin:durable_django_instance_changelist')}?{inline.list_query(target)}"
    return {"rows": rows[: inline.most], "all_url": all_url}
