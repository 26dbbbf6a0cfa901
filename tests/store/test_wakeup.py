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


@pytest.fixture
def hub() -> wakeup.Hub:
    return wakeup.Hub(DEFAULT_DB_ALIAS)


@pytest.fixture
def heard(hub: wakeup.Hub) -> Iterator[list[str]]:
    """Give what a worker of each sort has been told."""
    told: list[str] = []
    with (
        hub.worker(lambda: told.append("turns: work"), lambda: told.append("turns: start"), listen=False),
        hub.worker(lambda: told.append("entities: work"), listen=False),
    ):
        yield told


class TestHub:
    def test_each_sort_of_work_wakes_who_does_it(self, hub: wakeup.Hub, heard: list[str]) -> None:
        hub.work()
        assert heard == ["turns: work", "entities: work"]
        heard.clear()
        hub.turns()
        assert heard == ["turns: work"]
        heard.clear()
        hub.start()
        assert heard == ["turns: start"]

    def test_who_has_found_the_work_is_not_told(self, hub: wakeup.Hub) -> None:
        calls: list[str] = []

        def mine() -> None:
            calls.append("mine")

        def other() -> None:
            calls.append("other")

        with hub.worker(mine, mine, listen=False), hub.worker(other, other, listen=False):
            hub.turns(mine)
            hub.work(mine)
        assert calls == ["other", "other"]

    def test_notifications_of_others_are_told_here(self, hub: wakeup.Hub, heard: list[str]) -> None:
        elsewhere = wakeup.Hub(DEFAULT_DB_ALIAS)
        with hub.waiter("order", listen=False) as ended:
            payloads = [elsewhere.sender, elsewhere.turns_payload, "changed:order"]
            hub._receive(postgres.SEPARATOR.join(payloads))
            assert ended.is_set()
        hub._receive(postgres.SEPARATOR.join([elsewhere.sender, elsewhere.work_payload]))
        hub._receive(elsewhere.start_payload)
        assert heard == ["turns: work", "turns: work", "entities: work", "turns: start"]

    def test_notifications_of_a_release_without_senders_are_told_here(
        self, hub: wakeup.Hub, heard: list[str]
    ) -> None:
        with hub.waiter("order", listen=False) as ended:
            hub._receive(postgres.SEPARATOR.join(["work:another", "changed:order"]))
            assert ended.is_set()
        assert heard == ["turns: work", "entities: work"]

    def test_ones_own_notifications_have_been_told_already(self, hub: wakeup.Hub, heard: list[str]) -> None:
        with hub.waiter("order", listen=False) as ended:
            hub._receive(postgres.SEPARATOR.join([hub.sender, hub.work_payload, "changed:order"]))
            hub._receive(hub.start_payload)
            hub._receive(None)
            assert not ended.is_set()
        assert heard == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.database("postgresql")
def test_each_notification_of_many_changes_says_who_has_sent_it() -> None:
    ids = [f"{number}-{'x' * 200}" for number in range(100)]
    with closing(postgres.listen(DEFAULT_DB_ALIAS, wakeup.CHANNEL, 10)) as heard:
        assert next(heard) is None, "it listens"
        wakeup.announce_changes(DEFAULT_DB_ALIAS, ids)
        told: list[str] = []
        while len(told) < len(ids):
            notification = next(heard)
            if notification is None:  # That was all, for the moment.
                continue
            sender, *payloads = notification.split(postgres.SEPARATOR)
            assert sender == wakeup.hub(DEFAULT_DB_ALIAS).sender
            told += payloads
    assert told == [f"changed:{instance_id}" for instance_id in ids]
