"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules
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
        self._register_activities_of_engines()

    @staticmethod
    def _register_activities_of_engines() -> None:
        """Register what comes with the dispatchers, if there are any."""
        try:
            if not settings.DISPATCHERS:
                return
            from durable_django.worker.dispatch import dispatchers

            found = dispatchers().values()
        except ImproperlyConfigured:
            return  # As above.
        for dispatcher in found:
            for registration in dispatcher.activities():
                default_registry.declare(registration)
