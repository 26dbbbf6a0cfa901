"""How fast the REST API lists a million instances: ``python -m tests.benchmarks.lists``, on PostgreSQL."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from functools import partial
from typing import Any

import django

_FIRST = "2026-01-01T00:00:00Z"
_QUERIES = {
    "newest": "",
    "oldest": "ordering=created_at",
    "by end": "ordering=-completed_at",
    "status, most": "status=COMPLETED",
    "status, some": "status=FAILED",
    "status, few": "status=SUSPENDED",
    "status, old ones": "status=RUNNING",
    "several statuses": "status=FAILED&status=TERMINATED&status=RUNNING",
    "status, oldest first": "status=FAILED&ordering=created_at",
    "name": "name=flow7",
    "name, nobody": "name=nobody",
    "id_prefix, one": "id_prefix=order-123456",
    "id_prefix, all": "id_prefix=order-",
    "id_prefix, nobody": "id_prefix=x",
    "created_after": "created_after=2026-06-01T00:00:00Z",
    "created_before": "created_before=2026-06-01T00:00:00Z",
    "completed_after": "completed_after=2026-06-01T00:00:00Z",
    "completed_before": "completed_before=2026-06-01T00:00:00Z",
    "completed within a day": "completed_after=2026-06-01T00:00:00Z&completed_before=2026-06-02T00:00:00Z",
    "tag, one": "tag.customer=4711",
    "tag, nobody": "tag.customer=nobody",
    "tag, a fifth": "tag.region=3",
    "parent": "parent=order-4711",
    "queue, most": "queue=default",
    "queue, few": "queue=queue3",
    "queue, nobody": "queue=nobody",
    "version": "version=2",
    "version, nobody": "version=99",
    "name and status": "name=flow7&status=FAILED",
    "name and status, few": "name=flow2&status=SUSPENDED",
    "tag and status": "tag.region=2&status=FAILED",
    "against the grain": "completed_after=2026-06-01T00:00:00Z&completed_before=2026-06-02T00:00:00Z"
    "&ordering=-created_at",
    "deep page": "ordering=created_at&cursor=DEEP",
}


def main() -> None:
    """Fill the tables, ask, and print the times."""
    options = _options()
    os.environ.setdefault("TEST_DATABASE", "postgres")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.db import connection

    configured = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        _fill(options.instances)
        _measure(options)
    finally:
        connection.creation.destroy_test_db(configured, verbosity=0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.lists")
    parser.add_argument("--instances", type=int, default=1_000_000, help="how many there are (1,000,000)")
    parser.add_argument("--times", type=int, default=40, help="how often to ask each (40)")
    parser.add_argument("--plans", action="store_true", help="print the plans as well")
    return parser.parse_args()


def _fill(count: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO durable_django_instance (
                instance_id, execution_id, name, version, queue, priority, status, input, output, failure,
                tags, waiting_for, parent_id, parent_task_id, start_at, created_at, last_updated_at,
                completed_at, next_sequence, turn, tries)
            SELECT 'order-' || n, md5(n::text), 'flow' || n %% 20,
                CASE WHEN n %% 10 = 0 THEN (n / 10 %% 4)::text END,
                CASE WHEN n %% 10 = 0 THEN 'queue' || n / 10 %% 5 ELSE 'default' END, 0, status,
                repeat('x', 200), repeat('y', 200),
                CASE WHEN status = 3 THEN '{"type": "a", "message": "b"}' END,
                CASE WHEN n %% 3 = 0 THEN jsonb_build_object('customer', (n %% 100000)::text,
                                                             'region', (n %% 5)::text) END,
                '[]', CASE WHEN n > 100000 AND n %% 10 = 1 THEN n %% 100000 END, 1, at, at, at,
                CASE WHEN status IN (1, 3, 5) THEN at + interval '1 minute' END, 10, 5, 0
            FROM (
                SELECT n, %s::timestamptz + n * interval '30 seconds' AS at,
                    CASE WHEN n < 20000 THEN 0 WHEN n %% 33 = 0 THEN 3
                         WHEN n %% 100 = 1 THEN 5 WHEN n %% 1000 = 2 THEN 7
                         WHEN n %% 500 = 3 THEN 6 ELSE 1 END AS status
                FROM generate_series(1, %s) n
            ) rows
            """,
            [_FIRST, count],
        )
        cursor.execute("VACUUM ANALYZE")


def _measure(options: argparse.Namespace) -> None:
    from django.contrib.auth.models import User
    from django.db import connection
    from rest_framework.test import APIClient

    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("root"))
    deep = _deep_cursor(client)
    sys.stdout.write(f"{'list':26} {'rows':>5} {'p50 ms':>8} {'p95 ms':>8}\n")
    for title, query in _QUERIES.items():
        url = f"/durable/instances/?{query.replace('DEEP', deep)}"
        asked: list[tuple[str, Any]] = []
        with connection.execute_wrapper(partial(_note, asked)):
            found: Any = client.get(url)
        assert found.status_code == 200, found.content
        milliseconds = []
        for _ in range(options.times):
            started = time.perf_counter()
            client.get(url)
            milliseconds.append((time.perf_counter() - started) * 1000)
        p50, p95 = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[18]
        sys.stdout.write(f"{title:26} {len(found.json()['results']):5} {p50:8.1f} {p95:8.1f}\n")
        if options.plans or p95 > 50:
            with connection.cursor() as cursor:
                sql, parameters = asked[-1]
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", parameters)
                sys.stdout.write("".join(f"    {line}\n" for (line,) in cursor.fetchall()))


def _note(asked: list[tuple[str, Any]], execute: Any, sql: str, parameters: Any, *rest: Any) -> Any:
    if "durable_django_instance" in sql:
        asked.append((sql, parameters))
    return execute(sql, parameters, *rest)


def _deep_cursor(client: Any) -> str:
    from durable_django.models import Instance
    from durable_django.rest_framework.pagination import KeysetPagination

    pagination = KeysetPagination()
    pagination._ordering = "created_at"
    middle = Instance.objects.order_by("pk")[Instance.objects.count() // 2]
    return pagination._write(middle, "created_at")


if __name__ == "__main__":
    main()
