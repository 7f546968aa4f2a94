"""The browser of these tests: Debian's Chromium, looked for and, where that is possible, installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")


def found() -> str | None:
    """Where it is: `CHROMIUM` says so, or the PATH."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def install() -> None:
    """Install it with apt, as root on Debian; elsewhere say what is missing, and the tests that need it are skipped."""
    if found() is not None:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
        done = subprocess.run(["apt-get", "-qq", *arguments], env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            return


if __name__ == "__main__":
    install()
    sys.exit(0)
