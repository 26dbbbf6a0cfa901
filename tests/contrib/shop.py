"""Task functions as a project that has used django-q2 alone would have them."""

from __future__ import annotations

from typing import Any

from durable_django import activity

NOT_CALLABLE = 3


def send_mail(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what it was called with."""
    return {"args": list(args), "kwargs": kwargs}


async def send_later(address: str, urgent: bool = False) -> str:
    """Be awaited."""
    return f"{address} {urgent}"


def refuse(reason: str) -> None:
    """Fail."""
    raise LookupError(reason)


@activity
def contrib_shop_step(_: Any) -> None:
    """Be an activity already."""
