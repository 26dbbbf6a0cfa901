from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.engines import Site


@pytest.fixture
def site(command_environment: dict[str, str], tmp_path: Path) -> Callable[..., Site]:
    """Where the processes of an engine are started, with ``DURABLE_DJANGO`` as given."""

    def site(**settings: Any) -> Site:
        return Site(command_environment, tmp_path, settings)

    return site
