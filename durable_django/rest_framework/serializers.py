"""What the API takes and returns."""

from __future__ import annotations

import json
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from durable_django.core.payloads import payload
from durable_django.core.registry import MAX_PRIORITY
from durable_django.models import Entity, Instance, InstanceStatus, Worker
from durable_django.rest_framework.fields import (
    FlagField,
    InstanceIdField,
    MomentField,
    NameField,
    NumberField,
    ReasonField,
    StrictSerializer,
    TagsField,
)
from durable_django.rest_framework.payloads import moment
from durable_django.store.monitoring import WorkerState, worker_state
from durable_django.store.subjects import Subject

STATUSES = [status.name for status in InstanceStatus]
HEALTH = ("ok", "unavailable")
WORKER_STATES = tuple(state.value for state in WorkerState)


@extend_schema_field({"type": ["object", "array", "string", "number", "boolean"]})
class PayloadField(serializers.JSONField):
    """Any JSON."""


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class StoredTagsField(serializers.JSONField):
    """Tags, as they are stored."""


# ------------------------------------------------------------------------------------- what comes in


class StartSerializer(StrictSerializer):
    """An orchestration to start."""

    instance_id = InstanceIdField(required=False, help_text="Its id; random by default.")
    input = PayloadField(required=False, allow_null=True, default=None, help_text="The input, any JSON.")
    start_at = MomentField(required=False, help_text="Not before this time.")
    version = NameField(required=False)
    tags = TagsField(required=False)
    queue = NameField(required=False)
    priority = NumberField(required=False, min_value=-MAX_PRIORITY, max_value=MAX_PRIORITY)
    reuse_id_policy = serializers.ListField(
        child=serializers.ChoiceField(STATUSES),
        required=False,
        help_text="Statuses in which the holder of the id gives way.",
    )


class ReasonSerializer(StrictSerializer):
    """Why something is done, for the audit trail."""

    reason = ReasonField(required=False, default="", help_text="A line of text.")


class TerminateSerializer(ReasonSerializer):
    """How to terminate."""

    output = PayloadField(required=False, allow_null=True, default=None, help_text="The output, any JSON.")
    recursive = FlagField(required=False, default=True, help_text="Whether with all that it has started.")


class RestartSerializer(ReasonSerializer):
    """How to restart."""

    new_instance_id = FlagField(required=False, default=False, help_text="Whether under a new, random id.")


class EventSerializer(StrictSerializer):
    """An external event."""

    data = PayloadField(  # type: ignore[assignment]  # DRF takes fields out of the class
        required=False, allow_null=True, default=None, help_text="What it carries."
    )


class SignalSerializer(StrictSerializer):
    """An operation for an entity."""

    input = PayloadField(required=False, allow_null=True, default=None, help_text="The operation's input.")
    signal_at = MomentField(required=False, help_text="Not before this time.")


# ------------------------------------------------------------------------------------- what goes out


class FailureSerializer(serializers.Serializer[Any]):
    """Why an orchestration has failed."""

    type = serializers.CharField()
    message = serializers.CharField()
    stack = serializers.CharField(required=False)


class InstanceSerializer(serializers.Serializer[Instance]):
    """An orchestration instance."""

    instance_id = serializers.CharField()
    execution_id = serializers.CharField()
    name = serializers.CharField()
    version = serializers.CharField(allow_null=True)
    queue = serializers.CharField()
    priority = serializers.IntegerField()
    status = serializers.ChoiceField(STATUSES)
    custom_status = PayloadField(allow_null=True)
    waiting_for = serializers.ListField(child=serializers.CharField())
    tags = StoredTagsField()
    parent = serializers.CharField(allow_null=True)  # type: ignore[assignment]  # as above
    subject = serializers.CharField(
        allow_null=True, help_text="The object that it is about, as app_label.model:primary key."
    )
    failure = FailureSerializer(allow_null=True)
    created_at = serializers.DateTimeField()
    start_at = serializers.DateTimeField()
    last_updated_at = serializers.DateTimeField()
    completed_at = serializers.DateTimeField(allow_null=True)
    input = PayloadField(required=False, allow_null=True)
    output = PayloadField(required=False, allow_null=True)

    def to_representation(self, instance: Any) -> dict[str, Any]:
        """Return the instance as JSON; ``input`` and ``output`` where the context has ``payloads``."""
        found: dict[str, Any] = {
            "instance_id": instance.instance_id,
            "execution_id": instance.execution_id,
            "name": instance.name,
            "version": instance.version,
            "queue": instance.queue,
            "priority": instance.priority,
            "status": InstanceStatus(instance.status).name,
            "custom_status": payload(instance.custom_status),
            "waiting_for": instance.waiting_for,
            "tags": instance.tags or {},
            "parent": instance.parent_instance_id,
            "subject": None if (subject := Subject.kept_by(instance)) is None else str(subject),
            "failure": None if instance.failure is None else json.loads(instance.failure),
            "created_at": moment(instance.created_at),
            "start_at": moment(instance.start_at),
            "last_updated_at": moment(instance.last_updated_at),
            "completed_at": moment(instance.completed_at),
        }
        if self.context.get("payloads"):
            found["input"] = payload(instance.input)
            found["output"] = payload(instance.output)
        return found


class SteeredInstanceSerializer(InstanceSerializer):
    """An instance after a change: whoever may not view it is told its id and its status."""

    _always = ("instance_id", "status")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Return the fields; most need not be there."""
        fields = super().get_fields()
        for name, field in fields.items():
            field.required = name in self._always
        return fields

    def to_representation(self, instance: Any) -> dict[str, Any]:
        """Return the instance as JSON, whole where the context has ``may_view``."""
        found = super().to_representation(instance)
        return found if self.context.get("may_view") else {name: found[name] for name in self._always}


class OrchestratorSerializer(serializers.Serializer[Any]):
    """An orchestrator that can be started here."""

    name = serializers.CharField()
    input_schema = serializers.DictField(allow_null=True, help_text="JSON Schema, where annotations tell it.")


class StartedSerializer(serializers.Serializer[Any]):
    """An instance that has been started."""

    instance_id = serializers.CharField()
    status_url = serializers.CharField(help_text="Poll this until it answers 200.")
    instance_url = serializers.CharField()
    stream_url = serializers.CharField()


class RestartedSerializer(serializers.Serializer[Any]):
    """An instance that has been started again."""

    instance_id = serializers.CharField()


class PurgedSerializer(serializers.Serializer[Any]):
    """What has been deleted."""

    deleted_instance_count = serializers.IntegerField()


class HistoryEventSerializer(serializers.Serializer[Any]):
    """A history event; fields of its own stand beside these."""

    sequence = serializers.IntegerField()
    turn = serializers.IntegerField()
    type = serializers.CharField()
    timestamp = serializers.DateTimeField()


class PendingActivitySerializer(serializers.Serializer[Any]):
    """An activity without a result."""

    task_id = serializers.IntegerField()
    name = serializers.CharField()
    queue = serializers.CharField()
    attempt = serializers.IntegerField(help_text="Counts retries, from 1.")
    deliveries = serializers.IntegerField(help_text="How often this attempt was handed to a worker.")
    is_leased = serializers.BooleanField()
    worker = serializers.CharField(allow_null=True)
    lease_expires_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class PendingTimerSerializer(serializers.Serializer[Any]):
    """A timer that has not fired."""

    task_id = serializers.IntegerField()
    fire_at = serializers.DateTimeField()


class PendingChildSerializer(serializers.Serializer[Any]):
    """A sub-orchestration that has not ended."""

    task_id = serializers.IntegerField(allow_null=True)
    instance_id = serializers.CharField()
    name = serializers.CharField()
    status = serializers.ChoiceField(STATUSES)


class PendingCallSerializer(serializers.Serializer[Any]):
    """An operation that waits for its entity; ``operation`` is null for a lock."""

    task_id = serializers.IntegerField(allow_null=True)
    entity = serializers.CharField()
    kind = serializers.CharField()
    operation = serializers.CharField(allow_null=True)


class PendingSerializer(serializers.Serializer[Any]):
    """What an instance waits for now."""

    activities = PendingActivitySerializer(many=True)
    timers = PendingTimerSerializer(many=True)
    events = serializers.ListField(child=serializers.CharField())
    children = PendingChildSerializer(many=True)
    entity_calls = PendingCallSerializer(many=True)


class EntitySerializer(serializers.Serializer[Entity]):
    """An entity."""

    name = serializers.CharField()
    key = serializers.CharField()
    locked_by = serializers.CharField(allow_null=True, help_text="The instance that holds it.")
    last_modified_at = serializers.DateTimeField()
    state = PayloadField(required=False, allow_null=True)

    def to_representation(self, instance: Any) -> dict[str, Any]:
        """Return the entity as JSON; ``state`` where the context has ``payloads``."""
        found = {
            "name": instance.name,
            "key": instance.key,
            "locked_by": instance.locked_by,
            "last_modified_at": moment(instance.last_modified_at),
        }
        if self.context.get("payloads"):
            found["state"] = payload(instance.state)
        return found


class CountSerializer(serializers.Serializer[Any]):
    """How many instances of one name are in one status."""

    name = serializers.CharField()
    status = serializers.ChoiceField(STATUSES)
    count = serializers.IntegerField()


class BacklogSerializer(serializers.Serializer[Any]):
    """What waits for a worker, and for how long."""

    count = serializers.IntegerField()
    oldest_seconds = serializers.FloatField(allow_null=True)


class VersioningSerializer(serializers.Serializer[Any]):
    """Which versions a worker takes, and what becomes of others."""

    version = serializers.CharField(allow_null=True, help_text="Its own.")
    match = serializers.CharField(help_text="none (all are taken), strict or current_or_older.")
    others = serializers.CharField(help_text="reject (left to other workers) or fail.")


class NamesSerializer(serializers.Serializer[Any]):
    """What a worker takes; a name without versions, in any."""

    orchestrations = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))
    activities = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))
    entities = serializers.ListField(child=serializers.CharField())


class LoadSerializer(serializers.Serializer[Any]):
    """How much a worker had to do at its last heartbeat."""

    activities_running = serializers.IntegerField()
    activities_waiting = serializers.IntegerField()
    threads = serializers.IntegerField(help_text="How many plain activities it runs at once.")
    async_slots = serializers.IntegerField(help_text="How many async activities it runs at once.")
    instances = serializers.IntegerField(help_text="In its cache.")
    entities = serializers.IntegerField(help_text="That perform operations.")
    turns_per_minute = serializers.IntegerField()


class WorkerSerializer(serializers.Serializer[Worker]):
    """A worker process; what it takes and how much it does are null where that is all, or not known."""

    identity = serializers.CharField()
    name = serializers.CharField()
    host = serializers.CharField()
    pid = serializers.IntegerField()
    queues = serializers.ListField(child=serializers.CharField(), allow_null=True)
    versioning = VersioningSerializer(allow_null=True)
    names = NamesSerializer(allow_null=True)
    load = LoadSerializer(allow_null=True)
    state = serializers.ChoiceField(WORKER_STATES)
    is_alive = serializers.BooleanField(help_text="Whether its state is anything but silent.")
    draining_since = serializers.DateTimeField(allow_null=True)
    drained_at = serializers.DateTimeField(allow_null=True)
    started_at = serializers.DateTimeField()
    last_heartbeat_at = serializers.DateTimeField()

    def to_representation(self, instance: Worker) -> dict[str, Any]:
        """Return the worker as JSON."""
        state = worker_state(instance)
        return {
            "identity": instance.identity,
            "name": str(instance),
            "host": instance.host,
            "pid": instance.pid,
            "queues": instance.queues,
            "versioning": instance.versioning,
            "names": instance.names,
            "load": instance.load,
            "state": state.value,
            "is_alive": state is not WorkerState.SILENT,
            "draining_since": moment(instance.draining_since),
            "drained_at": moment(instance.drained_at),
            "started_at": moment(instance.started_at),
            "last_heartbeat_at": moment(instance.last_heartbeat_at),
        }


class StatsSerializer(serializers.Serializer[Any]):
    """The present state of affairs."""

    instances = CountSerializer(many=True)
    pending = BacklogSerializer()
    activities = BacklogSerializer()
    entity_operations = BacklogSerializer()
    timers_due = BacklogSerializer()
    workers = WorkerSerializer(many=True)


class HealthSerializer(serializers.Serializer[Any]):
    """Whether work is done here."""

    status = serializers.ChoiceField(HEALTH)
    detail = serializers.CharField()
    workers = serializers.IntegerField(allow_null=True)


class ChangesSerializer(serializers.Serializer[Any]):
    """What has changed since a history sequence."""

    instance = InstanceSerializer()
    events = HistoryEventSerializer(many=True)
    execution_id = serializers.CharField(help_text="The execution that these events belong to.")
    after = serializers.IntegerField(help_text="Ask again from here.")


class StreamEventSerializer(serializers.Serializer[Any]):
    """A server-sent event; its data is JSON."""

    event = serializers.CharField(help_text="history, state, end; or changes, where it is the only one.")
    data = serializers.CharField()  # type: ignore[assignment]  # as above
    id = serializers.CharField(required=False)


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details, as RFC 9457 has them."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    errors = serializers.ListField(  # type: ignore[assignment]  # as above
        child=serializers.DictField(), required=False
    )
