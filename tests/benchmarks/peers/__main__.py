"""The comparison's command line: ``python -m tests.benchmarks.peers``."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

# The settings name the database, so that everything which reads them is imported once the server runs.
if TYPE_CHECKING:
    from tests.benchmarks.peers.server import Server
    from tests.benchmarks.peers.workloads import Workload

SYSTEMS = {
    "ours": "ours.Ours",
    "dbos": "dbos.Peer",
    "absurd": "absurd.Peer",
    "durabletask": "durabletask.Peer",
    "procrastinate": "procrastinate.Peer",
    "ours-sqlite": "ours.OursOnSQLite",
}
"""Where each one is, in the order in which they take turns."""


def main() -> None:
    """Measure, print what came of it, and exit with 1 if a system has failed."""
    # The usual end of a killed process would leave the database server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    options = _options()
    from tests.benchmarks.peers.server import Server

    server = Server()
    with tempfile.TemporaryDirectory() as directory:
        _set_up_django(server, Path(directory))
        if not _compare(options, server):
            sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.peers", description="How fast the package is beside others of its kind."
    )
    parser.add_argument("--rounds", type=int, help="measure so many times (3, or 1 if quick)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="WORKLOAD",
        help="measure this, or this family: w1; may be repeated",
    )
    parser.add_argument("--systems", metavar="NAME,…", help=f"default: {','.join(SYSTEMS)}")
    parser.add_argument("--quick", action="store_true", help="measure less, for a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.systems = options.systems.split(",") if options.systems else list(SYSTEMS)
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    return options


def _set_up_django(server: Server, directory: Path) -> None:
    server.create("bench_ours")
    os.environ["DATABASE_URL"] = server.django_url("bench_ours")
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    from django.conf import settings

    from testproject.databases import from_url

    settings.DATABASES["sqlite"] = from_url(f"sqlite:///{directory / 'bench.sqlite3'}")
    django.setup()


def _compare(options: argparse.Namespace, server: Server) -> bool:
    """Run the comparison; False if something has failed."""
    from tests.benchmarks.peers import report
    from tests.benchmarks.peers.comparison import Comparison
    from tests.benchmarks.peers.sizes import QUICK, Sizes

    about = _about(server)
    _say(", ".join(f"{key} {value}" for key, value in about.items()), to=sys.stdout)
    comparison = Comparison(
        server,
        {name: SYSTEMS[name] for name in options.systems},
        _chosen(options.only),
        QUICK if options.quick else Sizes(),
        _say,
    )
    try:
        comparison.run(options.rounds)
    finally:
        comparison.close()
    _say(report.table(comparison.results), to=sys.stdout)
    if options.json:
        report.write_json(options.json, about, comparison.results)
    return not comparison.results.has_failures


def _chosen(names: Sequence[str] | None) -> list[Workload]:
    from tests.benchmarks.peers.workloads import WORKLOADS

    known = {name for workload in WORKLOADS for name in (workload.name, workload.family)}
    if unknown := set(names or ()) - known:
        sys.exit(f"unknown workloads: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return [entry for entry in WORKLOADS if not names or {entry.name, entry.family} & set(names)]


def _about(server: Server) -> dict[str, Any]:
    return {"Python": platform.python_version(), "CPUs": os.cpu_count()} | server.settings()


def _say(text: str, to: Any = sys.stderr) -> None:
    to.write(f"{text}\n")
    to.flush()


if __name__ == "__main__":
    main()
