"""The parser of request bodies: JSON as RFC 8259 has it, within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from durable_django.conf import settings
from durable_django.core import strict_json
from durable_django.rest_framework.problems import TooLargeError


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
            return strict_json.loads(body.decode())
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
            raise ParseError(f"The body is no JSON that is taken: {error}.") from error
