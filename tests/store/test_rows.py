"""Rows go to the database and come back as they were, whatever is in them and however many there are."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from durable_django.models import Instance, InstanceStatus, Message
from durable_django.store import pipeline, rows
from tests import factories

USING = "default"

ODD_TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    None,
    "\\N",
    "\\",
    '"',
    '\\"',
    '\\\\""',
    "{a,b}",
    "a,b",
    "'; --",
    "%s %(x)s %%",
    "tab\tnew\nline\rback\b",
    "Grüße, 日本, 🎉",
]


def update(cursor: CursorWrapper, fields: tuple[str, ...], values: Sequence[Sequence[Any]]) -> None:
    rows.update(cursor, Instance, fields, values)


def read(*fields: str) -> list[tuple[Any, ...]]:
    return list(Instance.objects.order_by("pk").values_list(*fields))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("small", [True, False])
class TestUpdate:
    def test_each_row_gets_its_own_values(self, small: bool) -> None:
        keys = [factories.make_instance(f"flow-{number}").pk for number in range(len(ODD_TEXTS))]
        changes = [
            (number, text, "[]", pk)
            for number, (text, pk) in enumerate(zip(ODD_TEXTS, reversed(keys), strict=True))
        ]
        with pipeline.begin(USING, small=small) as cursor:
            update(cursor, ("turn", "custom_status", "waiting_for"), changes)
        expected: list[Any] = [(number, text, []) for number, text in enumerate(ODD_TEXTS)]
        assert read("turn", "custom_status", "waiting_for") == expected[::-1]

    @pytest.mark.parametrize("text", ODD_TEXTS)
    def test_all_rows_may_get_the_same_values(self, text: str | None, small: bool) -> None:
        keys = [factories.make_instance(f"flow-{number}", custom_status='"old"').pk for number in range(3)]
        status = InstanceStatus.RUNNING.value
        with pipeline.begin(USING, small=small) as cursor:
            update(cursor, ("custom_status", "status"), [(text, status, pk) for pk in keys])
        assert read("custom_status", "status") == [(text, status)] * 3

    def test_other_rows_stay_as_they_are(self, small: bool) -> None:
        keys = [factories.make_instance(f"flow-{number}", turn=1).pk for number in range(4)]
        with pipeline.begin(USING, small=small) as cursor:
            update(cursor, ("turn",), [(5, keys[2]), (6, keys[0])])
        assert read("turn") == [(6,), (2,), (5,), (2,)]

    def test_json_columns_get_json(self, small: bool) -> None:
        keys = [factories.make_instance(f"flow-{number}").pk for number in range(2)]
        with pipeline.begin(USING, small=small) as cursor:
            update(cursor, ("waiting_for",), [('["a \\" b"]', keys[0]), ('["c"]', keys[1])])
        assert read("waiting_for") == [(['a " b'],), (["c"],)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("copies", [1, 2, 10])  # One statement, arrays in a pipeline, and COPY.
def test_texts_are_inserted_as_they_are(copies: int, small: bool) -> None:
    owner = factories.make_instance().pk
    texts = ODD_TEXTS * copies
    with pipeline.begin(USING, small=small) as cursor:
        now = "2026-01-02 03:04:05+00:00" if connection.vendor == "postgresql" else "2026-01-02 03:04:05"
        fields = ("instance", "kind", "data", "visible_at", "held")
        rows.insert(cursor, Message, fields, [(owner, 1, text, now, False) for text in texts])
    assert list(Message.objects.order_by("pk").values_list("data", flat=True)) == texts


@pytest.mark.django_db
def test_a_condition_takes_any_text() -> None:
    # To MariaDB, texts that differ in case alone are one id.
    texts = [text for text in ODD_TEXTS if text and text != "null"]
    for text in texts:
        factories.make_instance(text)
    condition, parameters = rows.any_of(connection.vendor, "instance_id", texts)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SELECT instance_id FROM durable_django_instance WHERE {condition}", parameters)
        assert sorted(text for (text,) in cursor.fetchall()) == sorted(texts)


class Team(enum.StrEnum):
    BLUE = "blue, {or} not"


@pytest.mark.django_db
def test_texts_of_subclasses_are_texts() -> None:
    factories.make_instance(Team.BLUE.value)
    condition, parameters = rows.any_of(connection.vendor, "instance_id", [Team.BLUE, "green"])
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT instance_id FROM durable_django_instance WHERE {condition}", parameters)
        assert list(cursor.fetchall()) == [(Team.BLUE.value,)]
