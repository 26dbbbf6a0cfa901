from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0006_storage")]

    operations: ClassVar = [
        migrations.CreateModel(
            name="ActivityBundle",
            fields=[
                ("token", models.BigIntegerField(primary_key=True, serialize=False, verbose_name="token")),
                ("worker", models.CharField(max_length=255, verbose_name="worker")),
                ("tasks", models.TextField(verbose_name="tasks")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("visible_at", models.DateTimeField(verbose_name="visible at")),
            ],
            options={
                "verbose_name": "activity bundle",
                "verbose_name_plural": "activity bundles",
            },
        ),
    ]
