"""What all pages of the admin have in common: nobody writes these tables by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ActionForm
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils.functional import cached_property

from durable_django.client import DurableTaskError
from durable_django.conf import settings
from durable_django.store.audit import Author

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:  # generic in the stubs alone
    _ModelAdmin = admin.ModelAdmin

T = TypeVar("T")
APP = "durable_django"
FAULTS = (DurableTaskError, TypeError, ValueError, RecursionError)
"""What the client raises at what people have entered, or at what has changed meanwhile."""

LONGEST_TERM = 1000
"""How many characters people may search for: SQLite compares with no pattern of any length."""

_MOST = 10_000


class UncountedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts up to ten thousand: nobody leafs further, and a full count reads the whole table."""

    @cached_property
    def count(self) -> int:
        """How many there are, ten thousand at most."""
        query: Any = self.object_list
        return len(query.order_by().values_list("pk", flat=True)[:_MOST])


class SelectedAlone(ActionForm):
    """Chooses an action for the selected rows, and never for all that there are: no page offers that."""

    def clean_select_across(self) -> bool:
        """Return that it is not for all."""
        return False


class ReadOnlyAdmin(_ModelAdmin):
    """Shows rows of the database that ``DATABASE_ALIAS`` names, and lets nobody write them."""

    paginator = UncountedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # They count the whole table, once for each choice.
    list_per_page = 50
    actions_selection_counter = False
    action_form = SelectedAlone

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """Return the rows of the right database."""
        query: QuerySet[Model] = self.model._default_manager.using(settings.DATABASE_ALIAS)
        ordering = self.get_ordering(request)
        return query.order_by(*ordering) if ordering else query

    def demand(self, request: HttpRequest, permission: str) -> None:
        """Ask for one of the app's permissions, and for that to view these pages at all.

        Raises:
            PermissionDenied: The user has not both.
        """
        if not (self.has_view_permission(request) and may(request, permission)):
            raise PermissionDenied

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tell whether a row may be added: never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether a row may be changed: never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether a row may be deleted: never this way."""
        return False


def url_of(site: admin.AdminSite, page: str, *args: Any) -> str:
    """Return where one of the app's pages is on this admin site; there may be others.

    Raises:
        NoReverseMatch: It is not on this one.
    """
    return reverse(f"admin:{APP}_{page}", args=args, current_app=site.name)


def url_if_there(site: admin.AdminSite, page: str, *args: Any) -> str | None:
    """Return where one of the app's pages is on this admin site, if it is there."""
    try:
        return url_of(site, page, *args)
    except NoReverseMatch:
        return None


def may(request: HttpRequest, permission: str) -> bool:
    """Tell whether the user has one of the app's permissions."""
    return bool(request.user.has_perm(f"{APP}.{permission}"))


def author_of(request: Any) -> Author:
    """Return who the audit trail says has done it, asked for once in a request."""
    if not hasattr(request, "_durable_author"):
        request._durable_author = Author.of(request.user)
    author: Author = request._durable_author
    return author


def permitted(permission: str) -> Callable[[Any, HttpRequest], bool]:
    """Return a ``has_…_permission`` method for one of the app's permissions."""

    def has_permission(_: Any, request: HttpRequest) -> bool:
        return may(request, permission)

    return has_permission


def plain(text: str) -> HttpResponse:
    """Return a payload as plain text: whatever it holds is shown, not run."""
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "inline"}
    return HttpResponse(text, content_type="text/plain; charset=utf-8", headers=headers)


def tried(form: forms.Form, act: Callable[[], T]) -> T | None:
    """Do what a valid form asks for, and return what comes of it; a refusal becomes the form's error."""
    try:
        return act()
    except FAULTS as error:
        form.add_error(None, str(error))
        return None
