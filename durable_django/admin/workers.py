"""Workers: who is there, and who has been silent."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from durable_django.admin import words
from durable_django.admin.base import ReadOnlyAdmin
from durable_django.conf import settings
from durable_django.models import Worker
from durable_django.store import clock


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """The worker processes."""

    list_display = ("name_or_identity", "host", "pid", "queues", "started_at", "heartbeat", "is_alive")
    ordering = ("-started_at",)

    @admin.display(description=_("worker"))
    def name_or_identity(self, worker: Worker) -> str:
        """Return what to call it."""
        return str(worker)

    @admin.display(description=_("last heartbeat"))
    def heartbeat(self, worker: Worker) -> str:
        """Return how long ago it has shown that it is alive."""
        return words.duration(clock.now() - clock.from_orm(worker.last_heartbeat_at))

    @admin.display(description=_("alive"), boolean=True)
    def is_alive(self, worker: Worker) -> bool:
        """Tell whether that was lately."""
        silence = clock.now() - clock.from_orm(worker.last_heartbeat_at)
        return silence <= timedelta(seconds=settings.LEASE_SECONDS)
