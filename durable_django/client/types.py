"""What clients take and return."""

# Annotations are real objects here, not lazy text: these classes call another module their own, and
# `typing.get_type_hints` would look the names up there.

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from django.db.models import Model

from durable_django.core.errors import FailureDetails, OrchestrationFailedError
from durable_django.core.serialization import DEFAULT_DATA_CONVERTER, DataConverter
from durable_django.core.status import OrchestrationStatus

T = TypeVar("T")

DEFAULT_STATES_PAGE_SIZE = 1000


@dataclass(frozen=True)
class OrchestrationState:
    """An orchestration instance as it was when it was read.

    Times are naive UTC. The ``serialized_*`` payloads are text as stored, None where there is none; input and
    output are None too where they were not fetched.
    """

    instance_id: str
    name: str
    runtime_status: OrchestrationStatus
    created_at: datetime
    last_updated_at: datetime
    serialized_input: str | None = None
    serialized_output: str | None = None
    serialized_custom_status: str | None = None
    failure_details: FailureDetails | None = None
    _converter: DataConverter = field(default=DEFAULT_DATA_CONVERTER, repr=False, compare=False)

    @overload
    def get_input(self, expected_type: type[T]) -> T | None: ...
    @overload
    def get_input(self, expected_type: None = None) -> Any: ...
    def get_input(self, expected_type: Any = None) -> Any:
        """Return the input, as ``expected_type`` where it fits."""
        return self._converter.deserialize(self.serialized_input, expected_type)

    @overload
    def get_output(self, expected_type: type[T]) -> T | None: ...
    @overload
    def get_output(self, expected_type: None = None) -> Any: ...
    def get_output(self, expected_type: Any = None) -> Any:
        """Return the output, as ``expected_type`` where it fits."""
        return self._converter.deserialize(self.serialized_output, expected_type)

    @overload
    def get_custom_status(self, expected_type: type[T]) -> T | None: ...
    @overload
    def get_custom_status(self, expected_type: None = None) -> Any: ...
    def get_custom_status(self, expected_type: Any = None) -> Any:
        """Return the custom status, as ``expected_type`` where it fits."""
        return self._converter.deserialize(self.serialized_custom_status, expected_type)

    def raise_if_failed(self) -> None:
        """Do nothing unless the orchestration has failed.

        Raises:
            OrchestrationFailedError: It has; the error has the details.
        """
        if self.failure_details is not None:
            raise OrchestrationFailedError(
                f"Orchestration {self.instance_id!r} failed: {self.failure_details.message}",
                self.failure_details,
            )


@dataclass
class OrchestrationQuery:
    """Which instances to return, oldest first: those created in ``[created_time_from, created_time_to)``.

    Naive times are UTC. ``runtime_status`` None or empty is any. ``max_instance_count`` is how many are read
    at a time, not how many are returned. Inputs and outputs stay None without ``fetch_inputs_and_outputs``.
    ``subject`` is the object that they were started with, such as an order; None is any, or none.
    """

    created_time_from: datetime | None = None
    created_time_to: datetime | None = None
    runtime_status: list[OrchestrationStatus] | None = None
    max_instance_count: int | None = None
    fetch_inputs_and_outputs: bool = False
    subject: Model | None = None


@dataclass
class EntityQuery:
    """Which entities to return: those modified in ``[last_modified_from, last_modified_to)``.

    ``instance_id_starts_with`` is the beginning of a name, or a name and the beginning of a key in the form
    ``@name@key``. Naive times are UTC. Entities without state and lock, which an operation has left behind,
    come only with ``include_transient``. ``page_size`` is how many are read at a time.
    """

    instance_id_starts_with: str | None = None
    last_modified_from: datetime | None = None
    last_modified_to: datetime | None = None
    include_state: bool = True
    include_transient: bool = False
    page_size: int | None = None


@dataclass(frozen=True)
class CleanEntityStorageResult:
    """How many empty entities were deleted, and how many locks of ended orchestrations released."""

    empty_entities_removed: int
    orphaned_locks_released: int


@dataclass(frozen=True)
class PurgeInstancesResult:
    """How many instances were deleted, and whether that were all that there are to delete."""

    deleted_instance_count: int
    is_complete: bool


@dataclass(frozen=True)
class Page(Generic[T]):
    """Part of a long list; ``continuation_token`` asks for the next part, None says that there is none."""

    items: list[T]
    continuation_token: str | None


@dataclass(frozen=True, init=False)
class OrchestrationIdReusePolicy:
    """The statuses in which the holder of an instance id gives way to a new instance.

    A holder that is not finished is terminated first, with what it has started.
    """

    replaceable_status: frozenset[OrchestrationStatus]

    def __init__(self, replaceable_status: Iterable[OrchestrationStatus] = ()) -> None:
        # Raises ValueError for what is no status; a status stands for itself.
        statuses = frozenset(OrchestrationStatus(status) for status in replaceable_status)
        object.__setattr__(self, "replaceable_status", statuses)
