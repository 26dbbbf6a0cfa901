from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models
from django.db.models import Q

# No other database that Django knows has such an index; there, the list filters by tags row by row.
_TAGS = "durable_instance_tags"


def add_index_of_tags(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    quote = schema_editor.quote_name
    table = quote(apps.get_model("durable_django", "Instance")._meta.db_table)
    schema_editor.execute(
        f"CREATE INDEX {_TAGS} ON {table} USING gin (tags jsonb_path_ops) WHERE tags IS NOT NULL"
    )


def remove_index_of_tags(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"DROP INDEX {_TAGS}")


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0001_initial")]

    operations: ClassVar = [
        migrations.AlterModelOptions(
            name="entity",
            options={
                "permissions": [("signal_entity", "Can signal entities")],
                "verbose_name": "entity",
                "verbose_name_plural": "entities",
            },
        ),
        migrations.AlterModelOptions(
            name="instance",
            options={
                "permissions": [
                    ("start_orchestration", "Can start orchestrations"),
                    ("raise_event", "Can send events to orchestration instances"),
                    ("terminate", "Can terminate orchestration instances"),
                    ("suspend", "Can suspend and resume orchestration instances"),
                    ("rewind", "Can rewind orchestration instances"),
                    ("restart", "Can restart orchestration instances"),
                    ("purge", "Can purge orchestration instances"),
                ],
                "verbose_name": "orchestration instance",
                "verbose_name_plural": "orchestration instances",
            },
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(fields=["status", "created_at", "id"], name="durable_instance_status"),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                fields=["queue", "created_at"],
                name="durable_instance_queue",
                condition=~Q(queue="default"),
            ),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                fields=["version", "created_at"],
                name="durable_instance_version",
                condition=Q(version__isnull=False),
            ),
        ),
        migrations.RunPython(
            add_index_of_tags, remove_index_of_tags, hints={"model_name": "instance"}, elidable=False
        ),
    ]
