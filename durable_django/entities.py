"""Durable entities: so far, what names them."""

from durable_django.core.entity import EntityInstanceId

__all__ = ["EntityInstanceId"]
