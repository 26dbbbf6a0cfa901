"""The fuzzer's command line: ``python -m tests.fuzz``. What follows ``--`` goes to schemathesis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django

_USER, _PASSWORD = "fuzzer", "fuzzer"
_EXAMPLES = "60"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> int:
    """Serve the demo project on a database of its own, and let schemathesis loose on it."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    os.environ.setdefault("DURABLE_DJANGO", '{"REST_MAX_WAIT_SECONDS": 1}')
    django.setup()
    from django.db import connection

    configured = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        with tempfile.TemporaryDirectory() as directory:
            return _fuzz(Path(directory), sys.argv[1:])
    finally:
        connection.creation.destroy_test_db(configured, verbosity=0)


def _fuzz(directory: Path, arguments: list[str]) -> int:
    from django.contrib.auth.models import User
    from django.core.wsgi import get_wsgi_application
    from django.db import connection

    from tests import databases
    from tests.fuzz.rows import make_rows
    from tests.processes.pack import Pack, is_alive

    User.objects.create_superuser(_USER, password=_PASSWORD)
    make_rows()
    environment = os.environ | {"DATABASE_URL": databases.to_url(connection.settings_dict)}
    with Pack(environment, directory / "worker.log") as pack:
        pack.start()
        server = make_server("127.0.0.1", 0, get_wsgi_application(), _Server, _Quiet)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/durable/schema/?format=json"
        program = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"
        # No database holds U+0000, and no schema can say so of a payload: that is tested elsewhere.
        options = ["--mode", "all", "--checks", "all", "--generation-allow-x00", "false"]
        options += ["--max-examples", _EXAMPLES]
        command = [program, "run", url, "--auth", f"{_USER}:{_PASSWORD}", *options, *arguments]
        code = subprocess.run(command, check=False).returncode
        server.shutdown()
        thread.join()
        if not all(is_alive(pid) for pid in pack.pids):
            sys.stderr.write((directory / "worker.log").read_text()[-5000:])
            return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
