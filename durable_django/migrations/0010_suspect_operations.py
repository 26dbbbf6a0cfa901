from __future__ import annotations

from typing import ClassVar

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0009_history_key")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="entityoperation",
            name="tries",
            field=models.SmallIntegerField(db_default=0, default=0, verbose_name="tries"),
        ),
        migrations.AddField(
            model_name="worker",
            name="suspect_operation",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="durable_django.entityoperation",
                verbose_name="suspected operation",
            ),
        ),
    ]
