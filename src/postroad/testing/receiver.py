"""A real HTTP server on loopback that records what it is sent and answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_POLL_SECONDS = 0.02
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived; names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def message_id(self) -> str:
        """The id of the message that was delivered by this request."""
        return self.headers.get("upstash-message-id", "")

    @property
    def status_url(self) -> str:
        """Where a handler reports progress and acknowledges."""
        return self.headers.get("upstash-status-url", "")

    @property
    def retried(self) -> int:
        """How many attempts were made before this one."""
        return int(self.headers.get("upstash-retried", "0"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    status: int = 200
    body: bytes | str = b"ok"
    headers: Mapping[str, str] = field(default_factory=dict)


Script = int | Answer | Callable[[Received], "int | Answer"]


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    """Deliveries come all at once; those that find no place in line come again seconds later."""


class Receiver:
    """The server. A path without a script answers 200; of a script, the last answer is given again and again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[Received] = []
        self._scripts: dict[str, list[Script]] = {}
        self._errors: list[BaseException] = []
        self._server = _Server(("127.0.0.1", 0), self._handler(), bind_and_activate=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def requests(self) -> Sequence[Received]:
        """What has arrived so far, in order."""
        with self._changed:
            return list(self._requests)

    @property
    def errors(self) -> Sequence[BaseException]:
        """What functions of scripts have raised so far; their requests were answered with 500."""
        with self._changed:
            return list(self._errors)

    def requests_to(self, path: str) -> list[Received]:
        """What has arrived at this path so far, in order."""
        with self._changed:
            return self._at(path)

    def wait_for(self, times: int = 1, path: str | None = None, *, within: float = 10) -> list[Received]:
        """All requests so far, once there are so many, at this path if one is given: while an attempt stays open."""
        __tracebackhide__ = True
        with self._changed:
            came = self._changed.wait_for(lambda: len(self._at(path)) >= times, within)
            found = self._at(path)
        if not came:
            at = f" at {path}" if path is not None else ""
            expected = "1 request" if times == 1 else f"{times} requests"
            raise AssertionError(f"expected {expected}{at} within {within} s, {len(found)} came.\n{self._told()}")
        return found

    def script(self, path: str, *answers: Script) -> None:
        """Answer requests to this path with these from now on: statuses, `Answer`s, or functions of the request."""
        with self._changed:
            self._scripts[path] = list(answers)

    def _told(self) -> str:
        requests = self.requests
        if not requests:
            return "No request has arrived."
        lines = [f"  {one.method} {one.path}  attempt {one.retried}" for one in requests[:_MOST_SHOWN]]
        more = [f"  and {len(requests) - _MOST_SHOWN} more"] if len(requests) > _MOST_SHOWN else []
        return "\n".join(["What has arrived:", *lines, *more])

    def _found(self, script: Script, request: Received) -> int | Answer:
        if not callable(script):
            return script
        try:
            return script(request)
        except Exception as error:  # noqa: BLE001  whatever the test does, in a thread that it does not see
            with self._changed:
                self._errors.append(error)
            return Answer(500, f"the script of the test raised {error!r}")

    def _at(self, path: str | None) -> list[Received]:
        return [one for one in self._requests if path in (None, one.path)]

    def _arrived(self, request: Received) -> Script:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            script = self._scripts.get(request.path) or [Answer()]
            return script.pop(0) if len(script) > 1 else script[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                """As the parent does it, for every method."""
                self.raw_requestline = self.rfile.readline(65537)
                self.close_connection = True
                if self.raw_requestline and self.parse_request():
                    self._answer()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parent's name
                """Not in the output of the tests."""

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.command, parts.path, parts.query, headers, body)
                script = receiver._arrived(request)
                found = receiver._found(script, request)
                answer = Answer(found, b"") if isinstance(found, int) else found
                content = answer.body.encode() if isinstance(answer.body, str) else answer.body
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = True

        return Handler
