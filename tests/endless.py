"""Asking where the answer may be one without an end."""

from __future__ import annotations

from typing import Any

import httpx


async def ask(client: httpx.AsyncClient, method: str, url: str, **rest: Any) -> httpx.Response:
    """What is answered; of a stream of events only the head."""
    return await send(client, client.build_request(method, url, **rest))


async def send(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The same of a request that is built already."""
    answer = await client.send(request, stream=True)
    if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
        await answer.aread()
    await answer.aclose()
    return answer
