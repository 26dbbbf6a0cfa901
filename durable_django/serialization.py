"""Data converters: how payloads are written to the database, and how they come back.

Pass a converter of your own to the worker and to the clients to write payloads in another way.
"""

from __future__ import annotations

from durable_django.core.errors import PayloadError
from durable_django.core.serialization import (
    DEFAULT_DATA_CONVERTER,
    AttributeDict,
    DataConverter,
    JsonDataConverter,
)

__all__ = ["DEFAULT_DATA_CONVERTER", "AttributeDict", "DataConverter", "JsonDataConverter", "PayloadError"]
