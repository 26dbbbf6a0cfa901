"""Subjects: the objects of a project, such as an order, that instances are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db.models import Model, Q

from durable_django.models import NAME_LENGTH, Instance


@dataclass(frozen=True, slots=True)
class Subject:
    """An object, as an instance's row names it: the primary key of its content type, its own as text."""

    type: int
    id: str

    @property
    def condition(self) -> Q:
        """The condition that an instance is about it."""
        return Q(subject_type=self.type, subject_id=self.id)


def subject_of(using: str, target: Any) -> Subject:
    """Return how rows of a database name ``target``.

    Raises:
        TypeError: It is no model instance.
        ValueError: It is not saved, or its primary key is none that a generic foreign key can hold.
    """
    if not isinstance(target, Model):
        raise TypeError(f"subject must be a model instance, such as an order, not {type(target).__name__}")
    label = target._meta.label
    if target.pk is None or target._state.adding:
        raise ValueError(f"subject is a {label} that is not saved. Save it first.")
    if isinstance(target.pk, tuple):
        raise ValueError(f"subject is a {label}, whose primary key has several columns. Use tags instead.")
    key = str(target.pk)
    if len(key) > NAME_LENGTH:
        raise ValueError(f"subject is a {label} with a primary key of more than {NAME_LENGTH} characters")
    return Subject(_types(using).get_for_model(target).pk, key)


def about(using: str, text: str) -> Q:
    """Return the condition that an instance is about what ``app_label.model:primary key`` names.

    As with names of other things, one that nobody knows is no error: nothing is about it.

    Raises:
        ValueError: It does not have that form.
    """
    label, colon, key = text.partition(":")
    app_label, dot, model = label.partition(".")
    if not (colon and dot and key):
        raise ValueError(f"A subject has the form app_label.model:key, such as shop.order:42, not {text!r}")
    try:
        found = _types(using).get_by_natural_key(app_label.lower(), model.lower())
    except ContentType.DoesNotExist:
        return Q(pk__in=[])
    return Subject(found.pk, key).condition


def kept_by(instance: Instance) -> Subject | None:
    """Return an instance's subject."""
    if instance.subject_type_id is None or instance.subject_id is None:
        return None
    return Subject(instance.subject_type_id, instance.subject_id)


def text_of(using: str, instance: Instance) -> str | None:
    """Return an instance's subject as ``app_label.model:primary key``; None if there is none any more."""
    subject = kept_by(instance)
    if subject is None:
        return None
    try:
        found = _types(using).get_for_id(subject.type)
    except ContentType.DoesNotExist:
        return None
    return f"{found.app_label}.{found.model}:{subject.id}"


def _types(using: str) -> Any:
    return ContentType.objects.db_manager(using)
