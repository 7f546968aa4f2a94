"""How the receiver can answer, well and badly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, Protocol

Headers = Iterable[tuple[str, str]]


class Stage(Protocol):
    """What a mood can do to the connection that its request came on."""

    is_gone: bool
    request: Any

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None:
        """Wait while the peer reads more slowly than this side writes; and let others have a turn."""

    async def play(self, mood: Mood) -> None: ...
    def stop_reading(self) -> None: ...
    def close(self) -> None: ...
    def reset(self) -> None:
        """Close so that the peer gets an RST."""


@dataclass(frozen=True, slots=True)
class Mood:
    """How to answer. `at_head` moods begin before the body is read, and are given requests without one."""

    play: Callable[[Stage], Coroutine[None, None, None] | None]
    at_head: bool = False


def ok(body: bytes = b"ok", headers: Headers = ()) -> Mood:
    """200."""
    return status(200, body, headers)


def status(code: int, body: bytes = b"", headers: Headers = ()) -> Mood:
    """Any status, whole and with its length."""
    return raw(answer(code, body, headers))


def handled(handler: Callable[[Any], Coroutine[None, None, Mood]]) -> Mood:
    """Whatever a function says of the request; it may take its time."""

    async def play(stage: Stage) -> None:
        await stage.play(await handler(stage.request))

    return Mood(play)


def redirect(to: str, code: int = 302) -> Mood:
    """A redirect to somewhere else."""
    return status(code, b"", [("Location", to)])


def raw(data: bytes, then_close: bool | Literal["reset"] = False) -> Mood:
    """These bytes and no others, and then perhaps the end of the connection, be it by RST."""

    async def reset(stage: Stage) -> None:
        stage.write(data)
        await asyncio.sleep(0)  # uvloop writes at the end of a turn, and a reset would forget what is not written
        stage.reset()

    def play(stage: Stage) -> None:
        stage.write(data)
        if then_close:
            stage.close()

    return Mood(reset if then_close == "reset" else play)


def garbage(data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n") -> Mood:
    """Bytes that are no HTTP; the connection stays open."""
    return raw(data)


def chunked(pieces: Sequence[bytes], trailers: Headers = ()) -> Mood:
    """200 with one chunk for each piece."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return raw(_head(200, [("Transfer-Encoding", "chunked")]) + chunks + b"0\r\n" + _lines(trailers) + b"\r\n")


def in_pieces(*pieces: bytes) -> Mood:
    """These bytes, each piece after a turn of the loop, so that most arrive on their own."""

    async def play(stage: Stage) -> None:
        for piece in pieces:
            stage.write(piece)
            await asyncio.sleep(0)

    return Mood(play)


def slow(seconds: float, then: Mood | None = None) -> Mood:
    """Another mood, later."""

    async def play(stage: Stage) -> None:
        await asyncio.sleep(seconds)
        await stage.play(then or ok())

    return Mood(play)


def hold(event: asyncio.Event, then: Mood | None = None) -> Mood:
    """Another mood, as soon as the test sets the event."""

    async def play(stage: Stage) -> None:
        await event.wait()
        await stage.play(then or ok())

    return Mood(play)


def never() -> Mood:
    """Silence on an open connection."""
    return Mood(lambda stage: None)


def reset() -> Mood:
    """RST instead of an answer."""
    return Mood(lambda stage: stage.reset())


def hang_up() -> Mood:
    """The end of the connection instead of an answer."""
    return raw(b"", then_close=True)


def half(of: Literal["head", "body"] = "body", by: Literal["close", "reset"] = "close") -> Mood:
    """An answer that breaks off in its head or in its body."""
    whole = answer(200, b"x" * 1000, [("Content-Type", "text/plain")])
    return raw(whole[:30] if of == "head" else whole[:-500], then_close="reset" if by == "reset" else True)


def huge(n_bytes: int) -> Mood:
    """200 with a body of this length, sent for as long as somebody reads."""

    async def play(stage: Stage) -> None:
        stage.write(_head(200, [("Content-Length", str(n_bytes))]))
        for start in range(0, n_bytes, 65536):
            stage.write(b"x" * min(65536, n_bytes - start))
            await stage.drain()

    return Mood(play)


def trickle(bytes_per_second: float) -> Mood:
    """200 with a body that never ends, a byte at a time."""

    async def play(stage: Stage) -> None:
        stage.write(_head(200, [("Content-Length", "1000000")]))
        while not stage.is_gone:
            stage.write(b"x")
            await asyncio.sleep(1 / bytes_per_second)

    return Mood(play)


def endless_headers(line: bytes = b"X-More: and more\r\n") -> Mood:
    """A head that never ends; without a line break in `line` it is one header that never ends."""

    async def play(stage: Stage) -> None:
        stage.write(b"HTTP/1.1 200 OK\r\nX-First: ")
        stage.write(b"\r\n" if line.endswith(b"\r\n") else b"")
        while not stage.is_gone:
            stage.write(line * 100)
            await stage.drain()

    return Mood(play)


def early(then: Mood, *, reading: bool = True) -> Mood:
    """Another mood, before the body of the request is read; perhaps it never is."""

    def play(stage: Stage) -> Coroutine[None, None, None] | None:
        if not reading:
            stage.stop_reading()
        return then.play(stage)

    return Mood(play, at_head=True)


def deaf() -> Mood:
    """Stops reading after the head of the request, and says nothing."""
    return Mood(lambda stage: stage.stop_reading(), at_head=True)


def answer(code: int, body: bytes = b"", headers: Headers = ()) -> bytes:
    """A whole answer as bytes."""
    return _head(code, [("Content-Length", str(len(body))), *headers]) + body


def _head(code: int, headers: Headers) -> bytes:
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Unknown"
    return f"HTTP/1.1 {code} {phrase}\r\n".encode() + _lines(headers) + b"\r\n"


def _lines(headers: Headers) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
