"""Requests as bytes on a connection: however they are cut into pieces, the server reads the same."""

from __future__ import annotations

from random import Random
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from postroad.patience import Patience, Watch
from postroad.server import _Protocol


class _Loop:
    """Runs nothing."""

    def call_soon(self, callback: Any) -> None:
        callback()


class _Transport:
    """Goes nowhere."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Read(_Protocol):
    """Keeps requests instead of having them answered."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        super().__init__(Watch(Patience()), config=_CONFIG, server_state=ServerState(), app_state={}, _loop=_Loop())

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.requests.append(cycle)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing."""


_CONFIG = uvicorn.Config(_app, loop="none", http=_Read, ws="none", lifespan="off", log_config=None)
_CONFIG.load()


def read_in_pieces(data: bytes, cuts: list[int]) -> tuple[bytes, list[tuple[Any, ...]]]:
    """The status line of a refusal, and the requests if there was none."""
    protocol, transport = _Read(), _Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]  # as much of one as it needs
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if end > start:
            protocol.data_received(data[start:end])
    refusal = transport.written.partition(b"\r\n")[0]
    cycles = [*protocol.requests, *(cycle for cycle, _ in reversed(protocol.pipeline))]
    return refusal, [
        (one.scope["method"], one.scope["raw_path"], one.scope["query_string"], one.scope["headers"], bytes(one.body),
         one.more_body)
        for one in cycles
    ]  # fmt: skip


def connections(text: str) -> object:
    """What arrives on a connection, in one piece, in single bytes, and cut anywhere."""
    data = text.encode("latin-1", "replace")
    whole = read_in_pieces(data, [])
    random = Random(len(data))
    ways = [sorted(random.randrange(len(data) + 1) for _ in range(random.randint(1, 9)))]
    if len(data) < 2000:
        ways.append(list(range(1, len(data))))
    for cuts in ways:
        pieces = read_in_pieces(data, cuts)
        assert pieces[0][:12] == whole[0][:12], (whole[0], pieces[0])
        if not whole[0]:
            assert pieces[1] == whole[1]
    assert all(len(headers) <= 200 for _, _, _, headers, _, _ in whole[1])
    return whole[1] or None
