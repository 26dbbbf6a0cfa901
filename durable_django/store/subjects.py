"""Subjects: the objects of a project, such as an order, that instances are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Model, Q

from durable_django.models import NAME_LENGTH, Instance


@dataclass(frozen=True, slots=True)
class Subject:
    """An object, as an instance's row names it: ``app_label.model`` in lower case, and its key as text."""

    type: str
    id: str

    @classmethod
    def of(cls, target: Any) -> Subject:
        """Return how a model instance is named.

        Raises:
            TypeError: It is no model instance.
            ValueError: It is not saved, or its primary key is none that a generic foreign key can hold.
        """
        if not isinstance(target, Model):
            raise TypeError(
                f"subject must be a model instance, such as an order, not {type(target).__name__}"
            )
        meta = (target._meta.concrete_model or type(target))._meta
        if target.pk is None or target._state.adding:
            raise ValueError(f"subject is a {meta.label} that is not saved. Save it first.")
        if isinstance(target.pk, tuple):
            raise ValueError(
                f"subject is a {meta.label}, whose primary key has several columns. Use tags instead."
            )
        key = str(target.pk)
        if len(key) > NAME_LENGTH:
            raise ValueError(
                f"subject is a {meta.label} with a primary key of more than {NAME_LENGTH} characters"
            )
        return cls(meta.label_lower, key)

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Return what ``app_label.model:primary key`` names, whether or not there is such a thing.

        Raises:
            ValueError: It does not have that form.
        """
        label, colon, key = text.partition(":")
        if not (colon and key and all(label.partition("."))):
            raise ValueError(
                f"A subject has the form app_label.model:key, such as shop.order:42, not {text!r}"
            )
        return cls(label.lower(), key)

    @classmethod
    def kept_by(cls, instance: Instance) -> Subject | None:
        """Return the subject of an instance; None if it has none."""
        if instance.subject_type is None or instance.subject_id is None:
            return None
        return cls(instance.subject_type, instance.subject_id)

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"

    @property
    def condition(self) -> Q:
        """The condition that an instance is about it."""
        return Q(subject_type=self.type, subject_id=self.id)
