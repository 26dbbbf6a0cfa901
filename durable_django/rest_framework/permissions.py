"""Who may do what: Django's model permissions, one for each action."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from durable_django.conf import settings

APP = "durable_django"


class DurablePermission(BasePermission):
    """Lets in who is logged in and has the permission that the view asks for.

    A view says which in ``required_permissions``, by HTTP method: the codename of a permission of this app,
    or None where it is enough to be logged in.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Tell whether the request may be answered."""
        user: Any = request.user  # None where UNAUTHENTICATED_USER is
        if user is None or not user.is_authenticated:
            return False
        codename = required_permission(request, view)
        return codename is None or user.has_perm(f"{APP}.{codename}")


def required_permission(request: Request, view: APIView) -> str | None:
    """Return the codename of the permission that a view asks for."""
    required: dict[str, str | None] = getattr(view, "required_permissions", {})
    method = request.method or "GET"
    if method in required:
        return required[method]
    return required.get("GET", next(iter(required.values()), None))


def permission() -> BasePermission:
    """Return the permission that ``REST_PERMISSION`` names."""
    made = import_string(settings.REST_PERMISSION)()
    assert isinstance(made, BasePermission)
    return made
