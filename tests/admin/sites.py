"""URLs with admin sites beside Django's own: one with all models, and two with some of them."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Group
from django.urls import path

from durable_django.admin import DurableInstancesInline, EntityAdmin, InstanceAdmin, WorkerAdmin
from durable_django.models import Entity, Instance, Worker


class GroupAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    """Groups with their workflows."""

    inlines = (DurableInstancesInline,)


operations = AdminSite(name="operations")
operations.register(Instance, InstanceAdmin)
operations.register(Entity, EntityAdmin)
operations.register(Worker, WorkerAdmin)
operations.register(Group, GroupAdmin)

some = AdminSite(name="some")
some.register(Entity, EntityAdmin)
some.register(Group, GroupAdmin)

without_workers = AdminSite(name="without-workers")
without_workers.register(Instance, InstanceAdmin)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("operations/", operations.urls),
    path("some/", some.urls),
    path("without-workers/", without_workers.urls),
]
