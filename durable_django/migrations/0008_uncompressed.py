from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations


def keep_as_is(apps: Any, schema_editor: Any) -> None:
    _store(apps, schema_editor, "EXTERNAL")


def compress(apps: Any, schema_editor: Any) -> None:
    _store(apps, schema_editor, "EXTENDED")


def _store(apps: Any, schema_editor: Any, storage: str) -> None:
    """Say how PostgreSQL keeps what a bundle has.

    It would compress what is gone a moment later, and mostly random: that takes longer than all the rest.
    """
    if schema_editor.connection.vendor == "postgresql":
        model = apps.get_model("durable_django", "ActivityBundle")
        table = schema_editor.quote_name(model._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} ALTER COLUMN tasks SET STORAGE {storage}")


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0007_bundles")]

    operations: ClassVar = [
        migrations.RunPython(keep_as_is, compress, hints={"model_name": "activitybundle"}, elidable=False)
    ]
