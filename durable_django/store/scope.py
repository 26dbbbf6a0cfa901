"""Which work a worker takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from durable_django.store.rows import any_of

Names = Mapping[str, frozenset[str]]
"""Names that are served, each with the versions; no versions means any."""


@dataclass(frozen=True, slots=True)
class Served:
    """Queues, names and versions of one sort of work; None is all.

    What has one of the ``rejected_versions``, ``other_names`` or ``other_queues`` is not taken.
    """

    queues: frozenset[str] | None = None
    names: Names | None = None
    rejected_versions: frozenset[str | None] = frozenset()
    other_names: frozenset[str] = frozenset()
    other_queues: frozenset[str] = frozenset()

    def takes(self, queue: str, name: str, version: str | None) -> bool:
        """Tell whether work of this queue, name and version is taken."""
        if (self.queues is not None and queue not in self.queues) or version in self.rejected_versions:
            return False
        if name in self.other_names or queue in self.other_queues:
            return False
        if self.names is None:
            return True
        versions = self.names.get(name)
        return versions is not None and (not versions or version in versions)

    def takes_name(self, name: str) -> bool:
        """Tell whether work of this name is taken, in some version."""
        return name not in self.other_names and (self.names is None or name in self.names)

    def only(self, names: frozenset[str]) -> Served:
        """Return what of this has one of ``names``."""
        wanted = {name: frozenset[str]() for name in names} if self.names is None else self.names
        return replace(self, names={name: wanted[name] for name in names & wanted.keys()})

    def but(self, names: frozenset[str]) -> Served:
        """Return what of this has none of ``names``."""
        return replace(self, other_names=self.other_names | names) if names else self

    def on(self, queue: str) -> Served:
        """Return what of this is in one queue."""
        return replace(self, queues=frozenset({queue}), other_queues=frozenset())

    def off(self, queues: frozenset[str]) -> Served:
        """Return what of this is in none of these queues."""
        return replace(self, other_queues=self.other_queues | queues)

    def condition(self, vendor: str, prefix: str = "") -> tuple[str, list[Any]]:
        """Return the same as SQL, with its parameters; empty where everything is taken."""
        conditions: list[str] = []
        parameters: list[Any] = []

        def add(condition: str, values: list[Any]) -> None:
            conditions.append(condition)
            parameters.extend(values)

        if self.queues is not None:
            add(*any_of(vendor, f"{prefix}queue", sorted(self.queues)))
        if self.names is not None:
            add(*self._names_condition(vendor, prefix))
        if self.other_queues:
            in_others, values = any_of(vendor, f"{prefix}queue", sorted(self.other_queues))
            add(f"NOT {in_others}", values)
        if self.other_names:
            in_others, values = any_of(vendor, f"{prefix}name", sorted(self.other_names))
            add(f"NOT {in_others}", values)
        if None in self.rejected_versions:
            add(f"{prefix}version IS NOT NULL", [])
        if rejected := sorted(filter(None, self.rejected_versions)):
            in_rejected, values = any_of(vendor, f"{prefix}version", rejected)
            add(f"({prefix}version IS NULL OR NOT {in_rejected})", values)
        return "".join(f" AND {condition}" for condition in conditions), parameters

    def _names_condition(self, vendor: str, prefix: str) -> tuple[str, list[Any]]:
        assert self.names is not None
        unversioned = sorted(name for name, versions in self.names.items() if not versions)
        condition, parameters = any_of(vendor, f"{prefix}name", unversioned)
        for name, versions in sorted(self.names.items()):
            if versions:
                in_versions, more = any_of(vendor, f"{prefix}version", sorted(versions))
                condition += f" OR ({prefix}name = %s AND {in_versions})"
                parameters += [name, *more]
        return f"({condition})", parameters


@dataclass(frozen=True, slots=True)
class Scope:
    """All that a worker takes."""

    orchestrations: Served = field(default_factory=Served)
    activities: Served = field(default_factory=Served)
    entities: Served = field(default_factory=Served)
