"""How much of a backlog's end a worker takes on, where others could take it as well."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from durable_django import task
from durable_django.core.versioning import VersionFailureStrategy, VersioningOptions, VersionMatchStrategy
from durable_django.models import Instance, InstanceStatus
from durable_django.store import claims, clock
from durable_django.store.scope import Served
from durable_django.worker import intake, shares
from tests import factories
from tests.worker.byhand import HandWorker, client

pytestmark = pytest.mark.django_db(transaction=True)

BATCH = 20
STRETCHED = 25


def done(ctx: task.OrchestrationContext, _: Any) -> str:
    return "done"


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have batches that tests can fill count as large."""
    monkeypatch.setattr(shares, "LEAST", 4)
    monkeypatch.setattr(intake, "SMALL_BATCH", -1)


def backlog(count: int, version: str | None = None) -> None:
    client().schedule_new_orchestrations(done, [None] * count, version=version)


def taken(worker: HandWorker) -> int:
    """Have a worker take one step, and return how many it has started."""
    worker.step()
    return Instance.objects.filter(status=InstanceStatus.COMPLETED).count()


def make_worker(**options: Any) -> HandWorker:
    factories.make_worker("hand")
    return HandWorker(done, batch_instances=BATCH, **options)


@pytest.mark.parametrize(("pending", "expected"), [(2 * STRETCHED, 25), (30, 15), (9, 5), (6, 4), (3, 3)])
def test_the_end_of_a_backlog_is_shared(pending: int, expected: int) -> None:
    worker = make_worker()
    factories.make_worker("other")
    backlog(pending)
    assert taken(worker) == expected


def test_what_was_left_to_others_and_is_still_there_is_taken_in_a_moment() -> None:
    worker = make_worker()
    factories.make_worker("other")
    backlog(30)
    assert taken(worker) == 15
    assert not worker.loop._hinted, "not at once: others have not looked yet"
    assert worker.loop._look_at <= time.monotonic() + 0.2
    assert taken(worker) == 30


def test_who_has_taken_what_others_left_leaves_them_their_share_again() -> None:
    worker = make_worker()
    factories.make_worker("other")
    backlog(30)
    worker.settle()
    backlog(30)
    assert taken(worker) == 30 + 15


def test_batches_that_do_not_look_change_nothing_of_that() -> None:
    worker = make_worker()
    for number in range(4):
        factories.make_worker(f"other {number}")
    backlog(30)
    assert taken(worker) == 6
    worker.loop._hinted, worker.loop._poll_at = False, float("inf")
    worker.loop.touch([factories.make_instance().pk])
    worker.loop.step()
    assert taken(worker) == 6 + BATCH


def test_a_share_of_versions_for_others_is_followed_by_another_look_at_once() -> None:
    worker = make_worker()
    worker.processor.intake._versioning = VersioningOptions(
        version="2",
        match_strategy=VersionMatchStrategy.STRICT,
        failure_strategy=VersionFailureStrategy.REJECT,
    )
    factories.make_worker("other")
    backlog(12, version="1")
    backlog(4, version="2")
    assert taken(worker) == 0
    assert worker.loop._hinted
    assert worker.loop._wake.is_set()
    assert not worker.loop.is_idle.is_set()
    worker.loop.step()
    assert Instance.objects.filter(status=InstanceStatus.COMPLETED).count() == 4


@pytest.mark.parametrize("small", [-1, 5], ids=["large batches", "small batches"])
def test_nobody_looks_at_once_for_what_was_left_long_ago(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()
    factories.make_worker("other")
    backlog(30)
    assert taken(worker) == 15
    Instance.objects.filter(status=InstanceStatus.PENDING).delete()
    monkeypatch.setattr(shares, "LEAST", BATCH + 1)  # There is hardly any room from now on.
    monkeypatch.setattr(intake, "SMALL_BATCH", small)
    worker.processor.intake._last_scanned = 0
    for _ in range(2):
        worker.step()
        assert not worker.loop._hinted
    assert worker.loop.is_idle.is_set()


def test_a_long_backlog_is_taken_by_whole_batches() -> None:
    worker = make_worker()
    factories.make_worker("other")
    backlog(2 * STRETCHED + 1)
    assert taken(worker) == BATCH


@pytest.mark.parametrize(("pending", "expected"), [(STRETCHED, STRETCHED), (STRETCHED + 1, BATCH)])
def test_a_small_rest_is_taken_along(pending: int, expected: int) -> None:
    worker = make_worker()
    backlog(pending)
    assert taken(worker) == expected


def test_no_more_is_taken_on_than_its_activities_can_be() -> None:
    worker = make_worker(slots=22)
    backlog(STRETCHED)
    assert taken(worker) == 22


@pytest.mark.parametrize(
    "fields",
    [
        {"queues": ["b"]},
        {"queues": None},
        {"names": {"orchestrations": {"done": []}, "activities": {}, "entities": []}},
        {"versioning": {"version": "2", "match": "strict", "others": "reject"}},
        {"draining_since": clock.aware(factories.NOW)},
    ],
    ids=["another queue", "all queues", "some names", "some versions", "draining"],
)
def test_nothing_is_left_to_workers_that_take_other_work(fields: dict[str, Any]) -> None:
    worker = make_worker()
    factories.make_worker("other", **fields)
    backlog(STRETCHED)
    assert taken(worker) == STRETCHED


def test_a_worker_without_a_row_is_alone() -> None:
    worker = HandWorker(done, batch_instances=BATCH)
    factories.make_worker("other")
    backlog(STRETCHED)
    assert taken(worker) == STRETCHED


def test_the_workers_are_counted_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()
    backlog(BATCH)
    assert taken(worker) == BATCH
    factories.make_worker("other")
    backlog(20)
    assert taken(worker) == BATCH + 20
    monkeypatch.setattr(shares, "_KNOWN_SECONDS", -1.0)
    backlog(20)
    assert taken(worker) == BATCH + 20 + 10


def test_where_little_is_to_be_had_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "LEAST", BATCH + 1)
    assert taken_without_asking(monkeypatch) == 6


@pytest.mark.database("postgresql")  # Elsewhere there are no pipelines.
def test_small_batches_ask_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SMALL_BATCH", BATCH)
    assert taken_without_asking(monkeypatch) == 6


@pytest.mark.database("postgresql")  # As above: it takes a pipeline.
@pytest.mark.parametrize(("pending", "is_full"), [(7, True), (6, False)])
def test_small_batches_leave_many_starts_to_the_next(
    pending: int, is_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "SMALL_BATCH", 5)
    monkeypatch.setattr(intake, "_FEW_STARTS", 7)
    worker = make_worker()
    backlog(pending)
    assert taken(worker) == pending
    assert worker.loop._hinted is is_full
    backlog(2)
    worker.loop._hinted = False
    worker.settle()
    assert Instance.objects.filter(status=InstanceStatus.COMPLETED).count() == pending + 2


@pytest.mark.database("postgresql")  # As above: it takes a pipeline.
def test_a_large_batch_comes_after_a_small_one_that_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SMALL_BATCH", 5)
    monkeypatch.setattr(intake, "_FEW_STARTS", 7)
    worker = make_worker()
    backlog(7 + BATCH)
    assert taken(worker) == 7
    assert worker.loop._hinted
    worker.loop.step()
    assert Instance.objects.filter(status=InstanceStatus.COMPLETED).count() == 7 + BATCH


def test_where_nothing_is_to_start_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask_pending(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return list

    monkeypatch.setattr(claims, "ask_pending", ask_pending)
    make_worker().step()
    assert asked == [0]


def taken_without_asking(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(claims, "count_pending", lambda *_: pytest.fail("it has asked"))
    worker = make_worker()
    factories.make_worker("other")
    backlog(6)
    return taken(worker)


def test_pending_instances_are_counted_as_far_as_asked() -> None:
    backlog(5)
    factories.make_instance("later", InstanceStatus.PENDING, start_at=clock.aware(clock.now()) + timedelta(1))
    factories.make_instance("elsewhere", InstanceStatus.PENDING, queue="other")
    factories.make_instance("begun")
    now = clock.now()
    served = Served(queues=frozenset({"default"}))
    with connection.cursor() as cursor:
        assert claims.count_pending(cursor, served, now, 100) == 5
        assert claims.count_pending(cursor, served, now, 3) == 3
        assert claims.count_pending(cursor, Served(), now, 100) == 6
