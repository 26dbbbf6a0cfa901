"""The run: round by round, workload by workload, system after system."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from tests.benchmarks.peers.results import Column, Outcome, Results
from tests.benchmarks.peers.server import Server
from tests.benchmarks.peers.sizes import Sizes
from tests.benchmarks.peers.system import CannotError, System
from tests.benchmarks.peers.workloads import Bench, Workload


class Comparison:
    """Systems that take turns, and what came of it so far.

    One that fails is named with the reason, by ``say`` and in the results, and the others go on.
    """

    def __init__(
        self,
        server: Server,
        systems: Mapping[str, str],
        workloads: Sequence[Workload],
        sizes: Sizes,
        say: Callable[[str], None],
    ) -> None:
        """``systems`` are module and class in this package, by name."""
        self.results = Results(workloads, sizes)
        self._bench = Bench(sizes)
        self._say = say
        self._systems: list[System] = []
        for name, place in systems.items():
            self._add(name, place, server)

    def run(self, rounds: int) -> None:
        """Measure so many times."""
        started = time.monotonic()
        for number in range(rounds):
            for workload, system in self._turns():
                outcome = self.results.outcomes.setdefault((workload.name, system.name), Outcome())
                if not outcome.is_over:
                    self._measure(workload, system, outcome)
                    seconds = time.monotonic() - started
                    self._say(
                        f"{seconds:5.0f} s  round {number + 1}  {workload.name:12}  {system.name:14}"
                        f"  {_brief(outcome)}"
                    )

    def close(self) -> None:
        """Let go of all that the systems hold."""
        for system in self._systems:
            with suppress(Exception):  # what has failed may not even close
                system.close()

    def _add(self, name: str, place: str, server: Server) -> None:
        module, _, kind = place.partition(".")
        try:
            system: System = getattr(importlib.import_module(f"{__package__}.{module}"), kind)(server)
            system.set_up()
        except Exception as error:  # noqa: BLE001  (whatever it is, the others go on)
            self._say(f"{name} cannot be set up\n{traceback.format_exc()}")
            self.results.columns.append(Column(name))
            for workload in self.results.workloads:
                if _is_for(workload, name):
                    self.results.outcomes[workload.name, name] = Outcome(failed=_reason(error))
        else:
            self._systems.append(system)
            self.results.columns.append(Column(name, system.versions, system.configuration, system.notes))

    def _turns(self) -> Iterable[tuple[Workload, System]]:
        for workload in self.results.workloads:
            for system in self._systems:
                if _is_for(workload, system.name) and (system.only is None or workload.name in system.only):
                    yield workload, system

    def _measure(self, workload: Workload, system: System, outcome: Outcome) -> None:
        try:
            system.clear()
            system.server.write_out()
            outcome.rounds.append(workload.measure(system, self._bench))
        except CannotError as error:
            outcome.cannot = str(error)
            if error.figures:
                outcome.rounds.append(error.figures)
        except Exception as error:  # noqa: BLE001  (whatever it is, the others go on)
            self._say(traceback.format_exc())
            outcome.failed = _reason(error)


def _is_for(workload: Workload, system: str) -> bool:
    return workload.systems is None or system in workload.systems


def _brief(outcome: Outcome) -> str:
    figures = outcome.rounds[-1].items() if outcome.rounds else ()
    words = [f"{key} {value:.2f}" for key, value in figures]
    if outcome.cannot is not None:
        words.append(f"cannot: {outcome.cannot}")
    if outcome.failed is not None:
        words.append(f"FAILED: {outcome.failed}")
    return ", ".join(words)


def _reason(error: Exception) -> str:
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"
