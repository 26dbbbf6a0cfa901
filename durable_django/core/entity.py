"""Entities: how they are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, order=True, slots=True)
class EntityInstanceId:
    """Names one entity: what it is, in lower case, and its key, as it is. Ordered by both.

    Raises:
        ValueError: A part is empty or has an ``@`` in it.
    """

    entity: str
    key: str

    def __post_init__(self) -> None:
        for part, value in (("entity", self.entity), ("key", self.key)):
            if not value or "@" in value:
                raise ValueError(f"{part} must neither be empty nor have an '@' in it: {value!r}")
        object.__setattr__(self, "entity", self.entity.lower())

    def __str__(self) -> str:
        return f"@{self.entity}@{self.key}"

    @classmethod
    def parse(cls, entity_id: str) -> Self:
        """Return the id that ``@entity@key`` stands for.

        Raises:
            ValueError: The text has another form.
        """
        blank, *parts = entity_id.split("@")
        if blank or len(parts) != 2:
            raise ValueError(f"an entity id has the form @entity@key, and {entity_id!r} has not")
        return cls(*parts)
