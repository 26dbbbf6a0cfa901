"""Statements that are sent without waiting: their values, their errors, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any

import pytest
from django.db import DatabaseError, DataError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from durable_django.models import NAME_LENGTH, Instance, InstanceStatus, Worker
from durable_django.store import exchange, pipeline, rows
from durable_django.store.exchange import Exchange, statements_of
from durable_django.store.postgres import array
from tests import factories
from tests.worker.byhand import HandWorker, client, output

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database("postgresql")]

USING = "default"


@pytest.fixture
def raw() -> Iterator[Any]:
    connection.ensure_connection()
    yield connection.connection
    connection.close()


@pytest.fixture
def exchanged(raw: Any) -> Iterator[Exchange]:
    found = Exchange(raw)
    yield found
    found.abandon()


def prepared() -> list[str]:
    """Return the texts of what the connection's session has prepared."""
    found = rows.fetch(USING, "SELECT statement FROM pg_prepared_statements WHERE name LIKE 'durable%%'")
    return sorted(statement for (statement,) in found)


def one(ctx: Any, value: Any) -> Any:
    return (yield ctx.call_activity(echo, input=value))


def echo(ctx: Any, value: Any) -> Any:
    return value


# ---------------------------------------------------------------- values

_VALUES = (
    "SELECT %s::text, %s::bigint, %s::int, %s::bool, %s::timestamptz, %s::jsonb, %s::text[], 7 %% 4, NULL"
)


def test_values_are_as_a_cursor_gives_them(exchanged: Exchange) -> None:
    values = [
        "ü\t'\"\\ %s $1 {}",
        2**62,
        -3,
        True,
        "2026-02-03T04:05:06.000789+00:00",
        '{"a": [1, null]}',
        '{"x,y",NULL}',
    ]
    assert exchanged.send(_VALUES, values).rows() == rows.fetch(USING, _VALUES, values)
    nothing = [None] * len(values)
    assert exchanged.send(_VALUES, nothing).rows() == rows.fetch(USING, _VALUES, nothing)


def test_an_array_may_have_any_text(exchanged: Exchange) -> None:
    texts = ["", "a b", "NULL", '"', "\\", "{,}", "\n\t", "ü", "\x1f", None]
    found = exchanged.send("SELECT t FROM unnest(%s::text[]) t", [array(texts)]).rows()
    assert [text for (text,) in found] == texts


def test_answers_are_read_in_any_order_and_again(exchanged: Exchange) -> None:
    first, second = exchanged.send("SELECT 1"), exchanged.send("SELECT 2 UNION SELECT 3 ORDER BY 1")
    assert second.rows() == [(2,), (3,)]
    assert first.rows() == first.rows() == [(1,)]


def test_a_character_that_no_text_has_is_refused_before_anything_is_sent(raw: Any) -> None:
    from psycopg import DataError

    exchanged = Exchange(raw)
    with pytest.raises(DataError, match="NUL"):
        exchanged.send("SELECT %s::text", ["a\0b"])
    assert not raw.pgconn.pipeline_status


def test_members_of_enumerations_are_their_values(exchanged: Exchange) -> None:
    class Name(StrEnum):
        FIRST = "one"

    class Number(int, Enum):
        SECOND = 2

    values = [Name.FIRST, Number.SECOND, InstanceStatus.PENDING]
    assert exchanged.send("SELECT %s::text, %s::int, %s::int", values).rows() == [("one", 2, 6)]


@pytest.mark.parametrize("value", [b"bytes", [1], {"a": 1}, 0.1, datetime(2026, 2, 3)])
def test_a_value_that_the_server_would_read_otherwise_is_refused(raw: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        Exchange(raw).send("SELECT %s::text", [value])
    assert not raw.pgconn.pipeline_status


def test_more_than_fits_on_the_way_goes_both_ways_at_once(exchanged: Exchange) -> None:
    large = "x" * (8 << 20)
    answers = [exchanged.send("SELECT %s::text || %s", [large, str(number)]) for number in range(4)]
    for number, answer in enumerate(answers):
        ((text,),) = answer.rows()
        assert text == large + str(number)


# ---------------------------------------------------------------- errors


def test_what_comes_after_an_error_is_not_done(raw: Any) -> None:
    from psycopg.errors import DivisionByZero, InFailedSqlTransaction

    exchanged = Exchange(raw)
    exchanged.send("BEGIN")
    exchanged.send("SELECT 1 / %s::int", [0])
    exchanged.send("SELECT pg_advisory_xact_lock(1)")
    exchanged.send("COMMIT")
    with pytest.raises(DivisionByZero):
        exchanged.settle()
    assert not raw.pgconn.pipeline_status
    with pytest.raises(InFailedSqlTransaction):
        exchanged.send("SELECT 1").rows()
    raw.rollback()


def interrupted(_: Any) -> None:
    raise KeyboardInterrupt


def test_a_connection_that_is_interrupted_is_not_used_again(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt), pipeline.begin(USING, small=True) as cursor:
        rows.ask(cursor, "SELECT %s::int", [1])()
    assert raw.closed
    connection.close()
    with pipeline.begin(USING, small=True) as cursor:
        assert rows.ask(cursor, "SELECT %s::int", [1])() == [(1,)]


def test_a_server_that_cuts_the_connection_off_is_djangos_error(raw: Any) -> None:
    def fail() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            rows.ask(cursor, "SELECT pg_terminate_backend(pg_backend_pid())", [])()

    with pytest.raises(DatabaseError):
        fail()
    connection.close()
    assert rows.fetch(USING, "SELECT 1") == [(1,)]


def test_neither_is_one_that_is_interrupted_while_it_is_given_up(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged = Exchange(raw)
    exchanged.send("SELECT 1")
    monkeypatch.setattr(raw, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exchanged.abandon()
    assert raw.closed


def cut_off() -> None:
    """Have the server end the session of Django's connection, from another one."""
    pid = rows.fetch(USING, "SELECT pg_backend_pid()")[0][0]
    with closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def begin() -> None:
    with pipeline.begin(USING, small=True):
        pass


_ACTS: dict[str, Callable[[], object]] = {
    "start": lambda: client().schedule_new_orchestration(one),
    "look": lambda: client().get_orchestration_state("a"),
    "begin": begin,
}


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("act", _ACTS)
def test_a_session_that_is_over_is_djangos_error(
    act: str, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client().get_orchestration_state("a")
    if is_old:
        monkeypatch.setattr(exchange, "_PLAN_SECONDS", -1.0)
        statements_of(connection.connection).doubt()
    cut_off()
    try:
        with pytest.raises(OperationalError):
            _ACTS[act]()
    finally:
        connection.close()


def test_an_error_after_the_commit_is_raised_as_it_is(raw: Any) -> None:
    """As of a NOTIFY for which there is no room: such a statement fails at the very end."""
    from psycopg.errors import CheckViolation

    raw.execute("CREATE TEMPORARY TABLE late (n int)")
    raw.execute(
        "CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE check_violation; END$$"
    )
    raw.execute(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse()"
    )
    exchanged = Exchange(raw)
    exchanged.send("INSERT INTO late VALUES (1)")
    with pytest.raises(CheckViolation):
        exchanged.settle()
    assert Exchange(raw).send("SELECT count(*) FROM late").rows() == [(0,)]


def test_a_commit_that_commits_nothing_is_an_error() -> None:
    hooks: list[str] = []

    def swallow() -> None:
        with pipeline.begin(USING, small=True) as cursor:
            transaction.on_commit(lambda: hooks.append("told"))
            cursor.execute("SELECT 1 / %s::int", [0])
            with suppress(DataError):
                Worker.objects.count()

    with pytest.raises(OperationalError, match="COMMIT"):
        swallow()
    assert hooks == []


def test_there_are_no_rows_of_what_was_not_done(raw: Any) -> None:
    from psycopg import DataError as Failed
    from psycopg import OperationalError as NotDone

    exchanged = Exchange(raw)
    exchanged.send("SELECT 1 / %s::int", [0])
    answer = exchanged.send("SELECT 1")
    with pytest.raises(Failed):
        exchanged.settle()
    with pytest.raises(NotDone):
        answer.rows()


# ---------------------------------------------------------------- statements


def test_a_statement_is_prepared_once(exchanged: Exchange) -> None:
    for number in range(3):
        exchanged.send("SELECT %s::int", [number])
        exchanged.settle()
    assert prepared() == ["SELECT $1::int"]


def test_statements_do_not_become_ever_more(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_MOST_STATEMENTS", 3)
    for number in range(10):
        with pipeline.begin(USING, small=True) as cursor:
            assert rows.ask(cursor, f"SELECT {number}", [])() == [(number,)]
    assert len(prepared()) <= 6


def test_only_our_own_statements_are_deallocated(raw: Any) -> None:
    raw.execute("PREPARE theirs AS SELECT 1")
    with pytest.raises(DatabaseError), pipeline.begin(USING, small=True) as cursor:
        rows.ask(cursor, "SELECT nonsense", [])()
    with pipeline.begin(USING, small=True) as cursor:
        rows.ask(cursor, "SELECT 5", [])()
    assert "SELECT 5" in prepared()
    assert raw.execute("EXECUTE theirs").fetchall() == [(1,)]


@pytest.mark.parametrize("forget", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_clients_do_not_mind_that_a_pool_has_emptied_their_session(raw: Any, forget: str) -> None:
    for number in range(3):
        client().schedule_new_orchestration(one, instance_id=f"order-{number}")
        assert client().get_orchestration_state(f"order-{number}") is not None
        raw.execute(forget)
    assert Instance.objects.count() == 3


@pytest.mark.parametrize("forget", ["DEALLOCATE ALL", "DISCARD ALL"])
@pytest.mark.parametrize("told", [True, False])
def test_a_worker_goes_on_though_its_session_has_been_emptied(forget: str, told: bool) -> None:
    worker = HandWorker(one, activities=[echo])
    for number in range(3):
        client().schedule_new_orchestration(one, input=number, instance_id=f"order-{number}")
        if told:
            worker.loop.hint_start()
        worker.loop.step()
        connection.connection.execute(forget)
        worker.run_activities()
        worker.loop.step()
        assert output(f"order-{number}") == number
        connection.connection.execute(forget)
        worker.loop.hint()


@pytest.fixture
def wider_name() -> Iterator[Any]:
    """Give what widens a column, as a migration may, and see that it is as before afterwards."""

    def widen(length: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE durable_django_instance ALTER name TYPE varchar({length})")

    yield widen
    widen(NAME_LENGTH)


def test_a_migration_of_the_columns_that_are_read_stops_nobody(wider_name: Any) -> None:
    worker = HandWorker(one, activities=[echo])
    for number in range(3):
        client().schedule_new_orchestration(one, input=number, instance_id=f"order-{number}")
        worker.settle()
        assert output(f"order-{number}") == number
        assert client().get_orchestration_state(f"order-{number}") is not None
        wider_name(NAME_LENGTH + number + 1)


# ---------------------------------------------------------------- others on the connection


def test_what_others_execute_comes_after_what_was_sent() -> None:
    worker = factories.make_worker("one")
    with pipeline.begin(USING, small=True) as cursor:
        rows.update(cursor, Worker, ("name",), [("mine", worker.pk)])
        assert Worker.objects.get().name == "mine"
        Worker.objects.update(name="theirs")
        rows.update(cursor, Worker, ("host",), [("there", worker.pk)])
    worker.refresh_from_db()
    assert (worker.name, worker.host) == ("theirs", "there")


def test_others_may_use_the_connection_below_django_once_the_pipeline_is_left(raw: Any) -> None:
    with pipeline.begin(USING, small=True) as cursor:
        cursor.execute("SELECT set_config('durable.test', %s, true)", ["here"])
        pipeline.leave(USING)
        assert raw.execute("SELECT current_setting('durable.test')").fetchone() == ("here",)
        assert rows.ask(cursor, "SELECT current_setting('durable.test')", [])() == [("here",)]


def test_a_pipeline_of_psycopgs_own_is_left_alone(raw: Any) -> None:
    with raw.pipeline():
        cursor = raw.execute("SELECT 1")
        assert client().get_orchestration_state("a") is None
        assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_text_is_in_the_connections_encoding(encoding: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET client_encoding TO {encoding}")
    client().schedule_new_orchestration(one, instance_id="ü")
    assert client().get_orchestration_state("ü") is not None
    connection.close()
    assert Instance.objects.get().instance_id == "ü"


def test_where_psycopg_would_deallocate_our_statements_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection.features, "uses_server_side_binding", True)
    assert pipeline.is_possible(USING)
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "prepare_threshold", 5)
    assert not pipeline.is_possible(USING)


def test_what_sees_every_query_sees_a_clients_too() -> None:
    with CaptureQueriesContext(connection) as captured:
        client().schedule_new_orchestration(one, instance_id="seen")
        client().get_orchestration_state("seen")
    assert len(captured) == 2
    statements: list[str] = []

    def note(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(note):
        client().schedule_new_orchestration(one, instance_id="wrapped")
        client().get_orchestration_state("wrapped")
        with pipeline.begin(USING, small=True) as cursor:
            cursor.execute("SELECT 1")
    assert len(statements) == 3


def test_within_a_transaction_a_client_is_part_of_it() -> None:
    with transaction.atomic():
        client().schedule_new_orchestration(one, instance_id="gone")
        assert client().get_orchestration_state("gone") is not None
        transaction.set_rollback(True)
    assert client().get_orchestration_state("gone") is None
    assert statements_of(connection.connection).name("BEGIN") is None
