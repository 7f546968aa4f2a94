"""What the tests of the client share: both event loops, a client that closes, short ways to say a request."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from postroad.dispatch.egress import Egress, OutgoingRequest
from postroad.domain.destination import parse_url
from postroad.domain.network import parse_policy
from postroad.domain.reply import Reply, Response
from postroad.resolver import LookUp, Resolver, look_up
from tests.receiver import Mood, Receiver

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
OK = Response(200, (("Content-Length", "2"),), b"ok")


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on each loop, and fail it too if the loop met an exception that nobody handled."""

    @functools.wraps(test)
    def run(loop: str, **arguments: Any) -> None:
        unhandled: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            runner.run(_awaited(test(**arguments)))
        assert unhandled == [], unhandled

    # What pytest is to give the test, and the loop beside it.
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature([loop, *inspect.signature(test).parameters.values()])
    run.__signature__ = signature  # type: ignore[attr-defined]
    return cast("Callable[..., None]", pytest.mark.parametrize("loop", list(LOOPS))(run))


async def _awaited(result: Awaitable[None]) -> None:
    await result


@asynccontextmanager
async def client(look_up: LookUp = look_up, *, policy: str = "any", **options: Any) -> AsyncIterator[Egress]:
    """A client that is closed in the end; the options are those of Egress."""
    egress = Egress(Resolver(parse_policy(policy), look_up=look_up), **options)
    try:
        yield egress
    finally:
        await egress.close()


def to(
    url: str,
    method: str = "POST",
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    timeout: float = 10,
) -> OutgoingRequest:
    """A request, in short."""
    return OutgoingRequest(parse_url(url), method, headers, body, timeout)


async def reply_to(mood: Mood, *, timeout: float = 10, method: str = "POST", **options: Any) -> Reply:
    """What a client makes of a receiver in this mood."""
    async with Receiver() as receiver, client(**options) as egress:
        receiver.script("/", mood)
        return await egress.send(to(receiver.url(), method, timeout=timeout))
