from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from durable_django.conf import Settings, data_converter, settings
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, JsonDataConverter

CONVERTER = JsonDataConverter()


class Converter(JsonDataConverter):
    pass


def test_the_defaults() -> None:
    with override_settings(DURABLE_DJANGO={}):
        values = {key.name: getattr(settings, key.name) for key in fields(Settings)}

    assert values.pop("MAX_CONCURRENT_ACTIVITIES") % 100 == 0
    assert values == {
        "DATABASE_ALIAS": "default",
        "DATA_CONVERTER": None,
        "MAX_PAYLOAD_BYTES": 1_048_576,
        "DEFAULT_VERSION": None,
        "DEFAULT_QUEUE": "default",
        "MAXIMUM_TIMER_INTERVAL": timedelta(days=3),
        "POLL_INTERVAL": 1.0,
        "LISTEN": True,
        "PIPELINE": True,
        "LEASE_SECONDS": 60,
        "HEARTBEAT_SECONDS": 10,
        "SHUTDOWN_GRACE_SECONDS": 25,
        "MAX_TRIES": 5,
        "BATCH_INSTANCES": 800,
        "BATCH_EVENTS": 5000,
        "CACHE_EXECUTIONS": 10_000,
        "ACTIVITY_THREADS": 16,
        "QUEUE_LIMITS": {},
        "DISPATCHERS": {},
        "ENTITY_THREADS": 4,
        "AUTODISCOVER_MODULE": "workflows",
        "SLOW_TURN_SECONDS": 1.0,
        "SLOW_LOCAL_SECONDS": 0.1,
        "LOCAL_ACTIVITIES": 500,
        "LOCAL_SECONDS": 0.5,
        "LOCAL_LOCK_SECONDS": 1.0,
        "REST_PERMISSION": "durable_django.rest_framework.permissions.DurablePermission",
        "REST_SCOPE": "durable_django.rest_framework.scoping.Scope",
        "REST_MAX_BODY_BYTES": 2_097_152,
        "REST_PAGE_SIZE": 100,
        "REST_MAX_WAIT_SECONDS": 30,
    }


def test_every_key_says_what_it_is() -> None:
    assert all(key.metadata["doc"].endswith(".") for key in fields(Settings))


def test_values_follow_the_setting() -> None:
    with override_settings(DURABLE_DJANGO={"MAX_TRIES": 2, "MAX_PAYLOAD_BYTES": None}):
        assert settings.MAX_TRIES == 2
        assert settings.MAX_PAYLOAD_BYTES is None
        with override_settings(DURABLE_DJANGO={"MAX_TRIES": 3}):
            assert settings.MAX_TRIES == 3
        assert settings.MAX_TRIES == 2
    assert settings.MAX_TRIES == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"LEASE_SECOND": 5}, r"unknown key 'LEASE_SECOND'\. Did you mean 'LEASE_SECONDS'\?"),
        ({"lease_seconds": 5}, r"Did you mean 'LEASE_SECONDS'\?"),
        ({"WHATEVER": 5}, r"unknown key 'WHATEVER'\. The keys are ACTIVITY_THREADS, "),
        ({3: 5}, "unknown key 3"),
        ([("MAX_TRIES", 3)], "must be a dictionary"),
        (None, "must be a dictionary, not None"),
        ({"DATABASE_ALIAS": ""}, r"\['DATABASE_ALIAS'\] must be a non-empty string, not ''"),
        ({"DATA_CONVERTER": 3}, "non-empty string or None, not 3"),
        ({"MAX_PAYLOAD_BYTES": 0}, "positive integer or None, not 0"),
        ({"MAX_TRIES": "5"}, "positive integer, not '5'"),
        ({"MAX_TRIES": True}, "positive integer, not True"),
        ({"LISTEN": 1}, "True or False, not 1"),
        ({"POLL_INTERVAL": 0}, "positive number of seconds, not 0"),
        ({"POLL_INTERVAL": float("inf")}, "positive number of seconds, not inf"),
        ({"POLL_INTERVAL": float("nan")}, "positive number of seconds, not nan"),
        ({"LEASE_SECONDS": 10**400}, "positive number of seconds, not 1000"),
        ({"SHUTDOWN_GRACE_SECONDS": 1e30}, r"number of seconds, 0 or more, not 1e\+30"),
        ({"DEFAULT_QUEUE": ""}, r"\['DEFAULT_QUEUE'\] must be a non-empty string"),
        ({"DEFAULT_QUEUE": "q" * 256}, r"\['DEFAULT_QUEUE'\] must be .* at most 255 characters"),
        ({"DEFAULT_QUEUE": "a\nb"}, r"\['DEFAULT_QUEUE'\] must be .* without control characters"),
        ({"DEFAULT_QUEUE": None}, r"\['DEFAULT_QUEUE'\] must be"),
        ({"DEFAULT_VERSION": "v" * 256}, r"\['DEFAULT_VERSION'\] must be .* at most 255 characters"),
        ({"DEFAULT_VERSION": "1\0"}, r"\['DEFAULT_VERSION'\] must be .* without control characters"),
        ({"REST_PAGE_SIZE": 1001}, "an integer from 1 to 1,000, not 1001"),
        ({"REST_PAGE_SIZE": 0}, "an integer from 1 to 1,000, not 0"),
        ({"LEASE_SECONDS": timedelta(seconds=60)}, "positive number of seconds"),
        ({"SHUTDOWN_GRACE_SECONDS": -1}, "number of seconds, 0 or more, not -1"),
        ({"SHUTDOWN_GRACE_SECONDS": False}, "number of seconds, 0 or more, not False"),
        ({"MAXIMUM_TIMER_INTERVAL": 3}, "positive datetime.timedelta, not 3"),
        ({"AUTODISCOVER_MODULE": "a.b"}, "a module's name"),
        ({"LEASE_SECONDS": 10}, r"\['HEARTBEAT_SECONDS'\] \(10\) must be below LEASE_SECONDS \(10\)"),
    ],
)
def test_a_bad_setting_is_refused_by_name(given: Any, message: str) -> None:
    with override_settings(DURABLE_DJANGO=given), pytest.raises(ImproperlyConfigured, match=message):
        _ = settings.DATABASE_ALIAS


def test_everything_wrong_is_said_at_once() -> None:
    with (
        override_settings(DURABLE_DJANGO={"MAX_TRIES": 0, "LISTEN": "no"}),
        pytest.raises(ImproperlyConfigured, match=r"(?s)MAX_TRIES.*LISTEN"),
    ):
        _ = settings.DATABASE_ALIAS


def test_what_is_just_within_its_bounds_is_fine() -> None:
    given = {"DEFAULT_QUEUE": "q" * 255, "DEFAULT_VERSION": "v" * 255, "REST_PAGE_SIZE": 1000}
    with override_settings(DURABLE_DJANGO=given):
        assert {name: getattr(settings, name) for name in given} == given


def test_no_grace_is_fine() -> None:
    with override_settings(DURABLE_DJANGO={"SHUTDOWN_GRACE_SECONDS": 0}):
        assert settings.SHUTDOWN_GRACE_SECONDS == 0


def test_settings_can_be_made_by_hand() -> None:
    assert Settings(MAX_TRIES=3).MAX_TRIES == 3
    with pytest.raises(ImproperlyConfigured, match="MAX_TRIES"):
        Settings(MAX_TRIES=0)


def test_a_key_that_does_not_exist_cannot_be_read() -> None:
    with pytest.raises(AttributeError):
        _ = settings.MAX_RETRIES  # type: ignore[attr-defined]


class TestDataConverter:
    def test_json_by_default(self) -> None:
        assert data_converter() is DEFAULT_DATA_CONVERTER

    def test_by_dotted_path(self) -> None:
        with override_settings(DURABLE_DJANGO={"DATA_CONVERTER": f"{__name__}.Converter"}):
            assert isinstance(data_converter(), Converter)
            assert data_converter() is data_converter()
        with override_settings(DURABLE_DJANGO={"DATA_CONVERTER": f"{__name__}.CONVERTER"}):
            assert data_converter() is CONVERTER

    @pytest.mark.parametrize("path", ["nowhere.Converter", "nodots", "datetime.date", "datetime.UTC"])
    def test_what_is_none_is_refused(self, path: str) -> None:
        with (
            override_settings(DURABLE_DJANGO={"DATA_CONVERTER": path}),
            pytest.raises(ImproperlyConfigured, match=f"DATA_CONVERTER.*{path}"),
        ):
            data_converter()
