"""The parser of request bodies: JSON as RFC 8259 has it, within bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from durable_django.conf import settings
from durable_django.rest_framework.problems import TooLargeError

MAX_DEPTH = 100
"""How deep arrays and objects may lie in each other."""


class StrictJSONParser(BaseParser):
    """Takes one JSON text in UTF-8, and neither NaN, nor a name twice in one object, nor endless depth."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return what the body says.

        Raises:
            ParseError: It is no such JSON.
            TooLargeError: It is longer than ``REST_MAX_BODY_BYTES``.
        """
        limit = settings.REST_MAX_BODY_BYTES
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise TooLargeError(f"The body is longer than {limit} bytes.")
        if not body:
            return {}
        try:
            found = json.loads(body.decode(), parse_constant=_refuse, object_pairs_hook=_as_object)
        except RecursionError as error:
            raise ParseError(f"The JSON is deeper than {MAX_DEPTH} levels.") from error
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
            raise ParseError(f"The body is no JSON: {error}") from error
        if _depth_exceeds(found, MAX_DEPTH):
            raise ParseError(f"The JSON is deeper than {MAX_DEPTH} levels.")
        return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is none of its numbers")


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the name {twice[0]!r} is there twice")
    return found


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
