"""Signals that tell a project what happens to its orchestrations.

The worker sends them after the transaction has been committed, in its own thread and with ``send_robust``: a
receiver that raises is logged and changes nothing. One that is lost to a crash is not sent again: where
something *must* follow, let an activity do it.

``sender`` is the orchestrator or activity function, so that a receiver can ask for one alone
(``@receiver(orchestration_failed, sender=billing)``); it is None where the sending process does not know the
function. Every signal has

- ``name``: what the orchestrator or activity is registered as,
- ``instance_id`` and ``execution_id``: the orchestration's, or that of the activity's caller,
- ``using``: the database alias.
"""

from __future__ import annotations

from django.dispatch import Signal

orchestration_started = Signal()
"""An orchestration has run for the first time; a continue-as-new starts the next execution anew."""

orchestration_completed = Signal()
"""An orchestration has returned."""

orchestration_failed = Signal()
"""An orchestration has failed. Also has ``failure_details``, a ``FailureDetails``."""

orchestration_terminated = Signal()
"""An orchestration has been terminated. Sent by the process that asked for it."""

activity_failed = Signal()
"""An attempt at an activity has failed; a retry policy may yet bring another.

Also has ``task_id`` and ``failure_details``, a ``FailureDetails``.
"""
