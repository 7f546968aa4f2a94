"""One connection to a destination: a request goes out, an answer comes in, and then perhaps again."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol, cast

from postroad.dispatch.egress.pace import MANY_PIECES, SLICE_BYTES
from postroad.dispatch.egress.response import ResponseLimits, ResponseReader
from postroad.domain.reply import NoResponse, Reply

JOINED_BYTES = 64 * 1024
"""Bodies up to this size are copied behind their head, which is cheaper than a second write."""


class Unanswered(Enum):
    """Ends of an exchange that are not the destination's last word."""

    STALE = "the connection had been closed in the gap between two requests"
    EXPIRED = "the deadline has passed"


class Owner(Protocol):
    """Who keeps the connections; told of each fact as soon as it is known, of ends perhaps more than once."""

    def opened(self, connection: Connection) -> None: ...
    def free(self, connection: Connection, now: float) -> None: ...
    def useless(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A connected transport with at most one exchange at a time."""

    __slots__ = (
        "_answered",
        "_held_back",
        "_loop",
        "_owner",
        "_pace",
        "_reader",
        "_transport",
        "born_at",
        "free_since",
        "place",
        "reused",
    )

    def __init__(self, place: tuple[str, str, int, str | None, int], owner: Owner, limits: ResponseLimits) -> None:
        self.place = place
        self.reused = False
        self.born_at = self.free_since = 0.0
        self._owner = owner
        self._reader = ResponseReader(limits)
        self._pace = limits.pace
        self._held_back: bytearray | None = None
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[Reply | Unanswered] | None = None

    def exchange(self, method: str, head: bytes, body: bytes) -> asyncio.Future[Reply | Unanswered]:
        """Send a request; the future is its end. Whoever stops waiting for it must call `abandon`."""
        answered: asyncio.Future[Reply | Unanswered] = self._loop.create_future()
        # A transport may go down between two turns of the loop; then nobody would end the exchange but its deadline.
        if self._transport.is_closing():
            answered.set_result(
                Unanswered.STALE if self.reused else NoResponse("connection closed before any response")
            )
            return answered
        self._answered = answered
        self._reader.expect(method)
        if len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return answered

    def abandon(self, answered: asyncio.Future[Reply | Unanswered]) -> None:
        """Nobody waits for this exchange any more. Leaves alone a connection that has gone on to another one."""
        if self._answered is answered:
            self._answered = None
            self.close()

    def close(self) -> None:
        """Close at once, whatever is still unsent; nothing that matters is."""
        self._owner.useless(self)
        self._transport.abort()

    def forsake(self) -> None:
        """The dial failed or was given up; a transport that had come up by then may go without a `connection_lost`."""
        self._owner.closed(self)

    def shut_down(self) -> None:
        """Close because this process stops, which is not the destination's doing."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(NoResponse("the server is shutting down"))
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.born_at = self._loop.time()
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        answered, reader = self._answered, self._reader
        if answered is None:
            self.close()  # nobody asked
            return
        if self._held_back is not None:
            self._held_back += data  # it was on its way when the reading stopped
            return
        unread = self._feed(data)
        if unread is None:
            return
        self._answered = None
        reply = NoResponse(f"invalid HTTP response: {reader.fault}") if reader.fault else reader.response()
        # An answer that came before the request was out leaves the rest of the request in the way of the next.
        if not unread and not reader.fault and reader.reusable and not self._transport.get_write_buffer_size():
            self.reused = True
            self._owner.free(self, self._loop.time())
        else:
            self.close()
        if not answered.done():
            answered.set_result(reply)

    def _feed(self, data: bytes) -> int | None:
        """How many bytes stand behind the end of the answer. None if it goes on, perhaps only after a pause."""
        reader, size = self._reader, len(data)
        view = data if size <= SLICE_BYTES else memoryview(data)
        start = 0
        while start < size:
            before = reader.pieces
            end = start + SLICE_BYTES if size - start > SLICE_BYTES and reader.may_be_laborious else size
            if reader.feed(view[start:end]):
                return size - end
            if (pieces := reader.pieces - before) > MANY_PIECES:
                rest = data[end:]
                if not reader.hold(len(rest)):
                    return len(rest)
                self._hold_back(rest, pieces)
                break
            start = end
        return None

    def _hold_back(self, rest: bytes, pieces: int) -> None:
        """Read on when it is the turn of this answer again."""
        self._transport.pause_reading()
        self._held_back = bytearray(rest)
        self._loop.call_later(self._pace.wait(self._loop.time(), pieces), self._go_on, self._answered)

    def _go_on(self, answered: asyncio.Future[Reply | Unanswered] | None) -> None:
        if self._answered is not answered or self._transport.is_closing():
            return  # it is over
        rest, self._held_back = self._held_back, None
        self._reader.hold(0)
        self._transport.resume_reading()
        if rest:
            self.data_received(bytes(rest))

    def eof_received(self) -> None:
        self._ended("closed")
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended("closed" if error is None else "reset")
        # The parser and its reader hold each other until the garbage collector comes by; not with half an answer.
        self._reader.expect("")
        self._owner.useless(self)
        self._owner.closed(self)

    def _ended(self, how: str) -> None:
        answered, self._answered = self._answered, None
        if answered is None or answered.done():
            return
        reader = self._reader
        if how == "closed" and reader.end():
            answered.set_result(reader.response())
        elif not reader.began and self.reused:
            answered.set_result(Unanswered.STALE)
        else:
            when = "the response was complete" if reader.began else "any response"
            answered.set_result(NoResponse(f"connection {how} before {when}"))
