"""What is in the tables when the fuzzer comes."""

from __future__ import annotations

from durable_django.client import DurableTaskClient
from durable_django.entities import EntityInstanceId
from durable_django.models import InstanceStatus
from tests import factories


def make_rows() -> None:
    """Make an instance in each status, a family and an entity, as the schema's examples name them."""
    for status in InstanceStatus:
        factories.make_instance(status.name.lower(), status, name="approve_order")
    parent = factories.make_instance("order-42", waiting_for=["approval"], tags={"customer": "7"})
    factories.make_child(parent, "order-42/child", 1)
    DurableTaskClient().signal_entity(EntityInstanceId("account", "7"), "deposit", 12)
