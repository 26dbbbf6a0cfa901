from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

# Every turn updates its instance: with room on its page, and the same status as before, it enters no index
# anew. Pages that are full from the start cost more, and grow larger in the end.
_INSTANCE = {"fillfactor": 60}
# Small tables whose rows live for moments: what has gone is to be cleared away by its number, not by its
# share of a table that is empty most of the time.
_TRANSIENT = {"autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": 5000}

_PARAMETERS = {
    "Instance": _INSTANCE,
    "Message": _TRANSIENT,
    "Timer": _TRANSIENT,
    "ActivityTask": _TRANSIENT,
    "EntityOperation": _TRANSIENT,
}


def set_parameters(apps: Any, schema_editor: Any) -> None:
    for name, parameters in _PARAMETERS.items():
        _alter(apps, schema_editor, name, "SET", [f"{key} = {value}" for key, value in parameters.items()])


def reset_parameters(apps: Any, schema_editor: Any) -> None:
    for name, parameters in _PARAMETERS.items():
        _alter(apps, schema_editor, name, "RESET", list(parameters))


def _alter(apps: Any, schema_editor: Any, name: str, verb: str, parameters: list[str]) -> None:
    if schema_editor.connection.vendor == "postgresql":
        table = schema_editor.quote_name(apps.get_model("durable_django", name)._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} {verb} ({', '.join(parameters)})")


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0005_workers")]

    operations: ClassVar = [
        migrations.RunPython(
            set_parameters, reset_parameters, hints={"model_name": "instance"}, elidable=False
        )
    ]
