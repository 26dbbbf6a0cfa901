from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connections

from durable_django.store import postgres, wakeup


@pytest.mark.database("postgresql")
def test_work_is_looked_for_once_the_listener_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    woken = threading.Event()

    def wake() -> None:
        seen.append("woken")
        woken.set()

    def listen(*_: object) -> Iterator[str | None]:
        seen.append("listening")
        while True:
            yield None

    monkeypatch.setattr(postgres, "listen", listen)
    hub = wakeup.Hub(DEFAULT_DB_ALIAS)
    with hub.worker(wake, listen=True):
        assert woken.wait(10)
    hub.close()
    assert seen[:2] == ["listening", "woken"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.database("postgresql")
@pytest.mark.parametrize(("given", "idle"), [({}, "30"), ({"keepalives_idle": 7}, "7")])
def test_the_listener_asks_whether_the_server_is_there(
    given: dict[str, Any], idle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    create = connections.create_connection

    def spy(alias: str) -> Any:
        made.append(create(alias))
        return made[-1]

    monkeypatch.setattr(connections, "create_connection", spy)
    monkeypatch.setitem(connections[DEFAULT_DB_ALIAS].settings_dict, "OPTIONS", given)
    with closing(postgres.listen(DEFAULT_DB_ALIAS, "channel", 0.1)) as payloads:
        assert next(payloads) is None
        parameters = made[0].connection.info.get_parameters()
    assert (parameters["keepalives_idle"], parameters["keepalives_count"]) == (idle, "3")
    assert connections[DEFAULT_DB_ALIAS].settings_dict["OPTIONS"] == given
