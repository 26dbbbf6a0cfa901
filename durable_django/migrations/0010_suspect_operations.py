from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0009_history_key")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="entityoperation",
            name="tries",
            field=models.SmallIntegerField(db_default=0, default=0, verbose_name="tries"),
        ),
        migrations.RemoveIndex(model_name="entityoperation", name="durable_operation_inbox"),
        migrations.AddIndex(
            model_name="entityoperation",
            index=models.Index(fields=["name", "key", "visible_at", "id"], name="durable_operation_turn"),
        ),
        migrations.AddField(
            model_name="worker",
            name="suspect_operations",
            field=models.JSONField(blank=True, null=True, verbose_name="suspected operations"),
        ),
    ]
