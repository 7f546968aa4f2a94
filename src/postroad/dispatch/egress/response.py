"""Reading one answer from the bytes of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import finalize

import httptools

from postroad.dispatch.egress.content_coding import decoded
from postroad.dispatch.egress.pace import Pace
from postroad.domain.reply import Response

MAX_INTERIM_ANSWERS = 8

MAX_PIECES = 64 * 1024
"""In how many chunks a body may come: each costs time, however short it is. What comes after them is cut off."""

FRAME_BYTES = 16
"""What may stand around a chunk. What is more counts to the head, or chunk extensions would be read for ever."""

AMPLE_BYTES = 64 * 1024
"""A body of this length has its place whatever else is in memory."""

WHOLE_BODIES = 16
"""So many of the longest bodies have their place beside each other."""


class Room:
    """How many bytes longer bodies hold in memory, from their first piece until nobody needs the answer any more.

    Hundreds of answers may be under way at a time, each of them as long as an answer may be.
    """

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0

    def leave(self, n_bytes: int) -> None:
        """Give back what is held no longer."""
        self.taken -= n_bytes


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """How much of an answer is read, and how fast. The head counts as it came, with interim answers; so do trailers.

    Where bodies that share a `room` fill it, those that are longer than `AMPLE_BYTES` are cut before
    `max_body_bytes`.
    """

    max_body_bytes: int
    max_header_bytes: int
    max_headers: int
    room: Room = field(default_factory=Room)
    pace: Pace = field(default_factory=Pace)


class ResponseReader:
    """Feeds on bytes and gives one `Response` for each `expect`. No input or output of its own.

    When `feed` or `end` has said True, either `fault` says why this is no HTTP answer, or `response` builds it.
    """

    __slots__ = (
        "_ample",
        "_body",
        "_complete",
        "_cut",
        "_has_no_body",
        "_head",
        "_headers",
        "_held",
        "_interim",
        "_keep",
        "_keep_alive",
        "_limits",
        "_parser",
        "_received",
        "_status",
        "_surplus",
        "_taken",
        "began",
        "fault",
        "pieces",
    )

    def __init__(self, limits: ResponseLimits) -> None:
        self._limits = limits
        self._ample = min(AMPLE_BYTES, limits.max_body_bytes)
        self._taken = self._held = 0
        self.expect("")
        self._parser = httptools.HttpResponseParser(self)

    def expect(self, method: str) -> None:
        """Get ready for the answer to a request with this method."""
        self.began = False
        self.fault: str | None = None
        self._has_no_body = method == "HEAD"
        self._status = 0
        self._interim = 0
        self._head: list[tuple[bytes, bytes]] = []
        self._headers = self._head
        self._body: bytes | bytearray = b""
        self._keep = self._limits.max_body_bytes
        self._received = self.pieces = 0
        if self._taken:
            self._take(0)
            self._held = 0
        self._complete = self._cut = self._surplus = self._keep_alive = False

    def feed(self, data: bytes | memoryview) -> bool:
        """Whether the reading is over."""
        self.began = True
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # ours
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:  # after a complete answer it is only the surplus that made no sense
                self.fault = self.fault or str(error)
        if self._complete or self.fault:
            return True
        frame = self._limits.max_header_bytes + self.pieces * FRAME_BYTES
        if self._received - len(self._body) > frame:
            # The parser keeps an unfinished line for as long as it grows.
            self.fault = self._too_large()
        return self.fault is not None

    def end(self) -> bool:
        """The peer will send no more: whether that completes the answer, as it does where nothing else says its length.

        RFC 9112 section 6.3, last rule.
        """
        if self._status and not self._complete and not self.fault:
            fields = {name.lower(): value for name, value in self._head}
            coding = fields.get(b"transfer-encoding", b"").lower().rpartition(b",")[2].strip()
            self._complete = b"content-length" not in fields and coding != b"chunked"
        return self._complete

    @property
    def may_be_laborious(self) -> bool:
        """Whether what comes next may be anything but one large piece: a head, or chunks."""
        return not self._status or any(
            len(name) == 17 and name.lower() == b"transfer-encoding" for name, _ in self._head
        )

    def hold(self, n_bytes: int) -> bool:
        """Find room for what was received and will be read later, instead of what was held so far.

        Where there is none, what has been read of the body is all that counts, and the reading is over.
        """
        self._take(self._taken - self._held + n_bytes)
        self._held = n_bytes
        if n_bytes and self._is_crowded():
            self._keep = len(self._body)
            self._cut = self._complete = True
        return not self._complete

    @property
    def reusable(self) -> bool:
        """Whether the connection is good for another request: the answer was whole, and nothing followed it."""
        return self._keep_alive and not self._surplus

    def response(self) -> Response:
        """The answer that was read. Can be asked for once: a free connection must not hold on to the last body."""
        headers = tuple([(name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")) for name, value in self._head])
        body = self._body
        if self._cut or isinstance(body, bytearray):
            body = bytes(memoryview(body)[: self._keep])
        self._body, self._head = b"", []
        reply = Response(self._status, headers, body, self._cut)
        if self._taken or len(body) > self._ample:
            self._hand_over(reply)
        for name, _ in headers:
            if len(name) == 16 and name.lower() == "content-encoding":
                return reply if self._cut else _decoded(reply, self._ample)
        return reply

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True
        else:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status or self.fault:
            return  # trailers have no meaning
        self._headers.append((name, value))
        if len(self._headers) > self._limits.max_headers:
            self.fault = f"more than {self._limits.max_headers} headers"

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status < 100:
                self.fault = f"status {status}"
            elif status == 101:
                self.fault = "the destination changed the protocol"
            elif self._interim > MAX_INTERIM_ANSWERS:
                self.fault = f"more than {MAX_INTERIM_ANSWERS} interim answers"
            return
        self._status = status
        self._head = self._headers
        self._headers = []
        limits = self._limits
        if (
            self._received > limits.max_header_bytes
            and sum(len(name) + len(value) + 4 for name, value in self._head) > limits.max_header_bytes
        ):
            self.fault = self._too_large()
        elif self._has_no_body:
            self._complete = True

    def on_body(self, piece: bytes) -> None:
        if self._complete:
            return
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body) + piece
        else:
            self._body += piece
        self.pieces += 1
        if len(self._body) > self._ample or self.pieces > MAX_PIECES:
            self._grown(len(self._body))

    def on_message_complete(self) -> None:
        if self._status and not self._complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _grown(self, size: int) -> None:
        """Find room for a body that is no longer a short one, or cut it. The status counts all the same."""
        if self._is_crowded():
            self._keep = max(self._ample, self._taken)
        elif self.pieces > MAX_PIECES:
            self._keep = min(size, self._keep)
        self._take(min(size, self._keep))
        if size > self._keep or self.pieces > MAX_PIECES:
            self._cut = self._complete = True

    def _is_crowded(self) -> bool:
        """Whether others have taken the room. One alone always has enough."""
        return self._limits.room.taken - self._taken > (WHOLE_BODIES - 1) * self._limits.max_body_bytes

    def _take(self, n_bytes: int) -> None:
        self._limits.room.taken += n_bytes - self._taken
        self._taken = n_bytes

    def _hand_over(self, reply: Response) -> None:
        """The room belongs to the answer now, for as long as somebody holds it."""
        size = len(reply.body)
        self._take(0)
        if size > self._ample:
            self._limits.room.taken += size
            finalize(reply, self._limits.room.leave, size).atexit = False

    def _too_large(self) -> str:
        return f"more than {self._limits.max_header_bytes} bytes of headers"


def _decoded(reply: Response, max_bytes: int) -> Response:
    """The answer with its body decoded, if that is short: a few bytes must not become megabytes here."""
    coding = ",".join([value for name, value in reply.headers if name.lower() == "content-encoding"])
    plain = decoded(reply.body, coding, max_bytes)
    if plain is None:
        return reply
    # Those two described the body as it travelled.
    kept = tuple([pair for pair in reply.headers if pair[0].lower() not in ("content-encoding", "content-length")])
    return Response(reply.status, kept, plain)
