"""The Django app."""

from __future__ import annotations

import sys

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules, import_string
from django.utils.translation import gettext_lazy as _

from durable_django.conf import Settings, settings
from durable_django.core.registry import default_registry


class DurableDjangoConfig(AppConfig):
    """Registers the system checks and finds the project's workflows. Starts nothing."""

    name = "durable_django"
    verbose_name = _("Durable workflows")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import the checks, and the ``workflows`` module of every installed app that has one."""
        from durable_django import checks  # noqa: F401  (registers them)

        try:
            module = settings.AUTODISCOVER_MODULE
        except ImproperlyConfigured:
            module = Settings().AUTODISCOVER_MODULE  # The checks, which run later, say what is wrong.
        autodiscover_modules(module)
        _register_activities_of_engines()
        _register_tasks()


def _register_activities_of_engines() -> None:
    """Register what comes with the dispatchers, if there are any."""
    try:
        if not settings.DISPATCHERS:
            return
        from durable_django.worker.dispatch import dispatchers

        found = dispatchers().values()
    except ImproperlyConfigured:
        return  # The checks say what is wrong.
    for dispatcher in found:
        for registration in dispatcher.activities():
            default_registry.declare(registration)


def _register_tasks() -> None:
    """Let workers run tasks of Django's Tasks framework, if one of its backends is ours.

    The framework itself makes no backend before a task is defined, which no worker need ever do.
    """
    configured = getattr(django_settings, "TASKS", None)
    for options in configured.values() if isinstance(configured, dict) else ():
        path = options.get("BACKEND") if isinstance(options, dict) else None
        if not isinstance(path, str) or path.startswith(("django.", "django_tasks.")):
            continue
        try:
            backend = import_string(path)
        except Exception:  # noqa: BLE001, S112 - whoever uses that backend is told by Django
            continue
        ours = sys.modules.get("durable_django.contrib.django_tasks.backend")  # not there: it is none of ours
        if ours is not None and isinstance(backend, type) and issubclass(backend, ours.DurableBackend):
            ours.DurableBackend.add_to(default_registry)
