"""How fast a million instances are listed: ``python -m tests.benchmarks.lists``, on PostgreSQL.

By the REST API and in the admin, whose page of an instance with ten thousand events is measured as well.
"""

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
    "subject": "subject=auth.user:4712",
    "subject, nobody": "subject=auth.user:0",
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


_ADMIN = "/admin/durable_django/"
_ADMIN_PAGES = {
    "overview": "",
    "list": "instance/",
    "list, page 100": "instance/?p=100",
    "list, by status, most": "instance/?status__exact=1",
    "list, by status, few": "instance/?status__exact=7",
    "list, by name": "instance/?name=flow7",
    "list, by name, nobody": "instance/?name=nobody",
    "list, by version": "instance/?version=2",
    "list, by queue": "instance/?queue=queue3",
    "list, by queue, most": "instance/?queue=default",
    "list, by tag": "instance/?tag=customer%3D4711",
    "list, by tag, a fifth": "instance/?tag=region%3D3",
    "list, by subject": "instance/?subject=auth.user%3A4712",
    "list, created on a day": "instance/?created_at__gte=2026-06-01T00:00Z&created_at__lt=2026-06-02T00:00Z",
    "list, ended on a day": "instance/?completed_at__gte=2026-06-01&completed_at__lt=2026-06-02",
    "list, name and status": "instance/?name=flow2&status__exact=7",
    "list, oldest first": "instance/?o=5",
    "search, an id": "instance/?q=order-123456",
    "search, all ids": "instance/?q=order-",
    "search, nobody": "instance/?q=nobody",
    "search, a tag": "instance/?q=customer%3D4711",
    "search, a key": "instance/?q=4712",
    "search, a subject": "instance/?q=auth.user%3A4712",
    "instance": "instance/BIG/change/",
    "instance, its last events": "instance/BIG/change/?after=9900",
    "instance, its failures": "instance/BIG/change/?kind=failure",
    "instance, one task": "instance/BIG/change/?task=9000",
    "entities": "entity/",
    "workers": "worker/",
}
_EVENTS = 10_000


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
                completed_at, next_sequence, turn, tries, subject_type, subject_id)
            SELECT 'order-' || n, md5(n::text), 'flow' || n %% 20,
                CASE WHEN n %% 10 = 0 THEN (n / 10 %% 4)::text END,
                CASE WHEN n %% 10 = 0 THEN 'queue' || n / 10 %% 5 ELSE 'default' END, 0, status,
                repeat('x', 200), repeat('y', 200),
                CASE WHEN status = 3 THEN '{"type": "a", "message": "b"}' END,
                CASE WHEN n %% 3 = 0 THEN jsonb_build_object('customer', (n %% 100000)::text,
                                                             'region', (n %% 5)::text) END,
                '[]', CASE WHEN n > 100000 AND n %% 10 = 1 THEN n %% 100000 END, 1, at, at, at,
                CASE WHEN status IN (1, 3, 5) THEN at + interval '1 minute' END, 10, 5, 0,
                CASE WHEN n %% 4 = 0 THEN 'auth.user' END,
                CASE WHEN n %% 4 = 0 THEN (n %% 100000)::text END
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
    from django.test import Client
    from rest_framework.test import APIClient

    root = User.objects.create_superuser("root")
    api, admin = APIClient(), Client()
    api.force_authenticate(root)
    admin.force_login(root)
    deep, big = _deep_cursor(api), str(_big_instance())
    sys.stdout.write(f"{'page':26} {'queries':>7} {'p50 ms':>8} {'p95 ms':>8}\n")
    for title, query in _QUERIES.items():
        _measure_page(options, api, title, f"/durable/instances/?{query.replace('DEEP', deep)}", most_ms=50)
    for title, path in _ADMIN_PAGES.items():
        _measure_page(options, admin, title, f"{_ADMIN}{path.replace('BIG', big)}", most_ms=300)


def _measure_page(options: argparse.Namespace, client: Any, title: str, url: str, *, most_ms: int) -> None:
    from django.db import connection

    asked: list[tuple[str, Any]] = []
    with connection.execute_wrapper(partial(_note, asked)):
        found = client.get(url)
    assert found.status_code == 200, found.content
    milliseconds = []
    for _ in range(options.times):
        started = time.perf_counter()
        client.get(url)
        milliseconds.append((time.perf_counter() - started) * 1000)
    p50, p95 = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[18]
    sys.stdout.write(f"{title:26} {len(asked):7} {p50:8.1f} {p95:8.1f}\n")
    if options.plans or p95 > most_ms:
        with connection.cursor() as cursor:
            for sql, parameters in asked:
                if sql.startswith("SELECT") and "durable_django" in sql:
                    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", parameters)
                    sys.stdout.write("".join(f"    {line}\n" for (line,) in cursor.fetchall()))


def _big_instance() -> int:
    """Give an instance that runs a long history, and return its primary key."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, execution_id FROM durable_django_instance WHERE instance_id = 'order-4711'"
        )
        key, execution_id = cursor.fetchone()
        cursor.execute(
            """
            INSERT INTO durable_django_historyevent (
                instance_id, execution_id, sequence, timestamp, turn, kind, task_id, name, data, attributes)
            SELECT %s, %s, n, %s::timestamptz + n * interval '1 second', n / 2,
                CASE WHEN n = 0 THEN 1 WHEN n %% 2 = 1 THEN 10 ELSE 11 END, n - (n + 1) %% 2,
                CASE WHEN n %% 2 = 1 THEN 'charge' WHEN n = 0 THEN 'flow' END,
                '"' || repeat('z', 500) || '"', '{}'
            FROM generate_series(0, %s) n
            """,
            [key, execution_id, _FIRST, _EVENTS - 1],
        )
        cursor.execute("UPDATE durable_django_instance SET next_sequence = %s WHERE id = %s", [_EVENTS, key])
        cursor.execute("VACUUM ANALYZE durable_django_historyevent")
    return int(key)


def _note(asked: list[tuple[str, Any]], execute: Any, sql: str, parameters: Any, *rest: Any) -> Any:
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
