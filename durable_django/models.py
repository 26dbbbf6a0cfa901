"""The tables. Columns, constraints and indexes; behaviour is in ``store``, ``client`` and ``worker``.

Rows that senders insert point at their owner without a database constraint, so that an insert takes no lock
there: a client may raise an event while a worker holds the instance. Payloads are JSON *text*, written once
and never parsed by the database.
"""

from __future__ import annotations

from typing import ClassVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

NAME_LENGTH = 255
EXECUTION_ID_LENGTH = 32


class InstanceStatus(models.IntegerChoices):
    """`durable_django.core.status.OrchestrationStatus`, with words for people."""

    RUNNING = 0, _("Running")
    COMPLETED = 1, _("Completed")
    FAILED = 3, _("Failed")
    TERMINATED = 5, _("Terminated")
    PENDING = 6, _("Pending")
    SUSPENDED = 7, _("Suspended")


class MessageKind(models.IntegerChoices):
    """What a message in an instance's inbox is."""

    START = 1, _("Start of the next execution")
    EVENT = 2, _("External event")
    TASK_COMPLETED = 3, _("Activity completed")
    TASK_FAILED = 4, _("Activity failed")
    CHILD_COMPLETED = 5, _("Sub-orchestration completed")
    CHILD_FAILED = 6, _("Sub-orchestration failed")
    CALL_COMPLETED = 7, _("Entity operation completed")
    CALL_FAILED = 8, _("Entity operation failed")
    LOCK_GRANTED = 9, _("Entity lock granted")


class Instance(models.Model):
    """One orchestration instance, over all its executions.

    A pending one whose ``start_at`` has come is itself the signal to start: it needs no message.
    """

    instance_id = models.CharField(_("instance id"), max_length=NAME_LENGTH, unique=True)
    execution_id = models.CharField(_("execution id"), max_length=EXECUTION_ID_LENGTH)
    name = models.CharField(_("name"), max_length=NAME_LENGTH)
    version = models.CharField(_("version"), max_length=NAME_LENGTH, null=True, blank=True)
    queue = models.CharField(_("queue"), max_length=NAME_LENGTH)
    priority = models.SmallIntegerField(_("priority"), default=0)
    status = models.SmallIntegerField(_("status"), choices=InstanceStatus)

    input = models.TextField(_("input"), null=True, blank=True)
    output = models.TextField(_("output"), null=True, blank=True)
    custom_status = models.TextField(_("custom status"), null=True, blank=True)
    failure = models.TextField(_("failure"), null=True, blank=True)
    tags = models.JSONField(_("tags"), null=True, blank=True)
    waiting_for = models.JSONField(_("waiting for"), default=list, blank=True)

    parent = models.ForeignKey(
        "self",
        models.DO_NOTHING,
        verbose_name=_("parent"),
        null=True,
        blank=True,
        db_constraint=False,
        related_name="children",
    )
    parent_execution_id = models.CharField(
        _("parent's execution id"), max_length=EXECUTION_ID_LENGTH, null=True, blank=True
    )
    parent_task_id = models.IntegerField(_("parent's task id"), null=True, blank=True)

    # A generic foreign key, by the model's label: content types are not everywhere, and differ by database.
    subject_type = models.CharField(_("subject's type"), max_length=NAME_LENGTH, null=True, blank=True)
    subject_id = models.CharField(_("subject's key"), max_length=NAME_LENGTH, null=True, blank=True)

    start_at = models.DateTimeField(_("start at"))
    created_at = models.DateTimeField(_("created at"))
    last_updated_at = models.DateTimeField(_("last updated at"))
    completed_at = models.DateTimeField(_("completed at"), null=True, blank=True)

    next_sequence = models.IntegerField(_("next sequence"), default=0)
    turn = models.IntegerField(_("turn"), default=0)
    tries = models.SmallIntegerField(_("tries"), default=0)

    class Meta:
        verbose_name = _("orchestration instance")
        verbose_name_plural = _("orchestration instances")
        indexes: ClassVar = [
            # The claim of pending instances reads this in order and stops when it has enough.
            models.Index(fields=["status", "-priority", "start_at", "id"], name="durable_instance_claim"),
            models.Index(fields=["created_at", "id"], name="durable_instance_created"),
            models.Index(
                fields=["completed_at", "id"],
                name="durable_instance_completed",
                condition=models.Q(completed_at__isnull=False),
            ),
            models.Index(fields=["name", "created_at"], name="durable_instance_name"),
            # For the lists of people. What nearly all have in common needs no index of its own.
            models.Index(fields=["status", "created_at", "id"], name="durable_instance_status"),
            models.Index(
                fields=["queue", "created_at"],
                name="durable_instance_queue",
                condition=~models.Q(queue="default"),
            ),
            models.Index(
                fields=["version", "created_at"],
                name="durable_instance_version",
                condition=models.Q(version__isnull=False),
            ),
            models.Index(
                fields=["subject_id", "subject_type", "created_at"],
                name="durable_instance_subject",
                condition=models.Q(subject_id__isnull=False),
            ),
        ]
        permissions: ClassVar = [
            ("start_orchestration", _("Can start orchestrations")),
            ("raise_event", _("Can send events to orchestration instances")),
            ("terminate", _("Can terminate orchestration instances")),
            ("suspend", _("Can suspend and resume orchestration instances")),
            ("rewind", _("Can rewind orchestration instances")),
            ("restart", _("Can restart orchestration instances")),
            ("purge", _("Can purge orchestration instances")),
        ]

    def __str__(self) -> str:
        return self.instance_id

    @property
    def subject(self) -> models.Model | None:
        """The object that it is about; None if there is none, or it is gone, or its model is."""
        if self.subject_type is None or self.subject_id is None:
            return None
        try:
            model = apps.get_model(self.subject_type)
            found: models.Model | None = model._base_manager.filter(pk=self.subject_id).first()
        except (LookupError, ValidationError, ValueError):
            return None
        return found


class HistoryEvent(models.Model):
    """One event of one execution. Rows are only ever added: what starts over gets a new execution.

    Its key is the tripwire: two writers of one execution cannot both commit.
    """

    pk = models.CompositePrimaryKey("instance_id", "execution_id", "sequence")
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, verbose_name=_("instance"), db_constraint=False, db_index=False
    )
    execution_id = models.CharField(_("execution id"), max_length=EXECUTION_ID_LENGTH)
    sequence = models.IntegerField(_("sequence"))
    timestamp = models.DateTimeField(_("timestamp"))
    turn = models.IntegerField(_("turn"))
    kind = models.SmallIntegerField(_("kind"))
    task_id = models.IntegerField(_("task id"), null=True, blank=True)
    name = models.CharField(_("name"), max_length=NAME_LENGTH, null=True, blank=True)
    data = models.TextField(_("data"), null=True, blank=True)
    attributes = models.TextField(_("attributes"), null=True, blank=True)

    class Meta:
        verbose_name = _("history event")
        verbose_name_plural = _("history events")

    def __str__(self) -> str:
        return f"{self.execution_id}/{self.sequence}"


class Message(models.Model):
    """One message in an instance's inbox, deleted by the turn that takes it in.

    ``held`` marks what a suspended instance cannot take now. ``execution_id`` is that of the execution which
    waits for a result; an external event is for whichever comes.
    """

    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, verbose_name=_("instance"), db_constraint=False, db_index=False
    )
    execution_id = models.CharField(_("execution id"), max_length=EXECUTION_ID_LENGTH, null=True, blank=True)
    kind = models.SmallIntegerField(_("kind"), choices=MessageKind)
    task_id = models.IntegerField(_("task id"), null=True, blank=True)
    name = models.CharField(_("name"), max_length=NAME_LENGTH, null=True, blank=True)
    data = models.TextField(_("data"), null=True, blank=True)
    attributes = models.TextField(_("attributes"), null=True, blank=True)
    visible_at = models.DateTimeField(_("visible at"))
    held = models.BooleanField(_("held"), default=False)

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        indexes: ClassVar = [
            models.Index(fields=["instance", "id"], name="durable_message_inbox"),
            models.Index(
                fields=["visible_at", "instance"],
                name="durable_message_ready",
                condition=models.Q(held=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} #{self.pk}"


class Timer(models.Model):
    """A durable timer that has not fired."""

    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, verbose_name=_("instance"), db_constraint=False, db_index=False
    )
    execution_id = models.CharField(_("execution id"), max_length=EXECUTION_ID_LENGTH)
    task_id = models.IntegerField(_("task id"))
    fire_at = models.DateTimeField(_("fire at"))

    class Meta:
        verbose_name = _("timer")
        verbose_name_plural = _("timers")
        indexes: ClassVar = [
            models.Index(fields=["instance", "task_id"], name="durable_timer_instance"),
            models.Index(fields=["fire_at", "instance"], name="durable_timer_due"),
        ]

    def __str__(self) -> str:
        return f"#{self.task_id} at {self.fire_at:%Y-%m-%d %H:%M:%S}"


class ActivityTask(models.Model):
    """An activity that has no recorded result yet.

    Anybody may claim it once ``visible_at`` has come. A lease moves that to its own end and puts a token
    here, by which its holder, and nobody else, may renew it and record the result. Leased without a worker,
    it is on its way to another engine; ``deliveries`` counts how often it was begun.
    """

    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, verbose_name=_("instance"), db_constraint=False, db_index=False
    )
    execution_id = models.CharField(_("execution id"), max_length=EXECUTION_ID_LENGTH)
    task_id = models.IntegerField(_("task id"))
    name = models.CharField(_("name"), max_length=NAME_LENGTH)
    input = models.TextField(_("input"), null=True, blank=True)
    tags = models.TextField(_("tags"), null=True, blank=True)
    version = models.CharField(_("version"), max_length=NAME_LENGTH, null=True, blank=True)
    queue = models.CharField(_("queue"), max_length=NAME_LENGTH)
    priority = models.SmallIntegerField(_("priority"), default=0)
    created_at = models.DateTimeField(_("created at"))
    visible_at = models.DateTimeField(_("visible at"))
    deliveries = models.IntegerField(_("deliveries"), default=0)
    lease_token = models.BigIntegerField(_("lease token"), null=True, blank=True)
    worker = models.CharField(_("worker"), max_length=NAME_LENGTH, null=True, blank=True)
    limit_key = models.CharField(_("limit key"), max_length=NAME_LENGTH, null=True, blank=True)

    class Meta:
        verbose_name = _("activity task")
        verbose_name_plural = _("activity tasks")
        indexes: ClassVar = [
            models.Index(fields=["-priority", "visible_at", "id"], name="durable_activity_claim"),
            models.Index(fields=["lease_token"], name="durable_activity_lease"),
            models.Index(fields=["instance", "task_id"], name="durable_activity_instance"),
        ]

    def __str__(self) -> str:
        return f"{self.name} #{self.task_id}"


class ActivityBundle(models.Model):
    """Activities that a turn has leased to its own worker, all in one row instead of one for each.

    It is gone once they have ended, or after a moment: those that have not ended by then get rows of their
    own. ``tasks`` is JSON: for each turn that has called some, the instance, its execution, the turn and the
    task ids. The first one's lease has the bundle's ``token``, the next one's the number after that, and on.
    """

    token = models.BigIntegerField(_("token"), primary_key=True)
    worker = models.CharField(_("worker"), max_length=NAME_LENGTH)
    tasks = models.TextField(_("tasks"))
    created_at = models.DateTimeField(_("created at"))
    visible_at = models.DateTimeField(_("visible at"))

    class Meta:
        verbose_name = _("activity bundle")
        verbose_name_plural = _("activity bundles")

    def __str__(self) -> str:
        return f"#{self.token}"


class EntityOperationKind(models.IntegerChoices):
    """What an operation in an entity's inbox is."""

    SIGNAL = 1, _("Signal")
    CALL = 2, _("Call")
    LOCK = 3, _("Lock request")
    RELEASE = 4, _("Release")


class Entity(models.Model):
    """An entity: its state, and who has locked it.

    Only the entity's own turn writes the row. The lock is that of one critical section of one execution.
    """

    name = models.CharField(_("name"), max_length=NAME_LENGTH)
    key = models.CharField(_("key"), max_length=NAME_LENGTH)
    state = models.TextField(_("state"), null=True, blank=True)
    lock_instance = models.ForeignKey(
        Instance,
        models.DO_NOTHING,
        verbose_name=_("locked by"),
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
    )
    lock_execution_id = models.CharField(
        _("locking execution"), max_length=EXECUTION_ID_LENGTH, null=True, blank=True
    )
    lock_request = models.CharField(_("critical section"), max_length=NAME_LENGTH, null=True, blank=True)
    last_modified_at = models.DateTimeField(_("last modified at"))

    class Meta:
        verbose_name = _("entity")
        verbose_name_plural = _("entities")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name", "key"], name="durable_entity_name_key")
        ]
        indexes: ClassVar = [models.Index(fields=["last_modified_at"], name="durable_entity_modified")]
        permissions: ClassVar = [("signal_entity", _("Can signal entities"))]

    def __str__(self) -> str:
        return f"@{self.name}@{self.key}"


class EntityOperation(models.Model):
    """One operation in an entity's inbox, addressed by name and key: its sender never touches the entity.

    ``instance``, ``execution_id`` and ``task_id`` are the caller's, for the answer; a lock request has the
    whole ``lock_set``, and its ``position`` in it. It may be performed from ``visible_at`` on, which lies
    after ``created_at`` only where the sender has asked for that. ``tries`` counts the workers that it has
    killed.
    """

    name = models.CharField(_("name"), max_length=NAME_LENGTH)
    key = models.CharField(_("key"), max_length=NAME_LENGTH)
    kind = models.SmallIntegerField(_("kind"), choices=EntityOperationKind)
    operation = models.CharField(_("operation"), max_length=NAME_LENGTH, null=True, blank=True)
    input = models.TextField(_("input"), null=True, blank=True)
    instance = models.ForeignKey(
        Instance,
        models.DO_NOTHING,
        verbose_name=_("sender"),
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
    )
    execution_id = models.CharField(
        _("sender's execution id"), max_length=EXECUTION_ID_LENGTH, null=True, blank=True
    )
    task_id = models.IntegerField(_("task id"), null=True, blank=True)
    request = models.CharField(_("critical section"), max_length=NAME_LENGTH, null=True, blank=True)
    lock_set = models.TextField(_("lock set"), null=True, blank=True)
    position = models.SmallIntegerField(_("position"), default=0)
    created_at = models.DateTimeField(_("created at"))
    visible_at = models.DateTimeField(_("visible at"))
    # Workers of an earlier release go on writing rows without it until they are replaced.
    tries = models.SmallIntegerField(_("tries"), default=0, db_default=0)

    class Meta:
        verbose_name = _("entity operation")
        verbose_name_plural = _("entity operations")
        indexes: ClassVar = [
            models.Index(fields=["name", "key", "visible_at", "id"], name="durable_operation_turn"),
            models.Index(fields=["visible_at", "name", "key"], name="durable_operation_ready"),
        ]

    def __str__(self) -> str:
        return f"{self.operation or self.get_kind_display()} on @{self.name}@{self.key}"


class QueueLimit(models.Model):
    """The state of a limited queue, and of each of its limit keys that has a rate; ``key`` "" is the queue.

    Whoever claims activities of the queue holds its row meanwhile. The next one of a rate begins at
    ``next_at``, or later.
    """

    queue = models.CharField(_("queue"), max_length=NAME_LENGTH)
    key = models.CharField(_("limit key"), max_length=NAME_LENGTH, blank=True)
    next_at = models.DateTimeField(_("next at"))

    class Meta:
        verbose_name = _("queue limit")
        verbose_name_plural = _("queue limits")
        constraints: ClassVar = [models.UniqueConstraint(fields=["queue", "key"], name="durable_limit_key")]
        indexes: ClassVar = [models.Index(fields=["next_at"], name="durable_limit_next")]

    def __str__(self) -> str:
        return f"{self.queue}/{self.key}" if self.key else self.queue


class Worker(models.Model):
    """A worker process.

    ``versioning`` has its own ``version``, which ones it takes (``match``) and what becomes of ``others``,
    ``names`` what it takes: ``orchestrations`` and ``activities`` with their versions, and ``entities``; None
    is all. ``load`` is how much it had to do at its last heartbeat. ``draining_since`` is an operator's mark,
    ``drained_at`` the worker's answer, when nothing was left.

    ``suspect`` is the instance whose code it has been running for long, or, after a crash, any instance that
    it is about to run: if the process dies, that counts against the instance. After a crash,
    ``suspect_operations`` has the keys of the operations of entities that it performs.
    """

    identity = models.CharField(_("identity"), max_length=NAME_LENGTH, unique=True)
    name = models.CharField(_("name"), max_length=NAME_LENGTH, blank=True)
    host = models.CharField(_("host"), max_length=NAME_LENGTH)
    pid = models.IntegerField(_("process id"))
    pid_namespace = models.CharField(_("process namespace"), max_length=NAME_LENGTH, blank=True)
    queues = models.JSONField(_("queues"), null=True, blank=True)
    # All may be null: workers of an earlier release go on writing rows until they are replaced.
    versioning = models.JSONField(_("versions"), null=True, blank=True)
    names = models.JSONField(_("names"), null=True, blank=True)
    load = models.JSONField(_("load"), null=True, blank=True)
    draining_since = models.DateTimeField(_("draining since"), null=True, blank=True)
    drained_at = models.DateTimeField(_("drained at"), null=True, blank=True)
    started_at = models.DateTimeField(_("started at"))
    last_heartbeat_at = models.DateTimeField(_("last heartbeat at"))
    suspect = models.ForeignKey(
        Instance,
        models.DO_NOTHING,
        verbose_name=_("suspect"),
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
    )
    suspect_operations = models.JSONField(_("suspected operations"), null=True, blank=True)

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        indexes: ClassVar = [models.Index(fields=["last_heartbeat_at"], name="durable_worker_heartbeat")]
        permissions: ClassVar = [("drain_worker", _("Can drain workers"))]

    def __str__(self) -> str:
        return self.name or self.identity
