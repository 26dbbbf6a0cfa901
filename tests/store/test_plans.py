"""The plans of the claim queries on PostgreSQL, with a hundred thousand finished instances in the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.models import Instance
from durable_django.store import activities, claims, clock, control, entities, inbox, operations, rows
from durable_django.store.scope import Served

pytestmark = [pytest.mark.database("postgresql"), pytest.mark.django_db, pytest.mark.timeout(120)]

FINISHED = 100_000
WAITING = 10_000
_INSTANCES = """
INSERT INTO durable_django_instance (instance_id, execution_id, name, queue, priority, status, waiting_for,
    start_at, created_at, last_updated_at, completed_at, next_sequence, turn, tries)
SELECT '{prefix}-' || n, md5(n::text), 'order', 'default', 0, {status}, '[]',
    now() - interval '1 day', now() - interval '1 day', now() - interval '1 day', {completed}, 4, 2, 0
FROM generate_series(1, {count}) n
"""
_HISTORY = """
INSERT INTO durable_django_historyevent (instance_id, execution_id, sequence, timestamp, turn, kind)
SELECT id, execution_id, s, now(), 1, 11 FROM durable_django_instance, generate_series(0, 1) s
"""
_TIMERS = """
INSERT INTO durable_django_timer (instance_id, execution_id, task_id, fire_at)
SELECT id, execution_id, 1, now() + interval '30 days' FROM durable_django_instance WHERE status = 0
"""
_ACTIVITIES = """
INSERT INTO durable_django_activitytask (instance_id, execution_id, task_id, name, queue, priority,
    created_at, visible_at, deliveries, lease_token)
SELECT id, execution_id, 2, 'pay', 'default', 0, now(), now() + interval '1 hour', 1, id
FROM durable_django_instance WHERE status = 0
"""
_OPERATIONS = """
INSERT INTO durable_django_entityoperation (name, key, kind, operation, position, created_at, visible_at)
SELECT 'counter', n::text, 1, 'add', 0, now(), now() + interval '30 days' FROM generate_series(1, 10000) n
"""
_ENTITIES = """
INSERT INTO durable_django_entity (name, key, state, last_modified_at)
SELECT 'counter', n::text, '1', now() FROM generate_series(1, 10000) n
"""
_TABLES = ("instance", "historyevent", "message", "timer", "activitytask", "entity", "entityoperation")


@pytest.fixture
def crowd(db: None) -> Iterator[CursorWrapper]:
    """Fill the tables, and give a cursor."""
    with connection.cursor() as cursor:
        cursor.execute(_INSTANCES.format(prefix="done", status=1, completed="now()", count=FINISHED))
        cursor.execute(_INSTANCES.format(prefix="waits", status=0, completed="NULL", count=WAITING))
        for statement in (_HISTORY, _TIMERS, _ACTIVITIES, _OPERATIONS, _ENTITIES):
            cursor.execute(statement)
        for table in _TABLES:
            cursor.execute(f"ANALYZE durable_django_{table}")
        yield cursor


class Plans:
    """Runs code, and keeps the plan of each of its statements."""

    def __init__(self) -> None:
        self.scanned: list[str] = []

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE)", sql) and not many:
            with connection.connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
                plan = cursor.fetchone()[0]
            self._look(json.loads(plan) if isinstance(plan, str) else plan, sql)
        return execute(sql, params, many, context)

    def _look(self, node: Any, sql: str) -> None:
        if isinstance(node, list):
            for child in node:
                self._look(child, sql)
        elif isinstance(node, dict):
            if node.get("Node Type") == "Seq Scan" and node.get("Plan Rows", 0) >= 0:
                self.scanned.append(f"{node['Relation Name']}: {sql}")
            for child in node.values():
                self._look(child, sql)


SERVED = Served(frozenset({"default"}), {"order": frozenset(), "pay": frozenset(), "counter": frozenset()})


def claim_pending(cursor: CursorWrapper) -> None:
    claims.ask_pending(cursor, SERVED, clock.now(), 200)


def count_pending(cursor: CursorWrapper) -> None:
    claims.count_pending(cursor, SERVED, clock.now(), 2000)


def claim_ready(cursor: CursorWrapper) -> None:
    claims.ask_ready(cursor, SERVED, clock.now(), 200)


def claim_keys_and_read(cursor: CursorWrapper) -> None:
    cursor.execute("SELECT id FROM durable_django_instance WHERE status = 0 ORDER BY id DESC LIMIT 50")
    claimed = claims.claim_keys(cursor, [pk for (pk,) in cursor.fetchall()])
    inbox.ask(cursor, [instance.pk for instance in claimed], clock.now(), 5000)(claimed)


def next_due(cursor: CursorWrapper) -> None:
    claims.ask_next_due(cursor, clock.now())()


def claim_activities(cursor: CursorWrapper) -> None:
    now = clock.now()
    activities.ask_due(cursor, SERVED, "w", now, now + timedelta(seconds=60), 100)()


def record(cursor: CursorWrapper) -> None:
    cursor.execute("SELECT min(lease_token) FROM durable_django_activitytask WHERE lease_token > 0")
    (first,) = cursor.fetchone()
    assert len(activities.record(cursor, list(range(first, first + 50)))()) == 50


def renew(cursor: CursorWrapper) -> None:
    activities.renew("default", list(range(1, 50)), clock.now())


def terminate(cursor: CursorWrapper) -> None:
    assert control.terminate("default", "waits-77")


def look_for_entities(cursor: CursorWrapper) -> None:
    assert entities.ready("default", Served(), clock.now(), 100) == []
    entities.next_due("default", clock.now())


def perform(cursor: CursorWrapper) -> None:
    entity = entities.lock(cursor, ("counter", "77"))
    assert entity is not None
    entities.operations(cursor, entity, clock.now(), 100)


def release_locks(cursor: CursorWrapper) -> None:
    cursor.execute("SELECT id, execution_id FROM durable_django_instance WHERE instance_id = 'waits-5'")
    operations.of_open_sections(cursor, dict(cursor.fetchall()))


@pytest.mark.parametrize(
    "query",
    [
        claim_pending,
        count_pending,
        claim_ready,
        claim_keys_and_read,
        next_due,
        claim_activities,
        record,
        renew,
        terminate,
        look_for_entities,
        perform,
        release_locks,
    ],
)
def test_no_table_is_scanned(crowd: CursorWrapper, query: Callable[[CursorWrapper], None]) -> None:
    plans = Plans()
    with transaction.atomic(), connection.execute_wrapper(plans):
        query(crowd)
    # What is empty, or has a handful of rows, is scanned at no cost: the inbox here, and bundles always.
    small = ("durable_django_message:", "durable_django_activitybundle:")
    assert [scan for scan in plans.scanned if not scan.startswith(small)] == []


def test_the_end_of_a_backlog_is_found_though_the_server_still_thinks_that_all_is_pending(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE durable_django_instance CASCADE")
        cursor.execute(_INSTANCES.format(prefix="new", status=6, completed="NULL", count=20_000))
        cursor.execute("ANALYZE durable_django_instance")
        cursor.execute("UPDATE durable_django_instance SET status = 1")
        plans = Plans()
        with connection.execute_wrapper(plans):
            count_pending(cursor)
    assert plans.scanned == []


def test_the_probe_sees_a_scan(crowd: CursorWrapper) -> None:
    plans = Plans()
    with connection.execute_wrapper(plans):
        crowd.execute("SELECT count(*) FROM durable_django_instance WHERE output = 'x'")
    assert len(plans.scanned) == 1


@pytest.mark.parametrize(("count", "is_analyzed"), [(50, True), (400, False)])
@pytest.mark.parametrize("statuses", [['"far"'], ['"far"', '"further"']])
def test_an_update_of_many_reads_no_more_than_these(
    statuses: list[str], count: int, is_analyzed: bool, db: None
) -> None:
    """In a table of this size, a plan that did not know how many there are would read all of it.

    So would one that knew there are hundreds, for as long as nobody has looked at what is in the table.
    """
    with connection.cursor() as cursor:
        # Away with the dead rows of other tests, and with what ANALYZE has counted in them.
        cursor.execute("TRUNCATE durable_django_instance CASCADE")
        cursor.execute(_INSTANCES.format(prefix="runs", status=0, completed="NULL", count=5_000))
        if is_analyzed:
            cursor.execute("ANALYZE durable_django_instance")
        cursor.execute("SELECT id FROM durable_django_instance ORDER BY id LIMIT %s", [count])
        keys = [pk for (pk,) in cursor.fetchall()]
        plans = Plans()
        with connection.execute_wrapper(plans):
            values = [(3, statuses[number % len(statuses)], pk) for number, pk in enumerate(keys)]
            rows.update(cursor, Instance, ("turn", "custom_status"), values)
        assert plans.scanned == []
        cursor.execute("SELECT id FROM durable_django_instance WHERE turn = 3 ORDER BY id")
        assert [pk for (pk,) in cursor.fetchall()] == keys


def test_a_crowded_inbox_is_not_scanned_either(crowd: CursorWrapper) -> None:
    crowd.execute(
        "INSERT INTO durable_django_message (instance_id, kind, name, visible_at, held)"
        " SELECT id, 2, 'go', now(), true FROM durable_django_instance WHERE status = 0"
    )
    crowd.execute("ANALYZE durable_django_message")
    plans = Plans()
    with connection.execute_wrapper(plans):
        claim_ready(crowd)
        claim_keys_and_read(crowd)
    assert plans.scanned == []
