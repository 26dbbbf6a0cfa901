from __future__ import annotations

from tests.listeners import listener_is_gone_before_the_database

__all__ = ["listener_is_gone_before_the_database"]
