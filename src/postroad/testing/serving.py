"""An app under test as a server on loopback, so that messages can be delivered to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

_LOOK_EVERY_S = 0.01
_LEAVE_WITHIN_S = 5


class AppNotStarted(AssertionError):
    """The app ended before it could be used, as when its start-up fails; the log of uvicorn says why."""


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Run an ASGI app in a thread of its own for as long as this lasts; gives its URL, without a slash at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_LEAVE_WITHIN_S)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise AppNotStarted("the app did not start: uvicorn has logged why")
                time.sleep(_LOOK_EVERY_S)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
