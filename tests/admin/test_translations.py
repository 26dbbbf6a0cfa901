"""The German translation is whole, and is shown."""

from __future__ import annotations

import gettext
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import translation

import durable_django
from durable_django.models import InstanceStatus
from tests import factories

DIRECTORY = Path(durable_django.__file__).parent / "locale" / "de" / "LC_MESSAGES"


def test_what_is_compiled_is_what_is_written() -> None:
    written = (DIRECTORY / "django.po").read_text()
    assert 'msgstr ""\n\n' not in written.partition("\n\n")[2]
    assert "fuzzy" not in written
    with (DIRECTORY / "django.mo").open("rb") as compiled:
        found = gettext.GNUTranslations(compiled)
    assert found.gettext("Rewind") == "Zurückspulen"
    assert len(found._catalog) >= written.count("msgid ") - 1  # type: ignore[attr-defined]  # its only list


@pytest.mark.django_db
def test_pages_speak_german(root: Client) -> None:
    instance = factories.make_instance("i", InstanceStatus.FAILED)

    def shown(url: str) -> str:
        with translation.override(translation.get_language()):  # The request activates another for good.
            return str(root.get(url, headers={"accept-language": "de"}).content.decode())

    assert "Fehlgeschlagen" in shown(reverse("admin:durable_django_instance_changelist"))
    page = shown(reverse("admin:durable_django_instance_change", args=[instance.pk]))
    for word in ("Fehlgeschlagen", "Zurückspulen", "Als JSON herunterladen"):
        assert word in page
