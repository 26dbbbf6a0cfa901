"""Failure records, and the errors that carry them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_django.core import errors
from durable_django.core.errors import (
    FailureDetails,
    OrchestrationFailedError,
    TaskFailedError,
    scrub,
)


class OutOfStockError(LookupError):
    class InnerError(ValueError):
        pass


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # the line in the stack trace
    except BaseException as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("plain", "plain"),
        ("grüße 😀", "grüße 😀"),
        ("a\x00b", "a\ufffdb"),
        ("\ud800x\udfff", "\ufffdx\ufffd"),
    ],
)
def test_scrub(text: str, stored: str) -> None:
    assert scrub(text) == stored


@given(st.text(st.characters(codec=None, categories=None)))
def test_scrubbed_text_can_be_encoded_and_keeps_its_length(text: str) -> None:
    scrubbed = scrub(text)
    assert "\x00" not in scrubbed
    assert len(scrubbed.encode().decode()) == len(text)
    assert scrub(scrubbed) == scrubbed


def test_details_of_an_exception() -> None:
    details = FailureDetails.from_exception(raised(ValueError("no good")))

    assert details.message == "no good"
    assert details.error_type == "builtins.ValueError"
    assert details.stack_trace is not None
    assert "raise error  # the line in the stack trace" in details.stack_trace
    assert details.stack_trace.endswith("ValueError: no good\n")


def test_details_name_the_module_and_the_enclosing_class() -> None:
    details = FailureDetails.from_exception(OutOfStockError.InnerError())
    assert details.error_type == f"{__name__}.OutOfStockError.InnerError"


def test_details_are_always_storable() -> None:
    details = FailureDetails.from_exception(raised(ValueError("a\x00b\ud800c")))
    assert details.message == "a\ufffdb\ufffdc"
    assert details.stack_trace is not None
    assert scrub(details.stack_trace) == details.stack_trace


def test_details_survive_an_exception_that_cannot_be_printed() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    details = FailureDetails.from_exception(raised(SilentError()))
    assert "RuntimeError" in details.message
    assert "SilentError" in details.error_type


def test_texts_of_details_are_bounded() -> None:
    details = FailureDetails.from_exception(raised(ValueError("start" + "x" * 100_000 + "end")))
    assert details.stack_trace is not None
    for text, limit in (
        (details.message, errors.MAX_MESSAGE_LENGTH),
        (details.stack_trace, errors.MAX_STACK_TRACE_LENGTH),
    ):
        assert len(text) <= limit
        assert "characters left out" in text
        assert text.rstrip().endswith("end")


def test_a_deep_recursion_has_a_short_trace() -> None:
    def endless() -> None:
        endless()

    with pytest.raises(RecursionError) as caught:
        endless()
    details = FailureDetails.from_exception(caught.value)
    assert details.is_caused_by(RecursionError)
    assert details.stack_trace is not None
    assert "endless()" in details.stack_trace


def test_the_trace_begins_at_the_users_code_in_causes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(source: str, filename: str) -> Any:
        names: dict[str, Any] = {}
        exec(compile(source, filename, "exec"), names)
        return names["run"]

    engine = compiled("def run(fn):\n    return fn()\n", "/engine/worker.py")
    user = compiled("def run():\n    raise KeyError('x')\n", "/app/workflows.py")
    library = compiled("def run(fn):\n    return fn()\n", "/engine/context.py")
    monkeypatch.setattr(errors, "_PACKAGE_DIRECTORY", "/engine/")

    def both() -> None:
        try:
            engine(lambda: library(user))
        except KeyError as error:
            raise ValueError("wrapped") from error

    with pytest.raises(ValueError, match="wrapped") as caught:
        engine(both)
    trace = FailureDetails.from_exception(caught.value.with_traceback(caught.tb.tb_next)).stack_trace
    assert trace is not None
    assert trace.count("/app/workflows.py") == 1
    assert "/engine/worker.py" not in trace.split("direct cause")[1]
    assert "/engine/context.py" in trace  # below the user's frame, so part of the story


def test_a_trace_within_the_engine_is_kept() -> None:
    with pytest.raises(TypeError) as caught:
        FailureDetails("m", "t").is_caused_by(3)  # type: ignore[arg-type]
    trace = FailureDetails.from_exception(caught.value.with_traceback(caught.tb.tb_next)).stack_trace
    assert trace is not None
    assert "in is_caused_by" in trace


@pytest.mark.parametrize(
    "details",
    [FailureDetails("m", "builtins.ValueError", "trace"), FailureDetails("m", "VersionMismatch", None)],
)
def test_details_round_trip(details: FailureDetails) -> None:
    assert FailureDetails.from_dict(details.to_dict()) == details
    assert copy.deepcopy(details) == details


def test_details_are_frozen() -> None:
    with pytest.raises(AttributeError):
        FailureDetails("m", "t", None).message = "other"  # type: ignore[misc]


LOCAL = f"{__name__}.OutOfStockError"


@pytest.mark.parametrize(
    ("error_type", "cause", "expected"),
    [
        ("builtins.ValueError", ValueError, True),
        ("builtins.ValueError", Exception, True),
        ("builtins.ValueError", KeyError, False),
        ("builtins.ValueError", UnicodeError, False),
        (LOCAL, OutOfStockError, True),
        (LOCAL, LookupError, True),
        (LOCAL, IndexError, False),
        (LOCAL, "OutOfStockError", True),
        (LOCAL, LOCAL, True),
        (LOCAL, "other.OutOfStockError", False),
        (LOCAL, "LookupError", True),
        (LOCAL, "builtins.LookupError", True),
        (LOCAL, "builtins.KeyError", False),
        (LOCAL, "", False),
        ("not.loaded.Error", "Error", True),
        ("not.loaded.Error", Exception, False),
        ("VersionMismatch", "VersionMismatch", True),
        ("VersionMismatch", ValueError, False),
        ("ValueError", ValueError, True),
        ("", ValueError, False),
        ("", "", False),
    ],
)
def test_is_caused_by(error_type: str, cause: Any, expected: bool) -> None:
    assert FailureDetails("m", error_type, None).is_caused_by(cause) is expected


@pytest.mark.parametrize("cause", [3, None, int, ValueError("instance"), ["ValueError"]])
def test_is_caused_by_refuses_what_is_no_exception_class(cause: Any) -> None:
    with pytest.raises(TypeError, match="exception class"):
        FailureDetails("m", "builtins.ValueError", None).is_caused_by(cause)


def test_task_failed_error_carries_details() -> None:
    details = FailureDetails("m", "builtins.ValueError", None)
    error = TaskFailedError("Activity task #1 failed: m", details)
    assert error.details is details
    assert str(error) == "Activity task #1 failed: m"
    assert TaskFailedError("x", ValueError("m")).details.error_type == "builtins.ValueError"


def test_errors_with_details_survive_copying() -> None:
    details = FailureDetails("m", "builtins.ValueError", "trace")
    task = copy.copy(TaskFailedError("x", details))
    assert (str(task), task.details) == ("x", details)
    orchestration = copy.copy(OrchestrationFailedError("y", details))
    assert (str(orchestration), orchestration.failure_details) == ("y", details)


def test_task_failed_error_pickles() -> None:
    pytest.importorskip("durable_django.task")
    details = FailureDetails("m", "builtins.ValueError", "trace")
    error = pickle.loads(pickle.dumps(TaskFailedError("x", details)))
    assert (str(error), error.details) == ("x", details)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("FailureDetails", "task"),
        ("DurableTaskError", "task"),
        ("TaskFailedError", "task"),
        ("TaskCancelledError", "task"),
        ("NonDeterminismError", "task"),
        ("OrchestrationStateError", "task"),
        ("OrchestrationNotFoundError", "client"),
        ("OrchestrationAlreadyExistsError", "client"),
        ("OrchestrationStateConflictError", "client"),
        ("OrchestrationFailedError", "client"),
        ("OrchestratorNotRegisteredError", "worker"),
        ("ActivityNotRegisteredError", "worker"),
        ("EntityNotRegisteredError", "worker"),
        ("PayloadError", "serialization"),
    ],
)
def test_public_errors_name_their_facade(name: str, module: str) -> None:
    cls = getattr(errors, name)
    assert cls.__module__ == f"durable_django.{module}"
    if name != "FailureDetails":
        assert issubclass(cls, errors.DurableTaskError)


@pytest.mark.parametrize("cls", [errors.OrchestratorNotRegisteredError, errors.PayloadError])
def test_errors_of_bad_arguments_are_value_errors(cls: type[Exception]) -> None:
    assert issubclass(cls, ValueError)
