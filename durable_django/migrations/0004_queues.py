from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0003_subject")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="activitytask",
            name="limit_key",
            field=models.CharField(blank=True, max_length=255, null=True, verbose_name="limit key"),
        ),
        migrations.CreateModel(
            name="QueueLimit",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("queue", models.CharField(max_length=255, verbose_name="queue")),
                ("key", models.CharField(blank=True, max_length=255, verbose_name="limit key")),
                ("next_at", models.DateTimeField(verbose_name="next at")),
            ],
            options={
                "verbose_name": "queue limit",
                "verbose_name_plural": "queue limits",
                "indexes": [models.Index(fields=["next_at"], name="durable_limit_next")],
                "constraints": [
                    models.UniqueConstraint(fields=("queue", "key"), name="durable_limit_key"),
                ],
            },
        ),
    ]
