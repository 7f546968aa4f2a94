"""A Postroad that is spoken to over HTTP: by QSTASH_URL and QSTASH_TOKEN, as every SDK finds it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from postroad.errors import PostroadError

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_S = 60.0
_MOST_REASON = 300
_LAST_PORT = 65_535
_BUSY = frozenset({429, 502, 503, 504})
_OWN_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Unreachable(PostroadError):
    """No answer came from the server."""

    is_passing = True


class Unsendable(PostroadError):
    """A request that HTTP has no way to write."""


class NoProgress(Unreachable):
    """A stream said nothing for as long as one was ready to wait."""


class Rejected(PostroadError):
    """The server answered with an error: `status` and its own words."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"{reason} (HTTP {status})")

    @property
    def is_passing(self) -> bool:
        """Whether it may be accepted in a moment: as when a server is restarted behind a proxy, or a limit is met."""
        return self.status in _BUSY


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One of the events of a stream: its `id`, which resumes behind it, and its data."""

    id: str
    name: str
    data: Any


class Remote:
    """Calls of the HTTP API. Raises `Unreachable` and `Rejected`, and `Unsendable` for a URL or token that is none."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        base = _base_url(url or os.environ.get("QSTASH_URL") or DEFAULT_URL)
        self.url = str(base.copy_with(userinfo=b"")).rstrip("/")
        token = (token or os.environ.get("QSTASH_TOKEN") or "").strip()
        if not (token.isascii() and token.isprintable()):
            raise Unsendable("QSTASH_TOKEN is no token: expected printable letters of ASCII on one line")
        self._has_token = bool(token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(
                base_url=base,
                headers=headers,
                timeout=_TIMEOUT_S,
                verify=httpx.create_ssl_context(),
                # A proxy of the environment has no way to this very machine.
                trust_env=base.host not in _OWN_HOSTS,
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            # What the environment says of proxies and certificates: a proxy of an unknown kind, a file that is gone.
            raise Unsendable(f"HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE cannot be used: {error}") from error

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
        timeout: float = _TIMEOUT_S,
    ) -> Any:
        """The JSON of the answer; None for a change that has no body. `path` goes out as it is."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        content = {"json": json} if json is not None else {"content": body}
        with _reached(self.url):
            answer = self._http.request(
                method, path, params=given or None, headers=_fields(headers), timeout=timeout, **content
            )
        if not answer.is_success:
            raise self._rejected(answer)
        if not answer.content and method != "GET":
            return None
        try:
            return answer.json()
        except ValueError:
            raise self._stranger(answer.text) from None

    def pages(
        self, path: str, name: str, *, query: Mapping[str, Any] | None = None, most: int | None = None, size: int = 100
    ) -> tuple[list[Any], str | None]:
        """Items of a list that comes in pages, most of them at most, and the cursor of what follows them."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            count = size if most is None else min(size, most - len(items))
            page = self.call("GET", path, query={"cursor": cursor, **(query or {}), "count": count})
            items += page[name]
            cursor = page.get("cursor") or None
            if cursor is None or (most is not None and len(items) >= most):
                return items, cursor

    def events(
        self, path: str, *, query: Mapping[str, Any] | None = None, after: str | None = None, silence_s: float = 60.0
    ) -> Iterator[ServerSentEvent | None]:
        """Server-sent events until the stream ends; None for what only says that the server is there.

        With `after`, those behind the event of this id. Raises `NoProgress` after so many seconds of silence.
        """
        headers = {"Last-Event-ID": after} if after else None
        with self.lines(path, query=query, headers=headers, silence_s=silence_s) as lines:
            fields: dict[str, str] = {}
            for line in lines:
                if not line:
                    if "data" in fields:
                        yield ServerSentEvent(
                            fields.get("id", ""), fields.get("event", "message"), self._read(fields["data"])
                        )
                    fields = {}
                    continue
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not name:
                    yield None
                else:
                    fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    @contextmanager
    def lines(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = 60.0,
    ) -> Iterator[Iterator[str]]:
        """The lines of server-sent events, an answer that does not end."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        timeout = httpx.Timeout(_TIMEOUT_S, read=silence_s)
        with (
            _reached(self.url),
            self._http.stream("GET", path, params=given or None, headers=headers, timeout=timeout) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise self._rejected(answer)
            if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                answer.read()
                raise self._stranger(answer.text)
            yield _lines(answer.iter_text())

    def _read(self, data: str) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise self._stranger(data) from None

    def _stranger(self, text: str) -> Unreachable:
        return Unreachable(f"what answers at {self.url} is no QStash: it sent {text[:60]!r}")

    def _rejected(self, answer: httpx.Response) -> Rejected:
        reason = _reason(answer)
        if answer.has_redirect_location:
            there = _without_secrets(answer.headers["Location"])
            reason = f"{self.url} is somewhere else: it sends on to {there}; is QSTASH_URL right?"
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            reason += "; is QSTASH_TOKEN right?" if self._has_token else "; set QSTASH_TOKEN or say --token"
        return Rejected(answer.status_code, reason)


def segment(text: str) -> str:
    """A text as one segment of a path. Raises `Unsendable` for one that would mean another path."""
    if text in ("", ".", ".."):
        raise Unsendable(f"{text!r} is no id and no name: expected one that is not empty")
    return quote(text, safe="")


def _base_url(text: str) -> httpx.URL:
    """The URL of a server. Raises `Unsendable`."""
    text = text.strip().rstrip("/")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise Unsendable(f"QSTASH_URL is no URL ({error}): expected one such as {DEFAULT_URL}") from None
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > _LAST_PORT:
        got = _without_secrets(text)
        raise Unsendable(f"QSTASH_URL is no URL of a server: got {got!r}, expected one such as {DEFAULT_URL}")
    return url


def _without_secrets(url: str) -> str:
    """A URL as it may be shown, without what stands before an at sign."""
    head, at, rest = url.rpartition("@")
    return f"{head.partition('//')[0]}//{rest}" if at else url


def _lines(texts: Iterator[str]) -> Iterator[str]:
    """The lines of a stream. JSON may have other ends of lines in its texts, U+2028 for one, which end no line here."""
    rest = ""
    for text in texts:
        *whole, rest = (rest + text).split("\n")
        yield from (line.removesuffix("\r") for line in whole)


def _fields(headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    except UnicodeEncodeError as error:
        text = error.object[error.start : error.end]
        raise Unsendable(f"a header cannot hold {text!r}: expected letters of Latin-1, as HTTP has them") from None


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.LocalProtocolError as error:
        raise Unsendable(f"this cannot be sent by HTTP: {error}") from error
    except httpx.ReadTimeout as error:
        raise NoProgress(f"{url} says nothing any more; does it run?") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        asked = "is QSTASH_URL right, and does it run?"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            asked = "its certificate is not trusted; SSL_CERT_FILE names the file with that of an own authority"
        raise Unreachable(f"cannot reach {url}: {error or type(error).__name__}; {asked}") from error


def _reason(answer: httpx.Response) -> str:
    """What the server says is wrong; of a page that is made for browsers only what its status means."""
    try:
        said = answer.json()
    except ValueError:
        is_page = "html" in answer.headers.get("Content-Type", "") or answer.text.lstrip().startswith("<")
        reason = "" if is_page else answer.text
    else:
        reason = str(said.get("error", said)) if isinstance(said, dict) else str(said)
    return " ".join(reason.split())[:_MOST_REASON] or answer.reason_phrase or "it was refused without a word"
