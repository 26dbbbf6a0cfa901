"""Text that the database cannot hold: refused in payloads, scrubbed in failures, never a stuck instance."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from durable_django import task
from durable_django.core.errors import PayloadError
from durable_django.core.serialization import JsonDataConverter, PayloadCodec
from durable_django.models import Message
from tests.worker.byhand import HandWorker, assert_sound, assert_tables_are_empty, client, failure, output

pytestmark = pytest.mark.django_db(transaction=True)

Steps = Generator[task.Task[Any], Any, Any]

BAD = ["a\x00b", "a\ud800b", "\udfff"]


class Verbatim(JsonDataConverter):
    """A converter that writes text as it is, where JSON would escape it."""

    def serialize(self, value: Any) -> str | None:
        return value if isinstance(value, str) else super().serialize(value)


def raw(worker: HandWorker) -> HandWorker:
    codec = PayloadCodec(Verbatim())
    object.__setattr__(worker.processor.options, "codec", codec)
    worker.runner._codec = codec
    return worker


def activity_raising(text: str) -> Callable[..., Any]:
    def act(ctx: task.ActivityContext, _: Any) -> None:
        raise ValueError(text)

    return act


def activity_returning(text: str) -> Callable[..., Any]:
    def act(ctx: task.ActivityContext, _: Any) -> str:
        return text

    return act


def call(ctx: task.OrchestrationContext, _: Any) -> Steps:
    return (yield ctx.call_activity("act"))


def tell(ctx: task.OrchestrationContext, _: Any) -> Steps:
    try:
        return (yield ctx.call_activity("act"))
    except task.TaskFailedError as error:
        return str(error)


@pytest.mark.parametrize("text", BAD)
def test_in_the_message_of_an_activitys_failure(text: str) -> None:
    worker = HandWorker(call, activities=[activity_raising(text)])
    client().schedule_new_orchestration(call, instance_id="flow")
    worker.settle()
    assert "Activity task #1 failed: " in failure("flow")["message"]
    assert_sound("flow")
    assert_tables_are_empty()


@pytest.mark.parametrize("text", BAD)
def test_in_the_message_of_an_orchestrators_failure(text: str) -> None:
    def flow(ctx: task.OrchestrationContext, _: Any) -> None:
        raise ValueError(text)

    worker = HandWorker(flow)
    client().schedule_new_orchestration(flow, instance_id="flow")
    worker.settle()
    assert failure("flow")["type"] == "builtins.ValueError"
    assert_sound("flow")


@pytest.mark.parametrize("text", BAD)
def test_in_an_activitys_result(text: str) -> None:
    """JSON escapes it, and it arrives as it was; or else it is a task failure that says so."""
    worker = HandWorker(tell, activities=[activity_returning(text)])
    client().schedule_new_orchestration(tell, instance_id="flow")
    worker.settle()
    assert output("flow") == text or "NUL" in output("flow")
    assert_sound("flow")


@pytest.mark.parametrize("text", BAD)
def test_in_an_activitys_result_as_a_converter_writes_it(text: str) -> None:
    worker = raw(HandWorker(call, activities=[activity_returning(text)]))
    client().schedule_new_orchestration(call, instance_id="flow")
    worker.settle()
    assert "a NUL character or a lone surrogate" in failure("flow")["message"]
    assert_sound("flow")
    assert_tables_are_empty()


@pytest.mark.parametrize("text", BAD)
def test_in_what_an_orchestrator_writes(text: str) -> None:
    def returns(ctx: task.OrchestrationContext, _: Any) -> str:
        return text

    def schedules(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity("act", input=text)

    def starts(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_sub_orchestrator("returns", input=text)

    def sends(ctx: task.OrchestrationContext, _: Any) -> None:
        ctx.send_event("returns", "go", data=text)

    def shows(ctx: task.OrchestrationContext, _: Any) -> None:
        ctx.set_custom_status(text)

    def restarts(ctx: task.OrchestrationContext, _: Any) -> None:
        ctx.continue_as_new(text)

    flows = [returns, schedules, starts, sends, shows, restarts]
    worker = raw(HandWorker(*flows, activities=[activity_returning("x")]))
    for flow in flows:
        client().schedule_new_orchestration(flow, instance_id=flow.__name__)
    worker.settle()
    for flow in flows:
        assert "a NUL character or a lone surrogate" in failure(flow.__name__)["message"]
        assert_sound(flow.__name__)


@pytest.mark.parametrize("text", BAD)
def test_in_names_that_an_orchestrator_gives(text: str) -> None:
    """Names are no payloads: nothing escapes them."""

    def schedules(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_activity(text)

    def starts(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_sub_orchestrator(text)

    def starts_one(ctx: task.OrchestrationContext, _: Any) -> Steps:
        yield ctx.call_sub_orchestrator("starts", instance_id=text)

    def sends(ctx: task.OrchestrationContext, _: Any) -> None:
        ctx.send_event("nobody", text)

    def sends_to(ctx: task.OrchestrationContext, _: Any) -> None:
        ctx.send_event(text, "go")

    flows = [schedules, starts, starts_one, sends, sends_to]
    worker = HandWorker(*flows)
    for flow in flows:
        client().schedule_new_orchestration(flow, instance_id=flow.__name__)
    for _ in range(4):
        worker.settle()
    for flow in flows:
        assert "Given up" not in failure(flow.__name__)["message"], flow.__name__
        assert_sound(flow.__name__)


@pytest.mark.parametrize("text", BAD)
def test_in_an_events_data(text: str) -> None:
    def wait(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.wait_for_external_event("go"))

    worker = HandWorker(wait)
    client().schedule_new_orchestration(wait, instance_id="flow")
    worker.settle()
    try:
        client().raise_orchestration_event("flow", "go", data=text)
    except PayloadError:
        assert not Message.objects.exists()
        client().raise_orchestration_event("flow", "go", data=text.encode("utf-8", "replace").hex())
        text = text.encode("utf-8", "replace").hex()
    worker.settle()
    assert output("flow") == text
    assert_sound("flow")
