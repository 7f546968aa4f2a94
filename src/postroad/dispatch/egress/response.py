"""Reading one answer from the bytes of a connection."""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from postroad.dispatch.egress.content_coding import decoded
from postroad.domain.reply import Headers, Response

MAX_INTERIM_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """How much of an answer is read. The head counts as it came, with interim answers; so do trailers."""

    max_body_bytes: int
    max_header_bytes: int
    max_headers: int


class ResponseReader:
    """Feeds on bytes and gives one `Response` for each `expect`. No input or output of its own.

    When `feed` or `end` has said True, either `fault` says why this is no HTTP answer, or `response` builds it.
    """

    __slots__ = (
        "_body",
        "_bytes_without_body",
        "_complete",
        "_cut",
        "_has_no_body",
        "_head",
        "_headers",
        "_interim",
        "_keep_alive",
        "_limits",
        "_parser",
        "_status",
        "_surplus",
        "began",
        "fault",
    )

    def __init__(self, limits: ResponseLimits) -> None:
        self._limits = limits
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
        self._bytes_without_body = 0
        self._complete = self._cut = self._surplus = self._keep_alive = False

    def feed(self, data: bytes) -> bool:
        """Whether the reading is over."""
        self.began = True
        size = len(self._body)
        self._bytes_without_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # ours
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:  # after a complete answer it is only the surplus that made no sense
                self.fault = self.fault or str(error)
        if self._complete or self.fault:
            return True
        if len(self._body) > size:
            self._bytes_without_body = 0
        elif self._bytes_without_body > self._limits.max_header_bytes:
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
    def reusable(self) -> bool:
        """Whether the connection is good for another request: the answer was whole, and nothing followed it."""
        return self._keep_alive and not self._surplus

    def response(self) -> Response:
        """The answer that was read. Can be asked for once: a free connection must not hold on to the last body."""
        headers = tuple([(name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")) for name, value in self._head])
        if self._cut:
            self._body = self._body[: self._limits.max_body_bytes]
        body, self._body, self._head = bytes(self._body), b"", []
        for name, coding in headers:
            if len(name) == 16 and name.lower() == "content-encoding":
                return self._decoded(headers, coding, body)
        return Response(self._status, headers, body, self._cut)

    def _decoded(self, headers: Headers, coding: str, body: bytes) -> Response:
        plain = decoded(body, coding, self._limits.max_body_bytes, cut=self._cut)
        if plain is None:
            return Response(self._status, headers, body, self._cut)
        # Those two described the body as it travelled.
        kept = tuple([pair for pair in headers if pair[0].lower() not in ("content-encoding", "content-length")])
        return Response(self._status, kept, *plain)

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True
        else:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too; they are appended to a list that has been read by then, and so have no meaning.
        self._headers.append((name, value))

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
        if len(self._head) > limits.max_headers:
            self.fault = f"more than {limits.max_headers} headers"
        elif (
            self._bytes_without_body > limits.max_header_bytes
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
        if len(self._body) > self._limits.max_body_bytes:
            self._cut = self._complete = True

    def on_message_complete(self) -> None:
        if self._status and not self._complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _too_large(self) -> str:
        return f"more than {self._limits.max_header_bytes} bytes of headers"
