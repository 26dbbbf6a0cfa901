"""The network of the test run, and the server on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from tests.network import server
from tests.network.network import Network, NoNetwork

HOSTS = ("steady", "doomed", "remote")


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Three hosts on a network of this run alone."""
    try:
        made = Network(HOSTS)
    except NoNetwork as error:
        pytest.fail(
            f"Network namespaces cannot be made: {error}\n"
            "These tests need root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2's `ip`. Without, leave out "
            "this environment; nothing else needs it.",
            pytrace=False,
        )
    with made:
        yield made


@pytest.fixture(scope="session")
def django_db_modify_db_settings(network: Network, django_db_blocker: DjangoDbBlocker) -> None:
    """Have the server listen on the network before the test database is made."""
    vendor = connections["default"].vendor
    if vendor != "postgresql":
        pytest.fail(f"These tests need TEST_DATABASE=postgres, not {vendor}.", pytrace=False)
    with django_db_blocker.unblock():
        server.expose(network.server_address, network.subnet)
