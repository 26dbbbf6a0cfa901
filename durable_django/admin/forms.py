"""Forms of the admin's pages."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from durable_django.core import strict_json
from durable_django.core.annotations import input_hint
from durable_django.core.ids import check_instance_id, check_name
from durable_django.core.json_schema import json_schema
from durable_django.core.registry import default_registry

_SKELETONS: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False, "null": None}


class JSONText(forms.CharField):
    """A text area for any JSON; nothing is None."""

    widget = forms.Textarea(attrs={"rows": 8, "class": "vLargeTextField durable-json", "spellcheck": "false"})

    def clean(self, value: Any) -> Any:
        """Return the value.

        Raises:
            ValidationError: It is no JSON; the error says where.
        """
        text = super().clean(value)
        if not text.strip():
            return None
        try:
            return strict_json.loads(text)
        except ValueError as error:
            raise forms.ValidationError(_("This is no JSON: %(error)s"), params={"error": error}) from error


class ReasonForm(forms.Form):
    """Why something is done."""

    reason = forms.CharField(
        label=_("Reason"),
        required=False,
        max_length=1000,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_("For the log."),
    )


class TerminateForm(ReasonForm):
    """How to terminate."""

    output = JSONText(label=_("Output"), required=False, help_text=_("Any JSON, or nothing."))
    recursive = forms.BooleanField(label=_("With all that it has started"), required=False, initial=True)


class RestartForm(ReasonForm):
    """How to restart."""

    new_instance_id = forms.BooleanField(label=_("Under a new id"), required=False)


class PurgeForm(ReasonForm):
    """How to purge."""

    recursive = forms.BooleanField(label=_("With all that it has started"), required=False, initial=True)


class EventForm(ReasonForm):
    """An external event."""

    name = forms.CharField(
        label=_("Event"), max_length=255, widget=forms.TextInput(attrs={"class": "vTextField"})
    )
    data = JSONText(  # type: ignore[assignment]  # Django takes fields out of the class
        label=_("Data"), required=False, help_text=_("Any JSON, or nothing.")
    )
    field_order = ("name", "data", "reason")

    def clean_name(self) -> str:
        """Return the event's name."""
        try:
            return check_name("event", self.cleaned_data["name"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class SignalForm(ReasonForm):
    """An operation for an entity."""

    operation = forms.CharField(
        label=_("Operation"), max_length=255, widget=forms.TextInput(attrs={"class": "vTextField"})
    )
    input = JSONText(label=_("Input"), required=False, help_text=_("Any JSON, or nothing."))
    field_order = ("operation", "input", "reason")

    def clean_operation(self) -> str:
        """Return the operation's name."""
        try:
            return check_name("operation", self.cleaned_data["operation"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class StartForm(ReasonForm):
    """An orchestration to start."""

    instance_id = forms.CharField(
        label=_("Instance id"),
        required=False,
        max_length=255,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_("Random if left empty."),
    )
    input = JSONText(label=_("Input"), required=False)
    field_order = ("instance_id", "input", "reason")

    def clean_instance_id(self) -> str | None:
        """Return the id; None if there is none."""
        given = self.cleaned_data["instance_id"]
        try:
            return check_instance_id(given) if given else None
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


FORMS: dict[str, type[ReasonForm]] = {
    "terminate": TerminateForm,
    "suspend": ReasonForm,
    "resume": ReasonForm,
    "rewind": ReasonForm,
    "restart": RestartForm,
    "purge": PurgeForm,
}


def skeleton(name: str) -> str:
    """Return the JSON that an orchestrator's annotation asks for, with nothing filled in."""
    hint = input_hint(default_registry.orchestrators[name].fn)
    return "" if hint is None else json.dumps(_skeleton(json_schema(hint)), indent=2)


def _skeleton(schema: dict[str, Any]) -> Any:
    if choices := schema.get("enum"):  # None of them, if it is an enum of no members.
        return choices[0]
    if alternatives := schema.get("anyOf"):
        return _skeleton(alternatives[0])
    kind = schema.get("type")
    if kind == "object":
        return {name: _skeleton(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_skeleton(inner) for inner in schema.get("prefixItems", ())]
    return _SKELETONS.get(str(kind))
