"""Tools for the tests of projects that use durable_django.

In a ``TestCase``, without a worker, in the test's own transaction::

    from durable_django import testing

    class ReminderTests(TestCase):
        def test_it_reminds_and_gives_up(self):
            with testing.virtual_time():
                instance_id = DurableTaskClient().schedule_new_orchestration(remind, input="ada")
                testing.drain()
                testing.advance(timedelta(days=30))

`drain` runs what is ready, `advance` lets time pass, `replay_history` tells whether changed code still
fits the histories of production. With pytest there are the fixtures of ``durable_django.testing.plugin``,
among them a real worker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_django.testing.histories import dump_history, load_history, replay_history
    from durable_django.testing.inline import Drained, DrainError, advance, drain
    from durable_django.testing.virtual_clock import VirtualClock, virtual_time

__all__ = [
    "DrainError",
    "Drained",
    "VirtualClock",
    "advance",
    "drain",
    "dump_history",
    "load_history",
    "replay_history",
    "virtual_time",
]

_MODULES = {
    "DrainError": "inline",
    "Drained": "inline",
    "VirtualClock": "virtual_clock",
    "advance": "inline",
    "drain": "inline",
    "dump_history": "histories",
    "load_history": "histories",
    "replay_history": "histories",
    "virtual_time": "virtual_clock",
}

if not TYPE_CHECKING:  # A type checker that saw it would take any misspelt name for one of the package's.

    def __getattr__(name: str) -> object:
        """Load a public name and keep it: pytest imports this package before Django is set up."""
        if name in _MODULES:
            value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
