"""What durable entities are written with.

Code written for the Durable Task SDK runs after ``from durabletask import entities`` has become
``from durable_django import entities``.
"""

from durable_django.core.critical import EntityLock
from durable_django.core.entity import (
    DurableEntity,
    EntityContext,
    EntityInstanceId,
    EntityOperationFailedException,
)
from durable_django.core.entity_metadata import EntityMetadata

__all__ = [
    "DurableEntity",
    "EntityContext",
    "EntityInstanceId",
    "EntityLock",
    "EntityMetadata",
    "EntityOperationFailedException",
]
