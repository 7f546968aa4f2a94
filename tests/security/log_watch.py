"""Looks for secrets in whatever the processes of a test run log: the test's own one, and those that it starts.

What counts as a secret goes by its shape, so that no test has to say which ones it uses: tokens, signing keys,
signatures, passwords in URLs, and canaries. A process that is started also knows its own settings; one that is started
without PYTHONPATH is not seen.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

from postroad.dev import DEV_USERS
from tests.security.watched.sitecustomize import DIRECTORY, watch

SECRETS = re.compile(
    "|".join(
        [
            *(re.escape(user.token) for user in DEV_USERS),
            r"pr_[A-Za-z0-9_-]{30,}",
            r"sig_[1-9A-HJ-NP-Za-km-z]{24,}",
            r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+",
            r"://[^/\s:@]+:[^/\s@]+@",
            r"Bearer \S+",
            r"canary[a-z]+[0-9a-f]{24}",
        ]
    ).encode()
)


class LogWatch:
    """What was logged since it last looked: by this process, or with `everywhere` by those that it starts as well.

    Then the product also logs all that it can in this process.
    """

    def __init__(self, *, everywhere: bool) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="postroad-logs-"))
        self._read: dict[Path, int] = {}
        watch(self._directory)
        if everywhere:
            os.environ[DIRECTORY] = str(self._directory)
            watched = str(Path(__file__).with_name("watched"))
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (watched, os.environ.get("PYTHONPATH"))))
            logging.getLogger("postroad").setLevel(logging.DEBUG)

    def found(self) -> list[str]:
        """Lines with a secret in them, of all processes."""
        lines: list[bytes] = []
        for path in self._directory.iterdir():
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                new = log.read()
                self._read[path] = log.tell()
            lines += [line for line in new.splitlines() if SECRETS.search(line)] if SECRETS.search(new) else []
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        """Throw away what was logged."""
        shutil.rmtree(self._directory)
