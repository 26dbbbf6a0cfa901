"""Problem details: every error of the API has the one shape of RFC 9457."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import status
from rest_framework.exceptions import APIException, ErrorDetail, NotFound, ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import exception_handler, set_rollback

from durable_django.client import (
    OrchestrationAlreadyExistsError,
    OrchestrationNotFoundError,
    OrchestrationStateConflictError,
)
from durable_django.core.errors import scrub

CONTENT_TYPE = "application/problem+json"
_WHOLE = "non_field_errors"
_NAMED = 10
"""How many names that nobody knows an answer tells."""

_MOST_ERRORS = 100


class LengthRequiredError(APIException):
    """A body comes in chunks, and nobody would read it."""

    status_code = status.HTTP_411_LENGTH_REQUIRED
    default_detail = "Send the body with its Content-Length."
    default_code = "length_required"


class ConflictError(APIException):
    """What exists, or the state that it is in, rules the request out."""

    status_code = status.HTTP_409_CONFLICT
    default_detail = "The request conflicts with the present state."
    default_code = "conflict"


class TooLargeError(APIException):
    """The body, or a payload in it, is larger than allowed."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request is too large."
    default_code = "too_large"


class DatabaseAwayError(APIException):
    """The database does not answer, or not in time."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The database does not answer. Try again later."
    default_code = "database_away"


class NoSuchPageError(NotFound):
    """A cursor leads nowhere."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.errors = [{"field": field, "detail": message, "code": "not_found"}]


def invalid(field: str, message: str, code: str = "invalid") -> ValidationError:
    """Return the error that names a field and what is wrong with it."""
    return ValidationError({field: [ErrorDetail(message, code)]})


def unknown(names: Iterable[str], message: str) -> ValidationError:
    """Return the error that names what nobody knows: the first few, and how many more there are."""
    ordered = sorted(names)
    errors = {name: [ErrorDetail(message, "unknown")] for name in ordered[:_NAMED]}
    if more := len(ordered) - len(errors):
        errors[_WHOLE] = [ErrorDetail(f"{more} more names are not known.", "unknown")]
    return ValidationError(errors)


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response to an exception in a view; None for what is a fault of the server."""
    translated = _translated(error)
    if translated is None:
        return exception_handler(error, context)
    response = exception_handler(translated, context)
    assert response is not None  # It is for every APIException.
    set_rollback()
    response.data = details(translated)
    request = context["request"]
    # There is none where the request accepts nothing that we have.
    if getattr(getattr(request, "accepted_renderer", None), "media_type", None) != "text/html":
        request.accepted_renderer, request.accepted_media_type = JSONRenderer(), CONTENT_TYPE
        response.content_type = CONTENT_TYPE
    return response


def details(error: APIException) -> dict[str, Any]:
    """Return the problem details of an error."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(error.status_code),
        "status": error.status_code,
    }
    if isinstance(error, ValidationError):
        problem["detail"] = "The request is not valid: see the errors."
        problem["code"] = "invalid"
        problem["errors"] = _bounded(list(_errors(error.detail, "")))
        if len(problem["errors"]) == 1:
            problem["detail"] = _sentence(problem["errors"][0])
        return problem
    problem["detail"] = _message(error)
    if isinstance(error, NoSuchPageError):
        problem["errors"] = error.errors
    problem["code"] = str(getattr(error.detail, "code", None) or error.default_code)
    return problem


def _title(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:  # A project's own, such as 419.
        return "Client Error" if status_code < status.HTTP_500_INTERNAL_SERVER_ERROR else "Server Error"


def _message(error: APIException) -> str:
    """Return what an error says; others than our own may say it in a list or, with more, in an object."""
    detail: Any = error.detail
    if isinstance(detail, dict) and isinstance(detail.get("detail"), str):
        detail = detail["detail"]
    if isinstance(detail, str):
        return scrub(detail)
    return " ".join(_sentence(one) for one in _errors(detail, ""))


def _bounded(errors: list[dict[str, str]]) -> list[dict[str, str]]:
    more = len(errors) - _MOST_ERRORS
    if more <= 0:
        return errors
    return [
        *errors[:_MOST_ERRORS],
        {"field": "", "detail": f"There are {more} more errors.", "code": "invalid"},
    ]


def _translated(error: Exception) -> APIException | None:
    if isinstance(error, APIException):
        return error
    if isinstance(error, Http404):
        return NotFound(*error.args)
    if isinstance(error, PermissionDenied):
        from rest_framework.exceptions import PermissionDenied as Denied

        return Denied(*error.args)
    if isinstance(error, OperationalError | InterfaceError):
        return DatabaseAwayError()
    if isinstance(error, OrchestrationNotFoundError):
        return NotFound(str(error))
    if isinstance(error, OrchestrationAlreadyExistsError | OrchestrationStateConflictError):
        return ConflictError(str(error))
    return None


def _errors(found: Any, path: str) -> Iterator[dict[str, str]]:
    if isinstance(found, dict):
        for key, value in found.items():
            inner = path if key == _WHOLE else f"{path}.{key}" if path else str(key)
            yield from _errors(value, inner)
    elif isinstance(found, list):
        for position, value in enumerate(found):
            is_message = isinstance(value, ErrorDetail)
            if is_message or value:
                yield from _errors(value, path if is_message else f"{path}[{position}]")
    else:
        yield {"field": scrub(path), "detail": scrub(str(found)), "code": getattr(found, "code", "invalid")}


def _sentence(error: dict[str, str]) -> str:
    return f"{error['field']}: {error['detail']}" if error["field"] else error["detail"]
