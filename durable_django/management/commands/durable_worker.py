"""``manage.py durable_worker``: run a worker, or several, until told to stop."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import time
from argparse import SUPPRESS
from collections.abc import Iterable
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils.autoreload import get_child_arguments

from durable_django.conf import settings
from durable_django.core.registry import default_registry
from durable_django.scheduled import definitions
from durable_django.scheduled.options import ENTITY_NAME
from durable_django.worker import (
    ConcurrencyOptions,
    DurableTaskWorker,
    VersionFailureStrategy,
    VersioningOptions,
    VersionMatchStrategy,
)
from durable_django.worker.narration import narrate
from durable_django.worker.processes import Supervisor, serve, settle, stop_requests

logger = logging.getLogger("durable_django.worker")

_MATCH = {strategy.name.lower().replace("_", "-"): strategy for strategy in VersionMatchStrategy}
_FAILURE = {strategy.name.lower(): strategy for strategy in VersionFailureStrategy}
_MOST_NAMES = 12
_MOST_THREADS = 1000


class Command(BaseCommand):
    """Runs workers on what the project's ``workflows`` modules register."""

    help = (
        "Run durable orchestrations and activities until SIGTERM, SIGINT or SIGHUP: then nothing new is "
        "begun, running activities may finish within SHUTDOWN_GRACE_SECONDS, and the rest goes back to other "
        "workers. A second SIGTERM or SIGINT ends the command at once."
    )
    requires_system_checks = []  # handle() runs them, those of the database included

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes (1)")
        parser.add_argument(
            "--concurrency",
            type=int,
            metavar="N",
            help=f"threads for activities, at most {_MOST_THREADS} (default: ACTIVITY_THREADS)",
        )
        parser.add_argument("--queues", metavar="A,B", help="the queues to serve (default: all)")
        parser.add_argument("--name", default="", help="a name to show with the worker and in histories")
        parser.add_argument(
            "--burst", action="store_true", help="exit when nothing is ready to run and nothing is running"
        )
        parser.add_argument(
            "--poll-interval",
            type=float,
            metavar="SECONDS",
            help="look for work at least this often (default: POLL_INTERVAL)",
        )
        parser.add_argument(
            "--no-listen", action="store_true", help="poll only, without PostgreSQL's LISTEN and NOTIFY"
        )
        parser.add_argument("--using", metavar="ALIAS", help="the database (default: DATABASE_ALIAS)")
        parser.add_argument(
            "--all-names",
            action="store_true",
            help="take work of any name and fail what is not registered here, instead of leaving it",
        )
        parser.add_argument(
            "--worker-version", metavar="V", help="this worker's version, for --match-versions"
        )
        parser.add_argument(
            "--match-versions",
            choices=_MATCH,
            default="none",
            help="the versions to take (none: all)",
        )
        parser.add_argument(
            "--other-versions",
            choices=_FAILURE,
            default="reject",
            help="what becomes of other versions: left to other workers (default), or failed",
        )
        parser.add_argument("--supervisor", type=int, help=SUPPRESS)

    def run_from_argv(self, argv: list[str]) -> None:
        """Note that the command line is this command's own, so that it can be run again."""
        self._has_command_line = True
        super().run_from_argv(argv)

    _has_command_line = False

    def handle(self, *_: Any, **options: Any) -> None:
        """Check everything, then work."""
        self._set_up_logging(options["verbosity"])
        using = self._check(options)
        code = self._supervise(options) if options["processes"] > 1 else self._work(using, options)
        if code:
            sys.exit(code)

    # ---------------------------------------------------------------- checks

    def _check(self, options: dict[str, Any]) -> str:
        """Refuse what cannot work, and return the database's alias."""
        _check_options(options)
        if options["processes"] > 1 and not self._has_command_line:
            raise CommandError(
                "--processes starts this command line again, and there is none: use 1 with call_command()."
            )
        self.check(databases=[])  # Whether there is one at all is asked below.
        using: str = options["using"] or settings.DATABASE_ALIAS
        if using not in set(connections):
            known = ", ".join(sorted(connections))
            raise CommandError(f"--using: DATABASES has no alias {using!r}; it has {known}.")
        try:
            self.check(tags=[Tags.database], databases=[using])
            missing = _missing_migrations(using)
        except DatabaseError as error:
            raise CommandError(f"Database {using!r} cannot be used: {error}") from error
        if missing:
            database = "" if using == "default" else f" --database {using}"
            raise CommandError(
                f"Database {using!r} lacks {', '.join(missing)}: run `manage.py migrate{database}` first."
            )
        return using

    def _set_up_logging(self, verbosity: int) -> None:
        package = logging.getLogger("durable_django")
        if not package.hasHandlers():  # The project says nothing about logging.
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))
            package.addHandler(handler)
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO if verbosity else logging.WARNING)
        if verbosity:
            narrate(everything=verbosity > 1)

    # ---------------------------------------------------------------- work

    def _supervise(self, options: dict[str, Any]) -> int:
        again = ["--processes", "1", "--supervisor", str(os.getpid())]
        command = [str(argument) for argument in get_child_arguments()] + again
        # What the checks have opened; the supervisor needs no database.
        connections.close_all()
        logger.info("Supervisor of %s processes started (pid %s)", options["processes"], os.getpid())
        with stop_requests(exit_on_second=False) as requests:
            code = Supervisor(command, options["processes"], until_done=options["burst"]).run(requests)
        logger.info("Supervisor stopped (pid %s)", os.getpid())
        return code

    def _work(self, using: str, options: dict[str, Any]) -> int:
        worker = _make_worker(using, options)
        # A supervised process is killed by its supervisor instead: service managers signal both of them.
        with stop_requests(exit_on_second=options["supervisor"] is None) as requests:
            started_at = time.monotonic()
            if self._has_command_line:  # Else the process is somebody's who has other things to do.
                settle()
            try:
                worker.start()
            except RuntimeError as error:  # This is how Python says that the system gives it no thread.
                raise CommandError(
                    f"The worker cannot be started: {error}. Try a lower --concurrency."
                ) from error
            identity = worker.identity
            logger.info("Worker %s started: %s", identity, _describe(using, options))
            if not (_own_orchestrators() or default_registry.activities or _own_entities()):
                logger.warning(
                    "Nothing is registered: is there an installed app with a module %s?",
                    settings.AUTODISCOVER_MODULE,
                )
            try:
                reason = serve(worker, requests, until_idle=options["burst"], parent=options["supervisor"])
                logger.info("Worker %s stops: %s", identity, reason)
            finally:
                worker.stop()
                logger.info("Worker %s stopped after %.1f s", identity, time.monotonic() - started_at)
        return 0


def _check_options(options: dict[str, Any]) -> None:
    for name in ("processes", "concurrency"):
        count = options[name]
        if count is not None and count < 1:
            raise CommandError(f"--{name} must be at least 1, not {count}.")
    if (options["concurrency"] or 0) > _MOST_THREADS:
        raise CommandError(f"--concurrency must be at most {_MOST_THREADS}, not {options['concurrency']}.")
    interval = options["poll_interval"]
    if interval is not None and not (math.isfinite(interval) and interval > 0):
        raise CommandError(f"--poll-interval must be a positive number of seconds, not {interval}.")
    queues = options["queues"]
    if queues is not None and not all(queue.strip() for queue in queues.split(",")):
        raise CommandError(f"--queues must be names between commas, like default,mail, not {queues!r}.")
    if _MATCH[options["match_versions"]] is not VersionMatchStrategy.NONE and not options["worker_version"]:
        raise CommandError("--match-versions needs this worker's own version: give --worker-version too.")


def _missing_migrations(using: str) -> list[str]:
    executor = MigrationExecutor(connections[using])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes("durable_django"))
    return [str(migration) for migration, _ in plan if migration.app_label == "durable_django"]


def _make_worker(using: str, options: dict[str, Any]) -> DurableTaskWorker:
    worker = DurableTaskWorker(
        registry=default_registry,
        concurrency_options=ConcurrencyOptions(maximum_thread_pool_workers=options["concurrency"]),
        using=using,
        queues=_queues(options),
        name=options["name"],
        poll_interval=options["poll_interval"],
        listen=False if options["no_listen"] else None,
    )
    try:
        worker.configure_scheduled_tasks()
    except ValueError as error:
        logger.warning("durable_django.scheduled is out of use: %s", error)
    if not options["all_names"]:
        worker.use_work_item_filters()
    if options["worker_version"]:
        worker.use_versioning(
            VersioningOptions(
                version=options["worker_version"],
                match_strategy=_MATCH[options["match_versions"]],
                failure_strategy=_FAILURE[options["other_versions"]],
            )
        )
    return worker


def _own_orchestrators() -> set[str]:
    """Return the project's orchestrators: without those that schedules are made of."""
    return default_registry.orchestrators.keys() - {fn.__name__ for fn in definitions.ORCHESTRATORS}


def _own_entities() -> set[str]:
    return default_registry.entities.keys() - {ENTITY_NAME}


def _queues(options: dict[str, Any]) -> list[str] | None:
    queues: str | None = options["queues"]
    return None if queues is None else [queue.strip() for queue in queues.split(",")]


def _describe(using: str, options: dict[str, Any]) -> str:
    queues = _queues(options)
    parts = {
        "name": options["name"],
        "pid": f"{os.getpid()} on {socket.gethostname()}",
        "database": f"{using} ({connections[using].vendor})",
        "queues": "all" if queues is None else ", ".join(queues),
        "version": options["worker_version"],
        "orchestrators": _names(_own_orchestrators()),
        "activities": _names(default_registry.activities),
        "other names": "failed" if options["all_names"] else "left to other workers",
    }
    return "; ".join(f"{key} {value}" for key, value in parts.items() if value)


def _names(names: Iterable[str]) -> str:
    known = sorted(names)
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return (", ".join(known[:_MOST_NAMES]) or "none") + more
