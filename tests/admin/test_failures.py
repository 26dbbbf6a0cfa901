"""The failures behind the one that ended an instance."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from durable_django.core import events
from durable_django.core.errors import FailureDetails
from durable_django.models import InstanceStatus
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db


def failed(message: str) -> events.TaskFailedEvent:
    return events.TaskFailedEvent(
        -1, NOW, 1, FailureDetails(message, "builtins.OSError", f"{message}, line 7")
    )


@pytest.mark.parametrize(
    ("failed_by", "shown"), [([2], ["second"]), ([1, 2], ["first", "second"]), (None, [])]
)
def test_they_are_shown_with_their_stacks(
    root: Client, failed_by: list[int] | None, shown: list[str]
) -> None:
    instance = factories.make_instance("i", InstanceStatus.FAILED)
    factories.add_history(instance, failed("first"), failed("second"))
    factories.fail(instance, failed_by)
    url = reverse("admin:durable_django_instance_change", args=[instance.pk])
    response = root.get(url)
    assert [cause["message"] for cause in response.context["causes"]] == shown
    page = response.content.decode()
    for message in ("first", "second"):
        assert (f"<pre>{message}</pre>" in page) == (message in shown)
        assert (f'<pre tabindex="0">{message}, line 7</pre>' in page) == (message in shown)
