"""What holds a rewound execution back until it has its locks again."""

from __future__ import annotations

from collections.abc import Iterable

from durable_django.core import events
from durable_django.core.events import HistoryEvent


class Gate:
    """Keeps what happens to an execution from its code, which stands in critical sections without locks.

    The failure has released them, and the rewind has asked for them again: the code goes on with the grant of
    the last one, and hears then of all that was ``held`` back, each with its position in the history.
    """

    def __init__(self) -> None:
        self._sections: set[str] = set()
        self.held: list[tuple[int, HistoryEvent]] = []

    def close(self, sections: Iterable[str]) -> None:
        """Wait for the locks of these sections as well."""
        self._sections.update(sections)

    def opens(self, event: HistoryEvent, position: int) -> bool:
        """Tell whether ``event`` is the last grant; hold it back if it is no grant."""
        if isinstance(event, events.EntityLockGrantedEvent) and event.critical_section_id in self._sections:
            self._sections.discard(event.critical_section_id)
            return not self._sections
        self.held.append((position, event))
        return False
