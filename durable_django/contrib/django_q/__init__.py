"""django-q2: activities run on its clusters, and its schedules start orchestrations. Needs the extra ``q2``.

``DjangoQDispatcher`` is a backend for ``DISPATCHERS``; the other two are task functions for django-q2.
"""

from __future__ import annotations

from durable_django.contrib.django_q.dispatcher import DjangoQDispatcher
from durable_django.contrib.django_q.tasks import execute_activity, start_orchestration

__all__ = ["DjangoQDispatcher", "execute_activity", "start_orchestration"]
