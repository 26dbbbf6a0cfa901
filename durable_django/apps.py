"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _

from durable_django.conf import Settings, settings


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
