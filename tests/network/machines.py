"""Worker processes on the hosts of a network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from tests.network import places
from tests.network.network import Network
from tests.processes.pack import ROOT

OPTIONS = {
    "connect_timeout": "2",
    "tcp_user_timeout": "2000",
    "keepalives_idle": "1",
    "keepalives_interval": "1",
    "keepalives_count": "2",
    "options": "-c tcp_user_timeout=2000"
    " -c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=2",
}
"""How both ends of a connection find out that the other one is gone, within two or three seconds."""


class Machines:
    """One worker on each host, under the host's name."""

    def __init__(
        self,
        network: Network,
        place: Path,
        database: dict[str, Any],
        settings: dict[str, Any],
        options: dict[str, str] = OPTIONS,
    ) -> None:
        self._network = network
        self._place = place
        server = f"{network.server_address}:{database['PORT']}"
        url = f"postgres://postgres@{server}/{database['NAME']}?{urlencode(options)}"
        self._environment = os.environ | {
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "tests.network.settings",
            "DURABLE_DJANGO": json.dumps(settings),
            "PYTHONUNBUFFERED": "1",
            places.VARIABLE: str(place),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in list(self._processes):
            self.kill(host)

    def start(self, host: str) -> None:
        """Start the worker of a host."""
        command = [sys.executable, "-m", "django", "durable_worker", "--verbosity=0", f"--name={host}"]
        with self._log(host).open("ab") as log:
            self._processes[host] = subprocess.Popen(
                self._network.command(host, command),
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, host: str) -> None:
        """Kill the worker of a host: ``ip``, ``unshare`` and the shell have become the worker, one by one."""
        process = self._processes.pop(host)
        process.kill()
        process.wait()

    def stop(self, host: str, seconds: float) -> int:
        """Tell the worker of a host to end, and return its exit code."""
        process = self._processes.pop(host)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{host} does not end\n{self.log(host)[-5000:]}") from None

    def log(self, host: str) -> str:
        """Return what the worker of a host has logged."""
        return self._log(host).read_text()

    def logs(self) -> str:
        """Return the ends of all logs, to be shown when something is wrong."""
        return "\n".join(
            f"--- {host}\n{self.log(host)[-4000:]}"
            for host in self._network.hosts
            if self._log(host).exists()
        )

    def _log(self, host: str) -> Path:
        return self._place / f"{host}.log"
