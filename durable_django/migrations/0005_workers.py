from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0004_queues")]

    operations: ClassVar = [
        migrations.AlterModelOptions(
            name="worker",
            options={
                "permissions": [("drain_worker", "Can drain workers")],
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
            },
        ),
        migrations.AddField(
            model_name="worker",
            name="versioning",
            field=models.JSONField(blank=True, null=True, verbose_name="versions"),
        ),
        migrations.AddField(
            model_name="worker",
            name="names",
            field=models.JSONField(blank=True, null=True, verbose_name="names"),
        ),
        migrations.AddField(
            model_name="worker",
            name="load",
            field=models.JSONField(blank=True, null=True, verbose_name="load"),
        ),
        migrations.AddField(
            model_name="worker",
            name="draining_since",
            field=models.DateTimeField(blank=True, null=True, verbose_name="draining since"),
        ),
        migrations.AddField(
            model_name="worker",
            name="drained_at",
            field=models.DateTimeField(blank=True, null=True, verbose_name="drained at"),
        ),
    ]
