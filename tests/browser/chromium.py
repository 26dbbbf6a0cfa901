"""Chromium: found, or installed where that is easy. ``python -m tests.browser.chromium`` is a step of tox."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

ARGUMENTS = (
    "--no-sandbox",  # which root, in a container, cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Nothing but the pages under test may use the network.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_HELP = "Install Chromium, or name one in the environment variable CHROMIUM."


def find() -> str | None:
    """Return the path of the browser that ``CHROMIUM`` names, or else of one on the PATH."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def find_or_raise() -> str:
    """Return the browser's path.

    Raises:
        FileNotFoundError: There is none.
    """
    found = find()
    if found is None:
        raise FileNotFoundError(f"There is no browser. {_HELP}")
    return found


def main() -> None:
    """Make sure that there is a browser; exit with an error if that cannot be done."""
    if find() is None and not os.environ.get("CHROMIUM") and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        subprocess.run(install, check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    try:
        sys.stdout.write(f"{find_or_raise()}\n")
    except FileNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
