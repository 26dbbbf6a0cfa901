from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AbstractBaseUser, Permission, User
from rest_framework.test import APIClient

from durable_django.core.registry import Registry, default_registry
from durable_django.rest_framework.views import orchestrations
from tests.listeners import listener_is_gone_before_the_database

__all__ = ["listener_is_gone_before_the_database"]


@pytest.fixture
def as_user(db: None) -> Callable[..., APIClient]:
    """Log a user with these permissions in."""

    def log_in(*codenames: str, name: str = "staff") -> APIClient:
        user = User.objects.create_user(name)
        found = Permission.objects.filter(content_type__app_label="durable_django", codename__in=codenames)
        assert found.count() == len(codenames)
        user.user_permissions.set(found)
        return logged_in(user)

    return log_in


@pytest.fixture
def api(db: None) -> APIClient:
    """A client of somebody who may do everything."""
    return logged_in(User.objects.create_superuser("root"))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have orchestrators beside those of the demo project, for the time of a test."""

    def register(*functions: Callable[..., Any]) -> None:
        registry = Registry()
        for known in default_registry.orchestrators.values():
            registry.add_orchestrator(known.fn)
        for function in functions:
            registry.add_orchestrator(function)
        monkeypatch.setattr(orchestrations, "default_registry", registry)

    return register


def logged_in(user: AbstractBaseUser) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client
