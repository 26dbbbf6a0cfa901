"""The dispatcher: hands the activities of a queue to a cluster of django-q2.

django-q2 itself is imported late: it can be only where it is an installed app, and the check says so if not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.db import transaction

from durable_django.conf import SETTING
from durable_django.contrib.django_q.functions import activity_of, find
from durable_django.core.registry import ActivityRegistration
from durable_django.worker.dispatch import ActivityDispatcher, Handed

EXECUTE = "durable_django.contrib.django_q.execute_activity"

_NAME_LENGTH = 100
_DEFAULT_RETRY = 60  # django-q2's own


class DjangoQDispatcher(ActivityDispatcher):
    """Hands the activities of a queue to a cluster of django-q2, as one task each.

    Its ``OPTIONS``, each with its default:

    - ``cluster`` (None, the default cluster): the name of the cluster, as for ``async_task``.
    - ``timeout`` (None, the cluster's own): after how many whole seconds django-q2 ends an activity. That
      is a failure of the activity, ``django_q.exceptions.TimeoutException``.
    - ``functions`` (none): dotted paths of functions that may be called as activities, by that path.
    - ``lease_seconds`` (300) and ``batch`` (100), as for every `ActivityDispatcher`.
    """

    def __init__(self, queue: str, options: Mapping[str, Any]) -> None:
        super().__init__(queue, options)
        self.cluster: Any = self.options.pop("cluster", None)
        self.timeout: Any = self.options.pop("timeout", None)
        self.functions: Any = self.options.pop("functions", ())

    # ---------------------------------------------------------------- checks

    def check(self) -> list[CheckMessage]:
        """Return what is wrong with the options, and with django-q2's own settings as far as they matter."""
        return [*super().check(), *(Error(text, id="durable_django.E006") for text in self._problems())]

    def _problems(self) -> Iterator[str]:
        where = f"{SETTING}['DISPATCHERS'][{self.queue!r}]['OPTIONS']"
        if not apps.is_installed("django_q"):
            yield f"{SETTING}['DISPATCHERS'][{self.queue!r}] needs 'django_q' in INSTALLED_APPS."
        for name in sorted(map(str, self.options)):
            yield f"{where} has the unknown option {name!r}: there are cluster, timeout, functions, " + (
                "lease_seconds and batch."
            )
        if not (self.cluster is None or (isinstance(self.cluster, str) and self.cluster)):
            yield f"{where}['cluster'] must be a cluster's name, not {self.cluster!r}."
        yield from self._problems_with_timeouts(where)
        if isinstance(self.functions, str) or not isinstance(self.functions, Sequence):
            yield f"{where}['functions'] must be a list of dotted paths, not {self.functions!r}."
            return
        for path in self.functions:
            try:
                find(path)
            except (ImportError, TypeError, ValueError) as error:
                yield f"{where}['functions']: {path!r} cannot be called: {error}"

    def _problems_with_timeouts(self, where: str) -> Iterator[str]:
        given = self.timeout
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given <= 0):
            yield f"{where}['timeout'] must be a whole number of seconds above 0, or None, not {given!r}."
            return
        cluster = self._cluster_settings()
        retry, timeout = cluster.get("retry", _DEFAULT_RETRY), given or cluster.get("timeout")
        if timeout is not None and timeout >= 0 and retry <= timeout:
            whose = f"{where}['timeout']" if given else "its 'timeout'"
            yield (
                f"Q_CLUSTER's 'retry' ({retry}) must be larger than {whose} ({timeout}): django-q2 would "
                "deliver an activity again while it runs."
            )

    def _cluster_settings(self) -> Mapping[str, Any]:
        """Return what Q_CLUSTER says of the cluster."""
        given: Mapping[str, Any] = getattr(django_settings, "Q_CLUSTER", {})
        others = given.get("ALT_CLUSTERS") or {}
        return {**given, **others.get(self.cluster, {})}

    # ---------------------------------------------------------------- work

    def activities(self) -> Iterator[ActivityRegistration]:
        """Yield the functions of the option ``functions``; the check names those that cannot be called."""
        for path in self.functions:
            try:
                yield activity_of(path, self.queue)
            except (ImportError, TypeError, ValueError):
                continue

    def dispatch(self, activities: Sequence[Handed]) -> None:
        """Hand activities over. With the ORM broker that is one transaction, all or none of them.

        Raises:
            Exception: What the broker raises when it is away.
        """
        from django_q.tasks import async_task

        with self._together():
            for handed in activities:
                async_task(EXECUTE, handed.using, handed.token, q_options=self._q_options(handed))

    def _q_options(self, handed: Handed) -> dict[str, Any]:
        options = {
            "broker": self._broker,
            "task_name": f"{handed.name}@{handed.instance_id}"[:_NAME_LENGTH],
            "group": f"durable:{handed.queue}"[:_NAME_LENGTH],
            "cluster": self.cluster,
            "timeout": self.timeout,
            # The result stands in the orchestration's history. What fails for django-q2 is kept all the same.
            "save": False,
            "cached": False,
            # What fails is not to be delivered again: its lease runs out, and a new one is handed over.
            "ack_failure": True,
        }
        return {name: value for name, value in options.items() if value is not None}

    @cached_property
    def _broker(self) -> Any:
        """The broker, with connections that stay: django-q2 would make one for each task."""
        from django_q.brokers import get_broker

        return get_broker(self.cluster)

    @staticmethod
    def _together() -> AbstractContextManager[None]:
        """Return what makes a batch one transaction, where the broker is a database."""
        from django_q.conf import Conf

        # A task of django-q2's ``sync`` runs here and now, and an activity must not run in a transaction.
        return transaction.atomic(using=Conf.ORM) if Conf.ORM and not Conf.SYNC else nullcontext()
