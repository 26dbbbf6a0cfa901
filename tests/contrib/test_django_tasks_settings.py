"""What ``TASKS`` may say, what checks say to it, and what each process registers because of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from durable_django import RetryPolicy
from durable_django.apps import _register_tasks
from durable_django.contrib.django_tasks import DurableBackend, options
from durable_django.contrib.django_tasks.framework import InvalidTask, task_backends
from durable_django.core import registry as registries
from durable_django.core.registry import Registry
from tests.contrib import tasks
from tests.contrib.conftest import PATH

if TYPE_CHECKING:
    from pytest_django import Settings

ROOT = Path(__file__).parents[2]
NAMES = {"durable_django.task", "durable_django.async_task"}
RETRY = {"first_retry_interval": 10, "max_number_of_attempts": 3}


class OwnBackend(DurableBackend):
    """A backend of a project's own."""


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An app-wide registry of this test's own."""
    registry = Registry()
    monkeypatch.setattr(registries, "default_registry", registry)
    monkeypatch.setattr("durable_django.apps.default_registry", registry)
    return registry


def messages(settings: Settings, **entry: Any) -> list[tuple[str, str]]:
    """Return the ids and texts of what is wrong with a backend's settings."""
    settings.TASKS = {"default": {"BACKEND": PATH, **entry}}
    found = list(task_backends["default"].check())
    return [(str(message.id).removeprefix("durable_django."), message.msg) for message in found]


class TestChecks:
    @pytest.mark.parametrize(
        "entry",
        [
            {},
            {"QUEUES": [], "OPTIONS": {}},
            {"QUEUES": ["mail", "default"], "OPTIONS": {"retry": RETRY}},
            {"OPTIONS": {"retry": {**RETRY, "max_retry_interval": timedelta(hours=1)}}},
            {"OPTIONS": {"retry": RetryPolicy(first_retry_interval=timedelta(1), max_number_of_attempts=2)}},
            {"OPTIONS": {"retry": None}},
        ],
    )
    def test_what_is_right(self, settings: Settings, entry: dict[str, Any]) -> None:
        assert messages(settings, **entry) == []

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ([], "must be a dictionary"),
            ({"retries": RETRY}, "key 'retries' is unknown. Did you mean 'retry'?"),
            ({"retry": 3}, "retry must be a RetryPolicy or a dictionary, not 3"),
            ({"retry": {"max_attempts": 3}}, "retry: key 'max_attempts' is unknown"),
            (
                {"retry": {"max_number_of_attempts": 3}},
                "retry: first_retry_interval must be given",
            ),
            ({"retry": {**RETRY, "max_number_of_attempts": 0}}, "max_number_of_attempts must be >= 1"),
            ({"retry": {**RETRY, "first_retry_interval": "10s"}}, "first_retry_interval must be a timedelta"),
            ({"retry": {**RETRY, "first_retry_interval": -1}}, "first_retry_interval must be >= 0"),
            ({"retry": {**RETRY, "first_retry_interval": 1e300}}, "longer than any interval"),
            ({"retry": {**RETRY, "first_retry_interval": True}}, "first_retry_interval must be a timedelta"),
            ({"retry": {**RETRY, "backoff_coefficient": 0.5}}, "backoff_coefficient must be finite"),
            ({"retry": {**RETRY, "retry_timeout": timedelta(1)}}, "retry_timeout is not supported"),
        ],
    )
    def test_bad_options(self, settings: Settings, given: Any, problem: str) -> None:
        ((code, text),) = messages(settings, OPTIONS=given)
        assert code == "E032"
        assert text.startswith("TASKS['default']['OPTIONS'] ")
        assert problem in text
        with pytest.raises(ImproperlyConfigured) as refused:
            tasks.note.enqueue()
        assert problem in str(refused.value)

    @pytest.mark.parametrize(
        ("given", "problem"), [("mail", "must be a list of names"), (["mail", ""], "must not be empty")]
    )
    def test_bad_queues(self, settings: Settings, given: Any, problem: str) -> None:
        ((code, text),) = messages(settings, QUEUES=given)
        assert code == "E033"
        assert problem in text

    def test_the_app_is_not_installed(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        # Whether Django runs without the app is tested below, in a process.
        monkeypatch.setattr(apps, "is_installed", lambda name: name != "durable_django")
        ((code, text),) = messages(settings)
        assert code == "E031"
        assert "not installed" in text

    def test_policies_come_back_from_json(self) -> None:
        policy = RetryPolicy(
            first_retry_interval=timedelta(milliseconds=1500),
            max_number_of_attempts=4,
            backoff_coefficient=1.5,
            max_retry_interval=timedelta(days=1),
        )
        assert options.policy_of(options.describe(policy)) == policy


class TestRegistration:
    def test_wherever_it_is_configured(self, settings: Settings, own_registry: Registry) -> None:
        settings.TASKS = {"default": {"BACKEND": "no.such.backend"}, "other": {"BACKEND": PATH}}
        _register_tasks()
        assert own_registry.activities.keys() == NAMES
        assert own_registry.orchestrators.keys() == {"durable_django.task"}
        _register_tasks()
        assert own_registry.problems == ()

    def test_of_a_subclass(self, settings: Settings, own_registry: Registry) -> None:
        settings.TASKS = {"default": {"BACKEND": f"{OwnBackend.__module__}.OwnBackend"}}
        _register_tasks()
        assert own_registry.activities.keys() == NAMES

    @pytest.mark.parametrize(
        "configured",
        [
            None,
            [],
            {},
            {"default": None},
            {"default": {}},
            {"default": {"BACKEND": None}},
            {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}},
            {"default": {"BACKEND": "builtins.len"}},
            {"default": {"BACKEND": "builtins.dict"}},
        ],
    )
    def test_nowhere_else(self, settings: Settings, own_registry: Registry, configured: Any) -> None:
        settings.TASKS = configured
        _register_tasks()
        assert not own_registry.activities
        assert not own_registry.orchestrators

    def test_by_the_backend_itself(self, settings: Settings, own_registry: Registry) -> None:
        settings.TASKS = {"default": {"BACKEND": PATH}}
        assert not own_registry.activities
        _ = task_backends["default"].alias
        assert own_registry.activities.keys() == NAMES

    def test_for_a_registry_of_ones_own(self) -> None:
        registry = Registry()
        DurableBackend.add_to(registry)
        DurableBackend.add_to(registry)
        assert registry.activities.keys() == NAMES

    def test_a_name_that_is_taken(self) -> None:
        registry = Registry()
        registry.add_activity(print, name="durable_django.task")
        with pytest.raises(ValueError, match=r"'durable_django\.task' is taken"):
            DurableBackend.add_to(registry)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python() -> Run:
    """Run code in a process of its own, with Django set up for it."""

    def run(installed: list[str], code: str) -> subprocess.CompletedProcess[str]:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        preamble = (
            "import django; from django.conf import settings; settings.configure("
            f"INSTALLED_APPS={installed!r}, USE_TZ=True, DATABASES={{'default': {database!r}}}, "
            f"TASKS={{'default': {{'BACKEND': {PATH!r}}}}}); django.setup()\n"
        )
        command = [sys.executable, "-c", preamble + code]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_process_without_the_app_is_told(python: Run) -> None:
    code = (
        "from durable_django.contrib.django_tasks.framework import task_backends\n"
        "print(*[message.id for message in task_backends['default'].check()])"
    )
    done = python(["django.contrib.contenttypes"], code)
    assert (done.returncode, done.stdout.split()) == (0, ["durable_django.E031"]), done.stderr


def test_a_process_with_the_app_knows_tasks_before_any_is_defined(python: Run) -> None:
    code = "from durable_django.core.registry import default_registry as known\nprint(*known.activities)"
    done = python(["django.contrib.contenttypes", "durable_django"], code)
    assert (done.returncode, set(done.stdout.split())) == (0, NAMES), done.stderr


def test_queue_names_are_checked_at_every_definition(settings: Settings) -> None:
    settings.TASKS = {"default": {"BACKEND": f"{OwnBackend.__module__}.OwnBackend"}}
    with pytest.raises(InvalidTask):
        tasks.note.using(queue_name="mail")
