from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import DEFAULT_DB_ALIAS

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
