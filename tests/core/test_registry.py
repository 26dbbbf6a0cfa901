from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from durable_django.core import registry as registries
from durable_django.core.decorators import activity, entity, orchestrator
from durable_django.core.errors import (
    ActivityNotRegisteredError,
    EntityNotRegisteredError,
    OrchestratorNotRegisteredError,
)
from durable_django.core.registry import (
    ActivityRegistration,
    EntityRegistration,
    Fault,
    OrchestratorRegistration,
    RegistrationError,
    Registry,
    get_entity_name,
    get_name,
    registration_of,
)
from durable_django.core.retry import RetryPolicy

RETRY = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def app_registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """What the decorators fill when they are told nothing else."""
    fresh = Registry()
    monkeypatch.setattr(registries, "default_registry", fresh)
    return fresh


def greet(ctx: Any, name: str) -> str:
    return f"Hello {name}"


async def fetch(ctx: Any, url: str) -> str:
    return url


def flow(ctx: Any, _: Any) -> Iterator[Any]:
    yield ctx.call_activity(greet)


def numbers(ctx: Any, _: Any) -> Iterator[int]:
    yield 1


async def stream(ctx: Any, _: Any) -> AsyncIterator[int]:
    yield 1


class Counter:
    pass


class TestRegistry:
    def test_it_finds_what_was_added(self, registry: Registry) -> None:
        assert registry.add_orchestrator(flow, queue="slow", priority=2) == "flow"
        assert registry.add_activity(greet, name="hello", retry_policy=RETRY) == "hello"
        assert registry.add_entity(Counter) == "counter"

        assert registry.orchestrator("flow") == OrchestratorRegistration("flow", flow, "slow", 2)
        assert registry.activity("hello") == ActivityRegistration("hello", greet, retry_policy=RETRY)
        assert registry.entity("Counter") == EntityRegistration("counter", Counter)

    def test_it_says_what_is_missing(self, registry: Registry) -> None:
        registry.add_activity(greet)

        with pytest.raises(OrchestratorNotRegisteredError, match=r"No orchestrator .* 'flow'"):
            registry.orchestrator("flow")
        with pytest.raises(ActivityNotRegisteredError, match=r"'great'\. Did you mean 'greet'\?"):
            registry.activity("great")
        with pytest.raises(EntityNotRegisteredError, match="'counter'"):
            registry.entity("counter")

    def test_each_kind_has_its_own_names(self, registry: Registry) -> None:
        registry.add_orchestrator(greet)
        registry.add_activity(greet)
        registry.add_entity(greet)

        assert len(registry.orchestrators) + len(registry.activities) + len(registry.entities) == 3

    def test_a_name_is_taken_once(self, registry: Registry) -> None:
        registry.add_activity(greet)

        with pytest.raises(ValueError, match=r"The activity name 'greet' is taken by .*greet") as caught:
            registry.add_activity(greet)
        assert isinstance(caught.value, RegistrationError)
        assert caught.value.fault is Fault.DUPLICATE_NAME
        registry.add_entity(Counter)
        with pytest.raises(ValueError, match="entity name 'counter' is taken"):
            registry.add_entity(greet, name="COUNTER")

    @pytest.mark.parametrize("method", ["add_orchestrator", "add_activity", "add_entity"])
    def test_a_lambda_needs_a_name(self, registry: Registry, method: str) -> None:
        nameless = lambda ctx, _: None  # noqa: E731

        with pytest.raises(ValueError, match=r"A lambda has no name: .*test_registry"):
            getattr(registry, method)(nameless)
        assert getattr(registry, method)(nameless, name="named") == "named"

    def test_functions_that_cannot_work_are_refused(self, registry: Registry) -> None:
        with pytest.raises(ValueError, match=r"Activity .*numbers.* is a generator function"):
            registry.add_activity(numbers)
        with pytest.raises(ValueError, match=r"Activity .*stream.* is a generator function"):
            registry.add_activity(stream)
        with pytest.raises(ValueError, match=r"Entity .*numbers.* is a generator function"):
            registry.add_entity(numbers)
        with pytest.raises(ValueError, match=r"Orchestrator .*stream.* is an async generator"):
            registry.add_orchestrator(stream)
        assert not registry.activities

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"name": ""}, ValueError, "activity name must not be empty"),
            ({"name": "x" * 256}, ValueError, "activity name has 256"),
            ({"queue": ""}, ValueError, "queue name"),
            ({"priority": "high"}, TypeError, "priority"),
            ({"priority": 40_000}, ValueError, "priority must be between"),
            ({"retry_policy": 3}, TypeError, "retry_policy"),
            ({"local": 1}, TypeError, "local must be True or False, not 1"),
            ({"local": True, "queue": "mail"}, ValueError, r"greet .* has queue=, and local=True"),
            ({"local": True, "priority": 2}, ValueError, r"greet .* has priority=, and local=True"),
        ],
    )
    def test_a_bad_option_is_refused_by_name(
        self, registry: Registry, options: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            registry.add_activity(greet, **options)

    def test_what_is_no_function_is_refused(self, registry: Registry) -> None:
        with pytest.raises(TypeError, match="An activity must be callable, not str"):
            registry.add_activity("greet")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="has no __name__"):
            registry.add_activity(functools.partial(greet, None))
        with pytest.raises(ValueError, match="must not contain '@'"):
            registry.add_entity(greet, name="a@b")

    def test_it_knows_coroutine_functions(self, registry: Registry) -> None:
        class Fetcher:
            async def __call__(self, ctx: Any, url: str) -> str:
                return url

        registry.add_activity(greet)
        registry.add_activity(fetch)
        registry.add_activity(Fetcher(), name="fetcher")
        registry.add_activity(functools.partial(fetch), name="partial")

        assert {name for name, made in registry.activities.items() if made.is_async} == {
            "fetch",
            "fetcher",
            "partial",
        }

    def test_its_mappings_are_snapshots(self, registry: Registry) -> None:
        before = registry.activities
        registry.add_activity(greet)

        assert not before
        with pytest.raises(TypeError):
            registry.activities["x"] = registry.activity("greet")  # type: ignore[index]

    def test_threads_lose_nothing(self, registry: Registry) -> None:
        def add(prefix: int) -> None:
            for number in range(100):
                registry.add_activity(greet, name=f"{prefix}-{number}")

        threads = [Thread(target=add, args=(prefix,)) for prefix in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(registry.activities) == 400


class TestNames:
    def test_a_function_goes_by_its_own_name(self) -> None:
        assert get_name(greet) == "greet"
        assert get_entity_name(Counter) == "counter"

    def test_a_declared_name_wins(self, registry: Registry) -> None:
        @activity(name="mail.send", registry=registry)
        def send(ctx: Any, _: Any) -> None: ...

        @functools.wraps(send)
        def wrapped(ctx: Any, _: Any) -> None: ...

        assert get_name(send) == get_name(wrapped) == "mail.send"

    def test_a_subclass_of_an_entity_is_another_entity(self, registry: Registry) -> None:
        @entity(name="base", registry=registry)
        class Base: ...

        class Derived(Base): ...

        assert get_entity_name(Base) == "base"
        assert get_entity_name(Derived) == "derived"
        assert registration_of(Derived) is None

    def test_a_lambda_has_none(self) -> None:
        with pytest.raises(ValueError, match="lambda"):
            get_name(lambda: None)
        with pytest.raises(ValueError, match="lambda"):
            get_entity_name(lambda: None)


class TestDecorators:
    def test_they_return_the_function_itself(self, app_registry: Registry) -> None:
        def plain(ctx: Any, name: str) -> str:
            return name

        assert activity(plain) is plain
        assert orchestrator(name="flow")(plain) is plain
        assert entity(plain) is plain
        assert plain(None, "x") == "x"
        assert {*app_registry.activities, *app_registry.orchestrators, *app_registry.entities} == {
            "plain",
            "flow",
        }

    def test_options_ride_on_the_function(self, app_registry: Registry) -> None:
        @activity(name="hi", queue="mail", priority=5, retry_policy=RETRY)
        async def hello(ctx: Any, _: Any) -> None: ...

        expected = ActivityRegistration("hi", hello, "mail", 5, RETRY, is_async=True)
        assert registration_of(hello) == app_registry.activity("hi") == expected

    def test_a_worker_takes_the_options_over(self, app_registry: Registry, registry: Registry) -> None:
        @activity(name="hi", queue="mail", priority=5, retry_policy=RETRY)
        def hello(ctx: Any, _: Any) -> None: ...

        assert registry.add_activity(hello, priority=1) == "hi"
        assert registry.activity("hi") == ActivityRegistration("hi", hello, "mail", 1, RETRY)

    def test_a_worker_takes_over_what_is_local(self, app_registry: Registry, registry: Registry) -> None:
        @activity(local=True, retry_policy=RETRY)
        def hello(ctx: Any, _: Any) -> None: ...

        registry.add_activity(hello)
        expected = ActivityRegistration("hello", hello, retry_policy=RETRY, local=True)
        assert registry.activity("hello") == app_registry.activity("hello") == expected
        registry.add_activity(hello, name="elsewhere", local=False, queue="mail")
        assert registry.activity("elsewhere") == ActivityRegistration("elsewhere", hello, "mail", 0, RETRY)

    def test_a_local_activity_that_is_async_is_refused_at_once(self, app_registry: Registry) -> None:
        async def hello(ctx: Any, _: Any) -> None: ...

        with pytest.raises(TypeError, match=r"hello .* is async def, and local=True: .* Write it with def"):
            activity(local=True)(hello)
        assert not app_registry.activities

    def test_a_positional_name_is_refused(self) -> None:
        with pytest.raises(TypeError, match="callable, not str"):
            activity("hello")  # type: ignore[call-overload]

    def test_what_cannot_carry_its_options_is_refused(self, registry: Registry) -> None:
        with pytest.raises(TypeError, match="cannot be decorated"):
            activity(registry=registry)(len)

    def test_problems_wait_for_the_system_checks(self, app_registry: Registry) -> None:
        activity(greet)
        activity(name="greet")(fetch)
        activity(numbers)
        orchestrator(stream)
        activity(lambda ctx, _: None)

        assert [problem.fault for problem in app_registry.problems] == [
            Fault.DUPLICATE_NAME,
            Fault.GENERATOR,
            Fault.ASYNC_GENERATOR,
            Fault.LAMBDA,
        ]
        assert app_registry.activity("greet").fn is greet
        assert len(app_registry.activities) == 1

    @pytest.fixture(autouse=True)
    def _undecorated(self) -> Iterator[None]:
        yield
        for fn in (greet, fetch, numbers, stream):
            vars(fn).pop("__durable__", None)

    def test_a_local_function_that_is_made_again_replaces_the_former(self, registry: Registry) -> None:
        def make() -> Callable[..., Any]:
            @activity(registry=registry)
            def inner(ctx: Any, _: Any) -> None: ...

            return inner

        make()
        latest = make()

        assert registry.activity("inner").fn is latest
        assert not registry.problems


class TestReload:
    @pytest.fixture
    def write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

        def write(body: str) -> None:
            header = "from durable_django.core.decorators import activity\n"
            (tmp_path / "reloaded_workflows.py").write_text(header + body)
            importlib.invalidate_caches()

        yield write
        sys.modules.pop("reloaded_workflows", None)

    def test_a_reload_replaces(self, write: Callable[[str], None], app_registry: Registry) -> None:
        write("@activity\ndef work(ctx, _): return 1\n")
        module = importlib.import_module("reloaded_workflows")
        write("\n\n@activity(queue='new')\ndef work(ctx, _): return 2\n")
        importlib.reload(module)

        assert app_registry.activity("work").fn is module.work
        assert app_registry.activity("work").queue == "new"
        assert not app_registry.problems

    def test_a_second_import_replaces(self, write: Callable[[str], None], app_registry: Registry) -> None:
        write("@activity\ndef work(ctx, _): return 1\n")
        importlib.import_module("reloaded_workflows")
        del sys.modules["reloaded_workflows"]
        module = importlib.import_module("reloaded_workflows")

        assert app_registry.activity("work").fn is module.work

    def test_two_of_one_name_in_a_module_do_not(
        self, write: Callable[[str], None], app_registry: Registry
    ) -> None:
        write("@activity\ndef work(ctx, _): return 1\n@activity\ndef work(ctx, _): return 2\n")
        module = importlib.import_module("reloaded_workflows")

        assert [problem.fault for problem in app_registry.problems] == [Fault.DUPLICATE_NAME]
        write("@activity\ndef work(ctx, _): return 1\n")
        importlib.reload(module)
        assert not app_registry.problems

    def test_a_worker_refuses_the_reloaded_function_too(
        self, write: Callable[[str], None], app_registry: Registry, registry: Registry
    ) -> None:
        write("@activity\ndef work(ctx, _): return 1\n")
        module = importlib.import_module("reloaded_workflows")
        registry.add_activity(module.work)
        importlib.reload(module)

        with pytest.raises(ValueError, match="'work' is taken"):
            registry.add_activity(module.work)
