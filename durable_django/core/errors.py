"""Exceptions, and the record of a failure that history keeps."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

_Class = TypeVar("_Class", bound=type[Any])

REPLACEMENT_CHARACTER = "\ufffd"
MAX_MESSAGE_LENGTH = 32_768
MAX_STACK_TRACE_LENGTH = 16_384

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_PACKAGE_DIRECTORY = f"{Path(__file__).parent.parent}{os.sep}"


def scrub(text: str) -> str:
    """Return ``text`` in a form that every database stores.

    NUL characters and lone surrogates become U+FFFD; everything else stays as it is.
    """
    if text.isascii() and "\x00" not in text:
        return text
    return _UNSTORABLE.sub(REPLACEMENT_CHARACTER, text)


def qualified_name(cls: type) -> str:
    """Return ``module.qualname`` of a class, with ``builtins.`` spelled out for builtin ones."""
    return f"{cls.__module__}.{cls.__qualname__}"


def public_in(facade: str) -> Callable[[_Class], _Class]:
    """Give a class the module that users import it from.

    A decorator rather than ``__module__`` in the class body, because `dataclass` looks the module up while it
    builds the class, when the façade may not be loaded.
    """

    def decorate(cls: _Class) -> _Class:
        cls.__module__ = facade
        return cls

    return decorate


@public_in("durable_django.task")
@dataclass(frozen=True, slots=True)
class FailureDetails:
    """What is known of a failure after the exception itself is gone.

    ``error_type`` is the exception's module-qualified name, such as ``builtins.ValueError``.
    """

    message: str
    error_type: str
    stack_trace: str | None = None

    @classmethod
    def from_exception(cls, exc: BaseException) -> Self:
        """Describe ``exc``; every text is bounded and safe to store, whatever the exception holds."""
        return cls(
            message=_clip(scrub(_message(exc)), MAX_MESSAGE_LENGTH),
            error_type=scrub(qualified_name(type(exc))),
            stack_trace=_stack_trace(exc),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the details that `to_dict` has written."""
        return cls(data["message"], data["type"], data.get("stack"))

    def to_dict(self) -> dict[str, str]:
        """Return the details as a JSON object."""
        data = {"type": self.error_type, "message": self.message}
        if self.stack_trace is not None:
            data["stack"] = self.stack_trace
        return data

    def is_caused_by(self, error_type: type[BaseException] | str) -> bool:
        """Tell whether the failure is an ``error_type``, or a subclass of it.

        A string may be a qualified or a bare class name. Subclasses are known only among the classes that are
        loaded in this process: nothing is imported to find out.

        Raises:
            TypeError: ``error_type`` is neither an exception class nor a string.
        """
        if isinstance(error_type, str):
            if _same_name(self.error_type, error_type):
                return True
            return any(
                _same_name(qualified_name(base), error_type)
                for failed in _exception_classes(BaseException)
                if qualified_name(failed) == self.error_type
                for base in failed.__mro__[1:]
            )
        cause: object = error_type  # whatever an untyped caller passes
        if not (isinstance(cause, type) and issubclass(cause, BaseException)):
            raise TypeError(f"is_caused_by() takes an exception class or its name, not {cause!r}")
        return any(_is_named(candidate, self.error_type) for candidate in _exception_classes(cause))


NO_DETAILS = FailureDetails("the failure left no details", "durable_django.task.TaskFailedError")


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as error:  # noqa: BLE001 - code of the user's, and the failure is recorded all the same
        return f"<no message: str() raised {type(error).__name__}>"


def _stack_trace(exc: BaseException) -> str | None:
    try:
        formatted = traceback.TracebackException.from_exception(exc, compact=True)
        _leave_out_engine(formatted)
        text = "".join(formatted.format())
    except Exception:  # noqa: BLE001 - attributes that raise break the formatter, and the failure is recorded
        return None
    return _clip(scrub(text), MAX_STACK_TRACE_LENGTH)


def _leave_out_engine(formatted: traceback.TracebackException) -> None:
    """Drop the frames between the engine's entry and the user's code, in chained exceptions too."""
    pending: list[traceback.TracebackException | None] = [formatted]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        frames = current.stack
        first = next((i for i, f in enumerate(frames) if not f.filename.startswith(_PACKAGE_DIRECTORY)), 0)
        del frames[:first]
        pending += [current.__cause__, current.__context__, *(current.exceptions or ())]


def _clip(text: str, limit: int) -> str:
    """Shorten a text from the middle: its start and its end tell most."""
    if len(text) <= limit:
        return text
    mark = f"\n... {len(text) - limit} characters left out ...\n"
    head = (limit - len(mark)) // 2
    return text[:head] + mark + text[len(text) - (limit - len(mark) - head) :]


def _exception_classes(root: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yield ``root`` and its subclasses that are loaded, each once."""
    pending, seen = [root], {root}
    while pending:
        cls = pending.pop()
        yield cls
        fresh = [subclass for subclass in cls.__subclasses__() if subclass not in seen]
        seen.update(fresh)
        pending += fresh


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def _is_named(cls: type, name: str) -> bool:
    # A bare name was recorded by something that knows no Python module, as the engine's "VersionMismatch".
    return name == (qualified_name(cls) if "." in name else cls.__name__)


def _same_name(left: str, right: str) -> bool:
    if not left or not right:
        return False
    if "." in left and "." in right:
        return left == right
    return _bare(left) == _bare(right)


@public_in("durable_django.task")
class DurableTaskError(Exception):
    """Base of every error that durable_django raises on its own account."""


@public_in("durable_django.task")
class TaskFailedError(DurableTaskError):
    """A task that an orchestrator waited for has failed; `details` describe the original error."""

    def __init__(self, message: str, details: FailureDetails | Exception) -> None:
        super().__init__(message)
        if isinstance(details, BaseException):
            details = FailureDetails.from_exception(details)
        self._details = details

    @property
    def details(self) -> FailureDetails:
        """The failure as the activity, sub-orchestration or entity reported it."""
        return self._details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self._details)


@public_in("durable_django.task")
class TaskCancelledError(DurableTaskError):
    """The result of a cancelled task was asked for."""


@public_in("durable_django.task")
class NonDeterminismError(DurableTaskError):
    """An orchestrator's code no longer does what its history says that it did."""


@public_in("durable_django.task")
class OrchestrationStateError(DurableTaskError):
    """An orchestration is not in a state that allows what was asked of it."""


@public_in("durable_django.client")
class OrchestrationNotFoundError(DurableTaskError):
    """No orchestration has the given instance id."""


@public_in("durable_django.client")
class OrchestrationAlreadyExistsError(DurableTaskError):
    """The instance id is taken, and the reuse policy does not allow to replace its holder."""


@public_in("durable_django.client")
class OrchestrationStateConflictError(DurableTaskError):
    """The instance's runtime status rules the operation out."""


@public_in("durable_django.client")
class OrchestrationFailedError(DurableTaskError):
    """An orchestration whose result was asked for has failed or was terminated."""

    def __init__(self, message: str, failure_details: FailureDetails) -> None:
        super().__init__(message)
        self._failure_details = failure_details

    @property
    def failure_details(self) -> FailureDetails:
        """Why the orchestration failed."""
        return self._failure_details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self._failure_details)


@public_in("durable_django.worker")
class OrchestratorNotRegisteredError(DurableTaskError, ValueError):
    """No orchestrator is registered under the name."""


@public_in("durable_django.worker")
class ActivityNotRegisteredError(DurableTaskError, ValueError):
    """No activity is registered under the name."""


@public_in("durable_django.worker")
class EntityNotRegisteredError(DurableTaskError, ValueError):
    """No entity is registered under the name."""


@public_in("durable_django.serialization")
class PayloadError(DurableTaskError, ValueError):
    """A payload cannot be stored: too large, or text that no database holds."""

    is_too_large = False
    """Whether it is longer than ``MAX_PAYLOAD_BYTES``."""
