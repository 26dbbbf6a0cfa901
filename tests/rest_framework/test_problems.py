"""Whatever a project's own classes raise becomes problem details."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.test import APIClient

pytestmark = pytest.mark.django_db


class PageExpired(APIException):
    """A status that Python does not know."""

    status_code = 419
    default_detail = "The page has expired."
    default_code = "page_expired"


class Overloaded(PageExpired):
    """Another one."""

    status_code = 599


class InvalidToken(AuthenticationFailed):
    """Tells more than a sentence, in an object."""

    default_code = "token_not_valid"

    def __init__(self) -> None:
        super().__init__()
        told: Any = {
            "detail": "Given token not valid.",
            "code": "token_not_valid",
            "messages": [{"token_class": "AccessToken", "message": "Token is expired"}],
        }
        self.detail = told


CASES: list[tuple[APIException, int, str, str, str]] = [
    (PageExpired(), 419, "Client Error", "The page has expired.", "page_expired"),
    (Overloaded(), 599, "Server Error", "The page has expired.", "page_expired"),
    (InvalidToken(), 403, "Forbidden", "Given token not valid.", "token_not_valid"),
    (APIException(["One.", "Two."]), 500, "Internal Server Error", "One. Two.", "error"),
    (
        APIException({"why": ["No."], "who": "x"}),
        500,
        "Internal Server Error",
        "why: No. who: x",
        "error",
    ),
]


class Raising(BasePermission):
    """Raises what a test wants."""

    error: APIException

    def has_permission(self, request: Any, view: Any) -> bool:
        raise self.error


@pytest.mark.parametrize(("error", "status", "title", "detail", "code"), CASES)
def test_an_error_of_a_projects_own(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: APIException,
    status: int,
    title: str,
    detail: str,
    code: str,
) -> None:
    settings.DURABLE_DJANGO = {"REST_PERMISSION": f"{__name__}.{Raising.__name__}"}
    monkeypatch.setattr(Raising, "error", error, raising=False)
    response: Any = APIClient().get("/durable/stats/")
    assert response.json() == {
        "type": "about:blank",
        "title": title,
        "status": response.status_code,
        "detail": detail,
        "code": code,
    }
    assert response.status_code in (status, 401)
    assert response["Content-Type"] == "application/problem+json"
