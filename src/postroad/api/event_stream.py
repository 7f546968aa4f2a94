"""Server-sent events, as browsers read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from orjson import dumps

from postroad.api.veil import veiled

SILENCE_S = 15.0
"""After so long without an event a comment is sent, so that nobody between takes the connection for dead."""

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of such an answer; the last one keeps nginx from holding events back."""

_SIGN_OF_LIFE = b": still here\n\n"


def event(name: str, data: Any, *, number: str | None = None) -> bytes:
    """One event; a client that comes back tells the last number that it has seen."""
    head = b"" if number is None else b"id: " + number.encode() + b"\n"
    return head + b"event: " + name.encode() + b"\ndata: " + dumps(veiled(data)) + b"\n\n"


async def with_signs_of_life(events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The same events, with comments wherever there is nothing for long."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([coming], timeout=SILENCE_S)
            if not done:
                yield _SIGN_OF_LIFE
                continue
            finished, coming = coming, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait([coming])
        await events.aclose()
