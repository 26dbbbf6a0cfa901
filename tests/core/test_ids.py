from __future__ import annotations

import uuid
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_django.core.ids import (
    MAX_ID_LENGTH,
    check_instance_id,
    check_name,
    child_instance_id,
    deterministic_uuid,
    new_execution_id,
    new_instance_id,
)

NOW = datetime(2026, 1, 1)


def test_new_ids_are_uuid4_in_hex() -> None:
    for new_id in (new_instance_id(), new_execution_id()):
        assert uuid.UUID(new_id).version == 4
        assert new_id == uuid.UUID(new_id).hex
    assert new_instance_id() != new_instance_id()


def test_a_child_is_called_after_its_parent_and_number() -> None:
    assert child_instance_id("order-7", 1) == "order-7:0001"
    assert child_instance_id("order-7", 0x12345) == "order-7:12345"
    assert child_instance_id("p" * 250, 1) == "p" * 250 + ":0001"


def test_a_child_of_a_long_parent_gets_a_shortened_id_that_stays_its_own() -> None:
    parent = "p" * 251
    child = child_instance_id(parent, 1)

    assert len(child) == MAX_ID_LENGTH
    assert child.startswith("p" * 200)
    assert child.endswith(":0001")
    assert child == child_instance_id(parent, 1)
    others = {child_instance_id(parent, 2), child_instance_id(parent[:-1] + "q", 1)}
    assert len({child, *others}) == 3


@given(
    parent=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255),
    task_id=st.integers(1, 10**7),
)
def test_descendants_always_have_valid_ids(parent: str, task_id: int) -> None:
    if not parent.startswith("@"):
        for _ in range(20):
            parent = check_instance_id(child_instance_id(parent, task_id))


def test_a_deterministic_uuid_depends_on_instance_time_and_counter() -> None:
    made = deterministic_uuid("a", NOW, 1)

    assert made == deterministic_uuid("a", NOW, 1) == "a3e77f6f-2ef1-5342-bfc8-ca6bc304a378"
    assert uuid.UUID(made).version == 5
    others = {
        deterministic_uuid("b", NOW, 1),
        deterministic_uuid("a", NOW.replace(microsecond=1), 1),
        deterministic_uuid("a", NOW, 2),
    }
    assert len({made, *others}) == 4


@pytest.mark.parametrize("instance_id", ["a", "order 7/2026", "é" * 255, "a@b", "日本"])
def test_instance_ids_that_are_fine(instance_id: str) -> None:
    assert check_instance_id(instance_id) == instance_id


@pytest.mark.parametrize(
    ("instance_id", "fix"),
    [
        ("", "at least one character"),
        ("x" * 256, "256 characters.* Shorten"),
        ("@counter@1", "another first character"),
        ("a\x00b", r"U\+0000 at position 1.* Remove"),
        ("a\nb", r"U\+000A"),
        ("a\x85", r"U\+0085"),
        ("\ud800", r"U\+D800"),
        (7, r"not int.* str\(\)"),
        (None, "not NoneType"),
        (b"a", "not bytes"),
    ],
)
def test_a_bad_instance_id_is_refused_with_the_fix(instance_id: object, fix: str) -> None:
    with pytest.raises(ValueError, match=f"^instance_id .*{fix}") as caught:
        check_instance_id(instance_id)
    str(caught.value).encode()  # The message itself can be logged and stored.


def test_names_are_checked_too() -> None:
    assert check_name("activity", "charge card") == "charge card"
    with pytest.raises(ValueError, match=r"^activity name must not be empty"):
        check_name("activity", "")
    with pytest.raises(ValueError, match=r"^queue name has 256 characters"):
        check_name("queue", "q" * 256)
    with pytest.raises(ValueError, match=r"^orchestrator name contains U\+0000"):
        check_name("orchestrator", "a\x00")
