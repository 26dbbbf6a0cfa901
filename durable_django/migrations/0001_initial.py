
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Instance",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("instance_id", models.CharField(max_length=255, unique=True, verbose_name="instance id")),
                ("execution_id", models.CharField(max_length=32, verbose_name="execution id")),
                ("name", models.CharField(max_length=255, verbose_name="name")),
                ("version", models.CharField(blank=True, max_length=255, null=True, verbose_name="version")),
                ("queue", models.CharField(max_length=255, verbose_name="queue")),
                ("priority", models.SmallIntegerField(default=0, verbose_name="priority")),
                (
                    "status",
                    models.SmallIntegerField(
                        choices=[
                            (0, "Running"),
                            (1, "Completed"),
                            (3, "Failed"),
                            (5, "Terminated"),
                            (6, "Pending"),
                            (7, "Suspended"),
                        ],
                        verbose_name="status",
                    ),
                ),
                ("input", models.TextField(blank=True, null=True, verbose_name="input")),
                ("output", models.TextField(blank=True, null=True, verbose_name="output")),
                ("custom_status", models.TextField(blank=True, null=True, verbose_name="custom status")),
                ("failure", models.TextField(blank=True, null=True, verbose_name="failure")),
                ("tags", models.JSONField(blank=True, null=True, verbose_name="tags")),
                ("waiting_for", models.JSONField(blank=True, default=list, verbose_name="waiting for")),
                (
                    "parent_execution_id",
                    models.CharField(
                        blank=True, max_length=32, null=True, verbose_name="parent's execution id"
                    ),
                ),
                (
                    "parent_task_id",
                    models.IntegerField(blank=True, null=True, verbose_name="parent's task id"),
                ),
                ("start_at", models.DateTimeField(verbose_name="start at")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("last_updated_at", models.DateTimeField(verbose_name="last updated at")),
                ("completed_at", models.DateTimeField(blank=True, null=True, verbose_name="completed at")),
                ("next_sequence", models.IntegerField(default=0, verbose_name="next sequence")),
                ("turn", models.IntegerField(default=0, verbose_name="turn")),
                ("tries", models.SmallIntegerField(default=0, verbose_name="tries")),
                (
                    "parent",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="children",
                        to="durable_django.instance",
                        verbose_name="parent",
                    ),
                ),
            ],
            options={
                "verbose_name": "orchestration instance",
                "verbose_name_plural": "orchestration instances",
            },
        ),
        migrations.CreateModel(
            name="HistoryEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("execution_id", models.CharField(max_length=32, verbose_name="execution id")),
                ("sequence", models.IntegerField(verbose_name="sequence")),
                ("timestamp", models.DateTimeField(verbose_name="timestamp")),
                ("turn", models.IntegerField(verbose_name="turn")),
                ("kind", models.SmallIntegerField(verbose_name="kind")),
                ("task_id", models.IntegerField(blank=True, null=True, verbose_name="task id")),
                ("name", models.CharField(blank=True, max_length=255, null=True, verbose_name="name")),
                ("data", models.TextField(blank=True, null=True, verbose_name="data")),
                ("attributes", models.TextField(blank=True, null=True, verbose_name="attributes")),
                (
                    "instance",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="durable_django.instance",
                        verbose_name="instance",
                    ),
                ),
            ],
            options={
                "verbose_name": "history event",
                "verbose_name_plural": "history events",
            },
        ),
        migrations.CreateModel(
            name="ActivityTask",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("execution_id", models.CharField(max_length=32, verbose_name="execution id")),
                ("task_id", models.IntegerField(verbose_name="task id")),
                ("name", models.CharField(max_length=255, verbose_name="name")),
                ("input", models.TextField(blank=True, null=True, verbose_name="input")),
                ("tags", models.TextField(blank=True, null=True, verbose_name="tags")),
                ("queue", models.CharField(max_length=255, verbose_name="queue")),
                ("priority", models.SmallIntegerField(default=0, verbose_name="priority")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("visible_at", models.DateTimeField(verbose_name="visible at")),
                ("deliveries", models.IntegerField(default=0, verbose_name="deliveries")),
                ("lease_token", models.BigIntegerField(blank=True, null=True, verbose_name="lease token")),
                ("worker", models.CharField(blank=True, max_length=255, null=True, verbose_name="worker")),
                (
                    "instance",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="durable_django.instance",
                        verbose_name="instance",
                    ),
                ),
            ],
            options={
                "verbose_name": "activity task",
                "verbose_name_plural": "activity tasks",
            },
        ),
        migrations.CreateModel(
            name="Message",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "execution_id",
                    models.CharField(blank=True, max_length=32, null=True, verbose_name="execution id"),
                ),
                (
                    "kind",
                    models.SmallIntegerField(
                        choices=[
                            (1, "Start of the next execution"),
                            (2, "External event"),
                            (3, "Activity completed"),
                            (4, "Activity failed"),
                            (5, "Sub-orchestration completed"),
                            (6, "Sub-orchestration failed"),
                        ],
                        verbose_name="kind",
                    ),
                ),
                ("task_id", models.IntegerField(blank=True, null=True, verbose_name="task id")),
                ("name", models.CharField(blank=True, max_length=255, null=True, verbose_name="name")),
                ("data", models.TextField(blank=True, null=True, verbose_name="data")),
                ("attributes", models.TextField(blank=True, null=True, verbose_name="attributes")),
                ("visible_at", models.DateTimeField(verbose_name="visible at")),
                ("held", models.BooleanField(default=False, verbose_name="held")),
                (
                    "instance",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="durable_django.instance",
                        verbose_name="instance",
                    ),
                ),
            ],
            options={
                "verbose_name": "message",
                "verbose_name_plural": "messages",
            },
        ),
        migrations.CreateModel(
            name="Timer",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("execution_id", models.CharField(max_length=32, verbose_name="execution id")),
                ("task_id", models.IntegerField(verbose_name="task id")),
                ("fire_at", models.DateTimeField(verbose_name="fire at")),
                (
                    "instance",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="durable_django.instance",
                        verbose_name="instance",
                    ),
                ),
            ],
            options={
                "verbose_name": "timer",
                "verbose_name_plural": "timers",
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("identity", models.CharField(max_length=255, unique=True, verbose_name="identity")),
                ("name", models.CharField(blank=True, max_length=255, verbose_name="name")),
                ("host", models.CharField(max_length=255, verbose_name="host")),
                ("pid", models.IntegerField(verbose_name="process id")),
                ("queues", models.JSONField(blank=True, null=True, verbose_name="queues")),
                ("started_at", models.DateTimeField(verbose_name="started at")),
                ("last_heartbeat_at", models.DateTimeField(verbose_name="last heartbeat at")),
                (
                    "suspect",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="durable_django.instance",
                        verbose_name="suspect",
                    ),
                ),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
            },
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                fields=["status", "-priority", "start_at", "id"], name="durable_instance_claim"
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(fields=["created_at", "id"], name="durable_instance_created"),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=models.Q(("completed_at__isnull", False)),
                fields=["completed_at", "id"],
                name="durable_instance_completed",
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(fields=["name", "created_at"], name="durable_instance_name"),
        ),
        migrations.AddConstraint(
            model_name="historyevent",
            constraint=models.UniqueConstraint(
                fields=("instance", "execution_id", "sequence"), name="durable_history_sequence"
            ),
        ),
        migrations.AddIndex(
            model_name="activitytask",
            index=models.Index(fields=["-priority", "visible_at", "id"], name="durable_activity_claim"),
        ),
        migrations.AddIndex(
            model_name="activitytask",
            index=models.Index(fields=["lease_token"], name="durable_activity_lease"),
        ),
        migrations.AddIndex(
            model_name="activitytask",
            index=models.Index(fields=["instance", "task_id"], name="durable_activity_instance"),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(fields=["instance", "id"], name="durable_message_inbox"),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(
                condition=models.Q(("held", False)),
                fields=["visible_at", "instance"],
                name="durable_message_ready",
            ),
        ),
        migrations.AddIndex(
            model_name="timer",
            index=models.Index(fields=["instance", "task_id"], name="durable_timer_instance"),
        ),
        migrations.AddIndex(
            model_name="timer",
            index=models.Index(fields=["fire_at", "instance"], name="durable_timer_due"),
        ),
        migrations.AddIndex(
            model_name="worker",
            index=models.Index(fields=["last_heartbeat_at"], name="durable_worker_heartbeat"),
        ),
    ]
