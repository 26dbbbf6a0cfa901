"""Pages of lists of any length: each begins where the last one ended, and nothing is ever counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from django.db.models import Model, Q, QuerySet
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from durable_django.conf import settings
from durable_django.rest_framework import cursors
from durable_django.rest_framework.fields import aware_datetime
from durable_django.rest_framework.payloads import moment
from durable_django.rest_framework.problems import NoSuchPageError, invalid
from durable_django.store import clock

CURSOR, SIZE, ORDERING = "cursor", "page_size", "ordering"
MAX_PAGE_SIZE = 1000
MAX_HEAVY_PAGE_SIZE = 100
"""How many items a page has at most that shows the payloads of each."""


def page_size(request: Request, most: int = MAX_PAGE_SIZE) -> int:
    """Return how many items the request wants at once; ``most`` is how many it gets.

    Raises:
        ValidationError: It wants none, too many, or what is no number.
    """
    given = request.query_params.get(SIZE)
    if given is None:
        return min(settings.REST_PAGE_SIZE, most)
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= MAX_PAGE_SIZE):
        raise invalid(SIZE, f"A page has from 1 to {MAX_PAGE_SIZE} items.")
    return min(int(given), most)


class KeysetPagination(BasePagination):
    """Orders by one field and, where that is the same, by primary key; a cursor is the last item's.

    The view names the fields in ``orderings``, the first one being the default; a hyphen reverses the order.
    Its ``max_page_size``, if it has one, is how many items a page may have.
    """

    def paginate_queryset(  # type: ignore[override]  # the stubs allow lists, DRF gives the view's query
        self, queryset: QuerySet[Any], request: Request, view: APIView | None = None
    ) -> list[Any]:
        """Return one page.

        Raises:
            ValidationError: The order or the size is none.
            NoSuchPageError: The cursor is none.
        """
        self._request = request
        size = page_size(request, getattr(view, "max_page_size", MAX_PAGE_SIZE))
        self._ordering = self._chosen_ordering(request, view)
        field, reverse = self._ordering.removeprefix("-"), self._ordering.startswith("-")
        cursor = request.query_params.get(CURSOR)
        if cursor is not None:
            queryset = queryset.filter(_after(field, reverse, *self._read(cursor)))
        if field != "pk" and queryset.model._meta.get_field(field).null:
            queryset = queryset.filter(**{f"{field}__isnull": False})
        sign = "-" if reverse else ""
        order = [self._ordering] if field == "pk" else [self._ordering, f"{sign}pk"]
        found = list(queryset.order_by(*order)[: size + 1])
        self._next = self._write(found[size - 1], field) if len(found) > size else None
        return found[:size]

    def get_paginated_response(self, data: Any) -> Response:
        """Return the page with the link to the next one."""
        link = None
        if self._next is not None:
            # As it has come in: build_absolute_uri() resolves the dots of ids that have some.
            here = f"{self._request.scheme}://{self._request.get_host()}{self._request.get_full_path()}"
            link = replace_query_param(here, CURSOR, self._next)
        return Response({"next": link, "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Describe a page."""
        return {
            "type": "object",
            "required": ["next", "results"],
            "properties": {
                "next": {
                    "type": ["string", "null"],
                    "format": "uri",
                    "description": "The next page; null on the last one.",
                    "example": "https://example.com/durable/instances/?cursor=WyItY3JlYXRlZF9hdCIsMV0",
                },
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        """Describe the query parameters."""
        orderings = _orderings(view)
        parameters = [
            _parameter(
                CURSOR,
                "Where the page begins: from the `next` of the one before.",
                type="string",
                pattern=cursors.PATTERN,
            ),
            _parameter(SIZE, _sizes(view), type="integer", minimum=1, maximum=MAX_PAGE_SIZE),
        ]
        if len(orderings) > 1:
            parameters.append(
                _parameter(ORDERING, "The order; a hyphen reverses it.", type="string", enum=list(orderings))
            )
        return parameters

    def _chosen_ordering(self, request: Request, view: APIView | None) -> str:
        orderings = _orderings(view)
        given = request.query_params.get(ORDERING)
        if given is None:
            choose = getattr(view, "default_ordering", None)
            return str(choose()) if callable(choose) else orderings[0]
        if given not in orderings:
            raise invalid(ORDERING, f"The order may be {', '.join(orderings)}.", "invalid_choice")
        return given

    def _write(self, item: Model, field: str) -> str:
        value = item.pk if field == "pk" else moment(getattr(item, field))
        return cursors.write(self._ordering, value, item.pk)

    def _read(self, cursor: str) -> tuple[Any, int]:
        try:
            ordering, value, last = cursors.read(cursor)
            if ordering != self._ordering:
                raise ValueError("it belongs to another list")
            key = cursors.key(last)
            return (key if ordering.removeprefix("-") == "pk" else _moment(value)), key
        except (OverflowError, ValueError) as error:
            # 404, as Django REST framework's own: who has followed a link has sent nothing wrong.
            raise NoSuchPageError(CURSOR, "This is no cursor of this list. Begin without one.") from error


def _orderings(view: APIView | None) -> Sequence[str]:
    orderings: Sequence[str] = getattr(view, "orderings", ("pk",))
    return orderings


def _sizes(view: APIView) -> str:
    most = "How many items at most."
    return (
        f"{most} With payloads, no more than {MAX_HEAVY_PAGE_SIZE}."
        if hasattr(view, "max_page_size")
        else most
    )


def _moment(value: object) -> dt.datetime:
    return clock.aware(clock.naive(aware_datetime(value)))  # as the ORM wants it, with USE_TZ or not


def _after(field: str, reverse: bool, value: Any, key: int) -> Q:
    comparison = "lt" if reverse else "gt"
    if field == "pk":
        return Q(**{f"pk__{comparison}": key})
    # The first condition is implied by the second, and lets the database begin in the middle of its index.
    return Q(**{f"{field}__{comparison}e": value}) & (
        Q(**{f"{field}__{comparison}": value}) | Q(**{field: value, f"pk__{comparison}": key})
    )


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
