from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies: ClassVar = [("durable_django", "0002_listing")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="instance",
            name="subject_id",
            field=models.CharField(blank=True, max_length=255, null=True, verbose_name="subject's key"),
        ),
        migrations.AddField(
            model_name="instance",
            name="subject_type",
            field=models.CharField(blank=True, max_length=255, null=True, verbose_name="subject's type"),
        ),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                fields=["subject_id", "subject_type", "created_at"],
                name="durable_instance_subject",
                condition=Q(subject_id__isnull=False),
            ),
        ),
    ]
