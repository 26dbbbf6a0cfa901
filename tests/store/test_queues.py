"""Limited queues: what a claim takes, and what it leaves for later."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction

from durable_django.core.limits import Limits
from durable_django.models import ActivityTask, Instance, QueueLimit
from durable_django.store import activities, clock, queues
from durable_django.store.queues import Claim
from durable_django.store.scope import Served
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.django_db

LEASE = timedelta(seconds=60)
MAIL = Served().on("mail")


@pytest.fixture(autouse=True)
def _stopped_clock() -> Iterator[None]:
    with clock.frozen(NOW + timedelta(seconds=1)):
        yield


@pytest.fixture
def instance() -> Instance:
    return factories.make_instance()


def fill(instance: Instance, count: int, *keys: str | None, **fields: Any) -> None:
    """Insert activities of the queue, with these keys in turn."""
    for number in range(count):
        key = keys[number % len(keys)] if keys else None
        factories.make_activity(instance, number, **{"queue": "mail", "limit_key": key} | fields)


def claim(most: int = 100, served: Served = MAIL, **limits: Any) -> Claim:
    parsed = Limits.parse(limits)
    return queues.claim("default", served, "mail", parsed, worker="w", lease=LEASE, most=most)


def keys_of(found: Claim) -> Counter[str | None]:
    return Counter(leased.limit_key for _begins, leased in found.leased)


def end(found: Claim, count: int) -> None:
    with connection.cursor() as cursor, transaction.atomic():
        activities.record(cursor, [leased.token for _begins, leased in found.leased[:count]])()


class TestWithoutLimits:
    def test_as_many_are_claimed_as_asked_for(self, instance: Instance) -> None:
        fill(instance, 5)
        fill(instance, 1, queue="other")
        first, second = claim(3), claim(3)
        assert (len(first.leased), first.is_full) == (3, True)
        assert (len(second.leased), second.is_full) == (2, False)
        assert not QueueLimit.objects.exists()


class TestConcurrency:
    def test_no_more_are_leased_than_may_run(self, instance: Instance) -> None:
        fill(instance, 10)
        first = claim(concurrency=3)
        assert len(first.leased) == 3
        assert claim(concurrency=3).leased == []
        end(first, 2)
        assert len(claim(concurrency=3).leased) == 2

    def test_what_is_asked_for_is_the_other_bound(self, instance: Instance) -> None:
        fill(instance, 10)
        found = claim(2, concurrency=3)
        assert (len(found.leased), found.is_full) == (2, True)
        assert len(claim(2, concurrency=3).leased) == 1

    def test_a_lease_that_has_run_out_frees_its_place(self, instance: Instance) -> None:
        fill(instance, 2)
        claim(concurrency=1)
        with clock.frozen(NOW + LEASE * 2):
            (first,) = claim(concurrency=1).leased
        assert ActivityTask.objects.get(lease_token=first[1].token).deliveries in (1, 2)

    def test_other_queues_and_names_do_not_count(self, instance: Instance) -> None:
        fill(instance, 3, name="known")
        fill(instance, 3, name="unknown")
        fill(instance, 5, queue="other", lease_token=1, visible_at=clock.aware(NOW + LEASE))
        found = claim(served=MAIL.only(frozenset({"known"})), concurrency=5)
        assert [leased.name for _begins, leased in found.leased] == ["known"] * 3

    def test_the_highest_priority_goes_first(self, instance: Instance) -> None:
        fill(instance, 3)
        factories.make_activity(instance, 99, queue="mail", priority=5)
        ((_begins, leased),) = claim(concurrency=1).leased
        assert leased.task_id == 99

    def test_each_key_has_its_own(self, instance: Instance) -> None:
        fill(instance, 9, "a", "b", None)
        first = claim(key_concurrency=2)
        assert keys_of(first) == {"a": 2, "b": 2, None: 3}
        assert claim(key_concurrency=2).leased == []

    def test_a_key_with_a_long_backlog_is_in_nobodys_way(self, instance: Instance) -> None:
        fill(instance, 150, "a")
        factories.make_activity(instance, 999, queue="mail", limit_key="b")
        assert keys_of(claim(key_concurrency=1)) == {"a": 1, "b": 1}
        assert claim(key_concurrency=1).leased == []

    def test_both_bounds_hold(self, instance: Instance) -> None:
        fill(instance, 12, "a", "b", "c")
        found = claim(concurrency=4, key_concurrency=2)
        assert len(found.leased) == 4
        assert max(keys_of(found).values()) == 2


class TestRates:
    def test_each_is_told_when_it_may_begin(self, instance: Instance) -> None:
        fill(instance, 10)
        found = claim(rate="20/s")
        begins = [(begins - clock.now()).total_seconds() for begins, _leased in found.leased]
        assert begins == pytest.approx([0, 0.0525])
        assert found.next_at is not None
        assert (found.next_at - clock.now()).total_seconds() == pytest.approx(0.105)

    def test_over_any_second_there_are_no_more_than_allowed(self, instance: Instance) -> None:
        fill(instance, 200)
        begins = []
        for step in range(200):
            with clock.frozen(NOW + timedelta(seconds=1) + step * timedelta(milliseconds=37)):
                begins += [at for at, _leased in claim(rate="20/s").leased]
        assert begins == sorted(begins)
        for at in begins:
            within = [other for other in begins if at <= other < at + timedelta(seconds=1)]
            assert len(within) <= 20
        assert len(begins) / 7.4 > 19

    def test_what_was_not_used_is_not_made_up_for(self, instance: Instance) -> None:
        fill(instance, 10)
        claim(1, rate="20/s")
        with clock.frozen(NOW + timedelta(minutes=5)):
            assert len(claim(rate="20/s").leased) == 2

    def test_a_slow_rate_says_when_to_come_again(self, instance: Instance) -> None:
        fill(instance, 2)
        assert len(claim(rate="1/m").leased) == 1
        found = claim(rate="1/m")
        assert found.leased == []
        assert found.next_at is not None
        assert 60 < (found.next_at - clock.now()).total_seconds() < 64

    def test_each_key_has_its_own(self, instance: Instance) -> None:
        fill(instance, 8, "a", "b", None, None)
        found = claim(key_rate="1/s")
        assert keys_of(found) == {"a": 1, "b": 1, None: 4}
        assert found.next_at is not None
        with clock.frozen(NOW + timedelta(seconds=2.1)):
            assert keys_of(claim(key_rate="1/s")) == {"a": 1, "b": 1}

    def test_a_key_that_has_to_wait_is_in_nobodys_way(self, instance: Instance) -> None:
        fill(instance, 120, "a")
        factories.make_activity(instance, 999, queue="mail", limit_key="b")
        assert keys_of(claim(key_rate="1/m")) == {"a": 1, "b": 1}

    def test_those_who_begin_by_themselves_take_their_turn(self) -> None:
        limits = Limits.parse({"rate": "20/s", "key_rate": "1/s"})
        within = timedelta(seconds=2)
        begins = [queues.reserve("default", "mail", key, limits, within) for key in ("a", "b", "a", None)]
        waits = [(at - clock.now()).total_seconds() for at in begins]
        assert waits == pytest.approx([0, 0.0525, 1.05, 1.1025])

    def test_who_would_wait_for_long_takes_nobodys_turn(self) -> None:
        limits, within = Limits.parse({"rate": "1/m"}), timedelta(seconds=2)
        first, second, third = (queues.reserve("default", "mail", None, limits, within) for _ in range(3))
        assert first == clock.now()
        assert second == third > clock.now() + timedelta(seconds=60)

    @pytest.mark.parametrize("name", ["rate", "key_rate"])
    def test_a_rate_that_is_corrected_holds_nobody_up_for_the_old_one(
        self, instance: Instance, name: str
    ) -> None:
        old: dict[str, Any] = {name: "1/h"}
        new: dict[str, Any] = {name: "100/s"}
        fill(instance, 40, "a")
        assert len(claim(**old).leased) == 1
        found = claim(**new)
        assert found.next_at is not None
        assert found.next_at < clock.now() + timedelta(seconds=2.1)
        with clock.frozen(NOW + timedelta(seconds=2)):
            again = claim(**new)
            assert again.next_at == found.next_at, "to look does not put it off"
        with clock.frozen(found.next_at):
            assert len(claim(**new).leased) > 1

    @pytest.mark.parametrize("name", ["rate", "key_rate"])
    def test_so_it_is_for_those_who_begin_by_themselves(self, name: str) -> None:
        within = timedelta(seconds=1)
        old, new = Limits.parse({name: "1/h"}), Limits.parse({name: "100/s"})
        queues.reserve("default", "mail", "a", old, within)
        begins = queues.reserve("default", "mail", "a", new, within)
        assert begins < clock.now() + timedelta(seconds=2.1)
        with clock.frozen(NOW + timedelta(seconds=1.5)):
            assert queues.reserve("default", "mail", "a", new, within) == begins, "to ask does not put it off"
        with clock.frozen(begins):
            later = [queues.reserve("default", "mail", "a", new, within) for _ in range(2)]
        assert [(at - begins).total_seconds() for at in later] == pytest.approx([0, 0.0105])

    def test_a_rate_that_is_lowered_holds_from_the_next_start_on(self, instance: Instance) -> None:
        fill(instance, 3)
        assert len(claim(1, rate="100/s").leased) == 1
        assert len(claim(rate="1/h").leased) == 1
        found = claim(rate="1/h")
        assert found.next_at is not None
        assert found.next_at > clock.now() + timedelta(hours=1)

    def test_the_state_of_keys_is_forgotten(self) -> None:
        limits = Limits.parse({"rate": "20/s", "key_rate": "1/s"})
        queues.reserve("default", "mail", "a", limits, timedelta(seconds=2))
        queues.sweep("default")
        assert QueueLimit.objects.count() == 2
        with clock.frozen(NOW + timedelta(days=2)):
            queues.sweep("default")
        assert QueueLimit.objects.get().key == ""


class TestEngines:
    @staticmethod
    def hand_over(**limits: Any) -> list[tuple[int, int, float]]:
        """Hand over what is due: return task ids, tokens, and how many seconds the leases last."""
        found = queues.claim(
            "default",
            MAIL,
            "mail",
            Limits.parse(limits),
            worker="w",
            lease=LEASE,
            most=100,
            for_engine=True,
        )
        activities.hand_over("default", [one.token for _begins, one in found.leased])
        ends = dict(ActivityTask.objects.values_list("task_id", "visible_at"))
        return [
            (one.task_id, one.token, (clock.from_orm(ends[one.task_id]) - clock.now()).total_seconds())
            for _begins, one in found.leased
        ]

    @pytest.mark.parametrize("limits", [{}, {"key_concurrency": 1}])
    def test_what_is_not_begun_is_handed_over_more_and_more_rarely(
        self, instance: Instance, limits: dict[str, Any]
    ) -> None:
        fill(instance, 1, "a", created_at=clock.aware(clock.now()))
        leases, now = [], clock.now()
        for _ in range(9):
            with clock.frozen(now):
                ((_task_id, _token, seconds),) = self.hand_over(**limits)
                assert not self.hand_over(**limits)
            leases.append(seconds / LEASE.total_seconds())
            now += timedelta(seconds=seconds + 1)
        assert leases == [1, 2, 4, 8, 16, 32, 64, 64, 64]
        assert ActivityTask.objects.get().deliveries == 0

    def test_where_few_can_wait_a_lost_message_keeps_its_place_no_longer(self, instance: Instance) -> None:
        fill(instance, 1, created_at=clock.aware(NOW - timedelta(days=1)))
        self.hand_over(concurrency=1)
        with clock.frozen(clock.now() + LEASE):
            assert self.hand_over(concurrency=1)[0][2] == LEASE.total_seconds()

    @pytest.mark.parametrize("limits", [{}, {"concurrency": 9}])
    def test_the_message_that_waits_is_good_again_and_begins_it_once(
        self, instance: Instance, limits: dict[str, Any]
    ) -> None:
        fill(instance, 3)
        first = self.hand_over(**limits)
        until = NOW + timedelta(hours=3)
        later = clock.now() + LEASE + timedelta(seconds=1)
        with clock.frozen(later):
            assert activities.take_over("default", first[0][1], "engine", until) is None, "it is late"
            factories.make_activity(instance, 99, queue="mail")
            again = self.hand_over(**limits)
            tokens = {task_id: token for task_id, token, _seconds in again}
            assert len(tokens) == 4
            assert tokens.items() >= {task_id: token for task_id, token, _seconds in first}.items()
            begun = activities.take_over("default", first[0][1], "engine", until)
            assert begun is not None
            assert begun.deliveries == 1
            assert activities.take_over("default", again[-1][1], "engine", until) is not None
            assert activities.take_over("default", first[0][1], "engine", until) is None

    def test_what_was_begun_and_never_ended_gets_another_token(self, instance: Instance) -> None:
        fill(instance, 1)
        ((_task_id, token, _seconds),) = self.hand_over()
        begun = activities.take_over("default", token, "engine", clock.now() + LEASE)
        assert begun is not None
        with clock.frozen(clock.now() + LEASE * 50):
            ((_task_id, again, seconds),) = self.hand_over()
        assert again not in (token, begun.token)
        assert seconds == LEASE.total_seconds()

    def test_orphans_are_deleted_all_the_same(self, instance: Instance) -> None:
        fill(instance, 2)
        self.hand_over()
        Instance.objects.all().delete()
        with clock.frozen(clock.now() + LEASE):
            assert self.hand_over() == []
        assert not ActivityTask.objects.exists()


@pytest.mark.database("postgresql", "mysql")  # On SQLite, one transaction excludes all others.
@pytest.mark.django_db(transaction=True)
def test_two_do_not_claim_at_once(instance: Instance) -> None:
    fill(instance, 10)
    claim(1, concurrency=3)
    found: list[Claim] = []

    def other() -> None:
        try:
            found.append(claim(concurrency=3))
        finally:
            connections.close_all()

    thread = threading.Thread(target=other)
    with transaction.atomic():
        QueueLimit.objects.select_for_update().get()
        thread.start()
        thread.join()
    assert (found[0].is_busy, found[0].leased) == (True, [])
