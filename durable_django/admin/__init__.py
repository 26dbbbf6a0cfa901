"""The admin: where people see what runs, what waits for whom and what failed, and act on it."""

from __future__ import annotations

from durable_django.admin.entities import EntityAdmin
from durable_django.admin.instances import InstanceAdmin
from durable_django.admin.subjects import DurableInstancesInline
from durable_django.admin.workers import WorkerAdmin

__all__ = ["DurableInstancesInline", "EntityAdmin", "InstanceAdmin", "WorkerAdmin"]
