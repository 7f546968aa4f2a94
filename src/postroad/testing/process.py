"""The process that a test run's server lives in, as the test run sees it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

from postroad.errors import PostroadError

_STOP_SECONDS = 20
_ROOM_BYTES = 2 << 30


class NotStarted(PostroadError):
    """The server of the tests ended before it could be used."""


@dataclass(slots=True)
class ServerProcess:
    """A running server, and an admin token for it."""

    url: str
    admin_token: str
    _process: subprocess.Popen[bytes]
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @classmethod
    def start(cls) -> ServerProcess:
        """Start a server; takes a few seconds. Raises `NotStarted` with its last words."""
        directory = Path(tempfile.mkdtemp(prefix="postroad-pytest-", dir=_memory()))
        # PostgreSQL does not run as root, so where root runs the tests another user has to enter.
        directory.chmod(0o755)
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-m", "postroad.testing", str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                # A Ctrl-C is for the test run, which ends the server when its tests are done with it.
                start_new_session=True,
            )
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.communicate()
                shutil.rmtree(directory, ignore_errors=True)  # it may have ended before it could do so
                errors.seek(0)
                words = errors.read().decode(errors="replace")[-2000:]
                raise NotStarted(f"the Postroad of the tests did not start: {words}")
        told = json.loads(line)
        return cls(told["url"], told["admin"], process)

    def stop(self) -> None:
        """End the server, its PostgreSQL, and remove what they stored."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def new_tenant(self) -> tuple[str, str]:
        """The name and the token of a tenant that has nothing yet."""
        if (code := self._process.poll()) is not None:
            raise NotStarted(f"the Postroad of the tests ended with code {code}")
        name = f"test-{next(self._numbers)}"
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        with httpx.Client(base_url=f"{self.url}/admin/v1", headers=headers, trust_env=False) as http:
            http.post("/tenants", json={"name": name}).raise_for_status()
            answer = http.post(f"/tenants/{name}/tokens", json={"name": "tests"}).raise_for_status()
        return name, answer.json()["token"]


def _environment() -> dict[str, str]:
    """Without settings of another server, and with none of the modules that lie where the tests are run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTROAD_")}
    # A project's token.py or queue.py is not the one that the server asks for.
    return {**kept, "PYTHONSAFEPATH": "1"}


def _memory() -> Path | None:
    """Where files cost nothing, if there is room for a database."""
    shared = Path("/dev/shm")  # noqa: S108  a directory of our own is made in it
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > _ROOM_BYTES else None
