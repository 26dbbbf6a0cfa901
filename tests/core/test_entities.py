"""Entities without a worker: their ids, their context, and one operation on one state."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from durable_django.core.entity import (
    DurableEntity,
    EntityContext,
    EntityInstanceId,
    EntityOperationFailedException,
    Signal,
    Start,
    perform,
)
from durable_django.core.errors import FailureDetails, PayloadError, TaskFailedError
from durable_django.core.registry import make_entity
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, PayloadCodec

COUNTER = EntityInstanceId("counter", "c")
OTHER = EntityInstanceId("other", "o")


def context(operation: str = "op", state: Any = None) -> EntityContext:
    return EntityContext("caller", operation, COUNTER, None if state is None else json.dumps(state))


def run(fn: Callable[..., Any], operation: str, input: Any = None, state: Any = None) -> tuple[Any, Any]:
    """Perform one operation, and return its result and the state that it leaves."""
    given = context(operation, state)
    result = perform(make_entity(fn), given, None if input is None else json.dumps(input))
    left = given._effects.state
    return result, None if left is None else json.loads(left)


class TestIds:
    def test_the_name_is_lowered_and_the_key_kept(self) -> None:
        entity_id = EntityInstanceId("Counter", "Ada Lovelace")
        assert (entity_id.entity, entity_id.key) == ("counter", "Ada Lovelace")
        assert str(entity_id) == "@counter@Ada Lovelace"
        assert EntityInstanceId.parse("@Counter@Ada Lovelace") == entity_id
        assert entity_id != EntityInstanceId("counter", "ada lovelace")

    @pytest.mark.parametrize(
        ("entity", "key"),
        [("", "k"), ("n", ""), ("n@m", "k"), ("n", "k@l"), ("n", "@"), ("n", "x" * 300), ("İ" * 200, "k")],
    )
    def test_what_is_no_id(self, entity: str, key: str) -> None:
        with pytest.raises(ValueError, match=r"entity|key"):
            EntityInstanceId(entity, key)

    def test_a_registered_name_fits_in_lower_case(self) -> None:
        with pytest.raises(ValueError, match="entity name has 400 characters"):
            make_entity(print, name="İ" * 200)

    @pytest.mark.parametrize(
        "text", ["", "counter", "counter@c", "@counter", "@counter@c@d", "@@c", "@c@", None, 5]
    )
    def test_what_cannot_be_parsed(self, text: Any) -> None:
        with pytest.raises(ValueError, match=r"entity|key"):
            EntityInstanceId.parse(text)

    def test_ids_are_ordered_and_hashable(self) -> None:
        ids = {EntityInstanceId(name, key) for name, key in ("ba", "ab", "aa", "Aa")}
        assert [str(entity_id) for entity_id in sorted(ids)] == ["@a@a", "@a@b", "@b@a"]


class TestState:
    def test_the_default_is_for_no_state(self) -> None:
        assert context().get_state() is None
        assert context().get_state(int, 7) == 7
        assert context(state=3).get_state(int, 7) == 3

    @pytest.mark.parametrize("falsy", [0, "", False, [], {}])
    def test_falsy_states_are_states(self, falsy: Any) -> None:
        given = context(state=5)
        given.set_state(falsy)
        assert given.get_state(None, "default") == falsy
        assert given._effects.state is not None

    def test_none_clears(self) -> None:
        given = context(state=5)
        given.set_state(None)
        assert given.get_state(int, 7) == 7
        assert given._effects.state is None

    def test_each_look_gives_a_fresh_copy(self) -> None:
        given = context(state={"items": []})
        given.get_state()["items"].append(1)
        assert given.get_state() == {"items": []}

    def test_what_is_set_is_serialised_at_once(self) -> None:
        given, items = context(), [1]
        given.set_state(items)
        items.append(2)
        assert given.get_state() == [1]

    def test_a_state_that_cannot_be_written_changes_nothing(self) -> None:
        given = context(state=5)
        with pytest.raises(TypeError):
            given.set_state(object())
        assert given.get_state() == 5

    def test_an_oversized_state_is_named(self) -> None:
        given = EntityContext("", "op", COUNTER, "5", PayloadCodec(DEFAULT_DATA_CONVERTER, 100))
        with pytest.raises(PayloadError, match="the state of entity @counter@c"):
            given.set_state("x" * 200)
        assert given.get_state() == 5

    def test_types(self) -> None:
        @dataclass
        class Cart:
            items: list[str]

        given = context()
        given.set_state(Cart(["a"]))
        assert given.get_state(Cart) == Cart(["a"])


class TestContext:
    def test_what_it_knows(self) -> None:
        given = context("add")
        assert (given.orchestration_id, given.operation, given.entity_id) == ("caller", "add", COUNTER)

    def test_signals_are_noted(self) -> None:
        given = context()
        noon = datetime(2026, 1, 1, 12)
        given.signal_entity(OTHER, "add", 1)
        given.signal_entity(OTHER, "add", signal_time=noon)
        given.signal_entity(OTHER, "add", signal_time=noon.replace(tzinfo=timezone(timedelta(hours=2))))
        given.signal_entity(OTHER, "add", signal_time=noon.replace(tzinfo=UTC))
        assert given._effects.signals == [
            Signal(OTHER, "add", "1", None),
            Signal(OTHER, "add", None, noon),
            Signal(OTHER, "add", None, noon - timedelta(hours=2)),
            Signal(OTHER, "add", None, noon),
        ]

    def test_bad_signals(self) -> None:
        with pytest.raises(TypeError, match="EntityInstanceId"):
            context().signal_entity("@other@o", "add")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="operation"):
            context().signal_entity(OTHER, "")
        with pytest.raises(TypeError):
            context().signal_entity(OTHER, "add", object())

    @pytest.mark.parametrize(
        "signal_time",
        [
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        ],
    )
    def test_a_signal_beyond_the_calendar(self, signal_time: datetime) -> None:
        with pytest.raises(ValueError, match=r"signal_time .* lies beyond the calendar"):
            context().signal_entity(OTHER, "add", signal_time=signal_time)

    def test_starts_are_noted(self) -> None:
        given = context()
        assert given.schedule_new_orchestration("flow", {"a": 1}, "id-1") == "id-1"
        made = given.schedule_new_orchestration("flow")
        assert given._effects.starts == [Start("flow", "id-1", '{"a": 1}'), Start("flow", made, None)]
        with pytest.raises(ValueError, match="@"):
            given.schedule_new_orchestration("flow", None, "@no@id")


def function(ctx: EntityContext, input: int) -> Any:
    if ctx.operation == "delete":
        ctx.set_state(None)
        return "gone"
    ctx.set_state(ctx.get_state(int, 0) + (input or 0))
    return ctx.get_state()


class TestFunctions:
    def test_it_handles_every_operation_itself(self) -> None:
        assert run(function, "add", 3, state=4) == (7, 7)
        assert run(function, "no such thing") == (0, 0)
        assert run(function, "delete", state=4) == ("gone", None)


class Base(DurableEntity):
    def shared(self) -> str:
        return "shared"

    def hidden(self) -> str:
        return "hidden"


class Box(Base):
    hidden = None  # type: ignore[assignment]
    limit = 5

    def __init__(self) -> None:
        self.set_state(100)
        self.fresh = True

    def get(self) -> Any:
        return self.get_state()

    def Put(self, value: Any) -> None:  # noqa: N802 - lookup cares for case
        assert self.fresh
        self.fresh = False
        self.set_state(value)

    def optional(self, value: Any = "default") -> Any:
        return value

    def forgetful(self) -> None:
        self.set_state(None)

    def unequal(self, *, loud: bool = False) -> bool:
        return loud

    def _private(self) -> None: ...

    @property
    def size(self) -> int:
        raise AssertionError

    @staticmethod
    def static() -> None: ...

    @classmethod
    def make(cls) -> None: ...


class TestClasses:
    def test_init_gives_the_first_state(self) -> None:
        assert run(Box, "get") == (100, 100)

    @pytest.mark.parametrize("state", [7, 0, "", []])
    def test_init_does_not_replace_a_state(self, state: Any) -> None:
        assert run(Box, "get", state=state) == (state, state)

    def test_each_operation_has_an_object_of_its_own(self) -> None:
        for value in (1, 2):
            assert run(Box, "Put", value) == (None, value)

    def test_none_clears_after_init(self) -> None:
        assert run(Box, "forgetful") == (None, None)
        assert run(Box, "delete", state=4) == (None, None)

    @pytest.mark.parametrize(
        "operation",
        [
            "put",
            "PUT",
            "_private",
            "__init__",
            "__class__",
            "get_state",
            "set_state",
            "signal_entity",
            "schedule_new_orchestration",
            "entity_context",
            "_initialize_entity_context",
            "hidden",
            "limit",
            "size",
            "static",
            "make",
            "fresh",
            "nothing",
            "",
        ],
    )
    def test_what_is_no_operation(self, operation: str) -> None:
        with pytest.raises(AttributeError, match=f"'Box' has no operation '{operation}'"):
            run(Box, operation)

    def test_methods_of_the_projects_own_bases_are_operations(self) -> None:
        assert run(Box, "shared")[0] == "shared"

    def test_a_class_may_delete_in_its_own_way(self) -> None:
        class Tomb(DurableEntity):
            def delete(self, input: Any = None) -> str:
                self.set_state("rip")
                return f"deleted {input}"

        assert run(Tomb, "delete", 1) == ("deleted 1", "rip")

    def test_delete_is_no_operation_of_a_plain_class(self) -> None:
        class Plain:
            def hello(self) -> str:
                return "hello"

        assert run(Plain, "hello")[0] == "hello"
        with pytest.raises(AttributeError, match="no operation 'delete'"):
            run(Plain, "delete")

    def test_the_input_is_passed_where_there_is_one_or_one_is_needed(self) -> None:
        assert run(Box, "optional")[0] == "default"
        assert run(Box, "optional", 0)[0] == 0
        assert run(Box, "Put") == (None, None)
        assert run(Box, "unequal")[0] is False
        with pytest.raises(TypeError):
            run(Box, "get", 5)

    def test_the_input_is_rebuilt_by_its_annotation(self) -> None:
        assert run(Typed, "price", {"amount": 3})[0] == 3


@dataclass
class Price:
    amount: int


class Typed(DurableEntity):
    def price(self, price: Price) -> int:
        assert isinstance(price, Price)
        return price.amount


def test_the_failure_that_a_caller_sees() -> None:
    details = FailureDetails("too little", "builtins.ValueError")
    error = EntityOperationFailedException(COUNTER, "withdraw", details)
    assert isinstance(error, TaskFailedError)
    assert str(error) == "Operation 'withdraw' on entity '@counter@c' failed with error: too little"
    assert (error.entity_instance_id, error.operation_name) == (COUNTER, "withdraw")
    assert error.details is error.failure_details is details
