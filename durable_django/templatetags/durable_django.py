"""Template tags of the admin's pages."""

from __future__ import annotations

from typing import Any

from django import template

register = template.Library()


@register.simple_tag
def durable_overview() -> dict[str, Any]:
    """Return what the overview shows."""
    from durable_django.admin.overview import overview

    return overview()
