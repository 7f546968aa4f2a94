"""The server of a test run: `postroad dev` in a directory that is removed with it, until standard input ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from postroad import dev, telemetry
from postroad.domain.tenant import Access
from postroad.domain.token import new_token
from postroad.errors import PostroadError
from postroad.settings import load
from postroad.store import embedded, tokens
from postroad.store.engine import connected


def main() -> None:
    """Serve; prints one line of JSON with the URL and an admin token when requests are accepted."""
    directory = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        postgres = embedded.start(directory)
        try:
            url = postgres.url
            settings = load({}, database_url=url, host="127.0.0.1", port=0, shutdown_grace=timedelta(seconds=1))
            telemetry.configure(level="WARNING", json=False)
            dev.run(settings, announce=lambda text: _announce(text, url))
        finally:
            embedded.stop(postgres)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _announce(text: str, database_url: str) -> None:
    found = re.search(r"QSTASH_URL=(\S+)", text)
    assert found is not None
    # The loop of the server is this thread's.
    threading.Thread(target=_tell, args=(found[1], database_url)).start()


def _tell(url: str, database_url: str) -> None:
    sys.stdout.write(json.dumps({"url": url, "admin": asyncio.run(_admin_token(database_url))}) + "\n")
    sys.stdout.flush()


async def _admin_token(database_url: str) -> str:
    token = new_token(Access.ADMIN)
    async with connected(database_url) as connection, connection.transaction():
        await tokens.add(connection, None, token, name="tests", access=Access.ADMIN)
    return token


def _end_with_parent() -> None:
    """However the test run ends, its end of the pipe is closed then."""
    # Past the buffer, which a thread that never ends must not hold when the interpreter does.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(*_: object) -> NoReturn:
    sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except PostroadError as error:
        sys.exit(str(error))
