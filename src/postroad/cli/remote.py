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


class Unreachable(PostroadError):
    """No answer came from the server."""


class Unsendable(PostroadError):
    """A request that HTTP has no way to write."""


class NoProgress(Unreachable):
    """A stream said nothing for as long as one was ready to wait."""


class Rejected(PostroadError):
    """The server answered with an error: `status` and its own words."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"{reason} (HTTP {status})")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One of the events of a stream: its `id`, which resumes behind it, and its data."""

    id: str
    name: str
    data: Any


class Remote:
    """Calls of the HTTP API. Raises `Unreachable` and `Rejected`."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self.url = (url or os.environ.get("QSTASH_URL") or DEFAULT_URL).rstrip("/")
        token = token or os.environ.get("QSTASH_TOKEN") or ""
        self._has_token = bool(token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

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
        """The JSON of the answer; None if it has no body. `path` begins with `/v2/` and goes out as it is."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        content = {"json": json} if json is not None else {"content": body}
        with _reached(self.url):
            answer = self._http.request(
                method, path, params=given or None, headers=_fields(headers), timeout=timeout, **content
            )
        if answer.is_error:
            raise self._rejected(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise Unreachable(f"what answers at {self.url} is no QStash: it sent {answer.text[:60]!r}") from None

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
                            fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
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
        """The lines of an answer that does not end, such as server-sent events."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        timeout = httpx.Timeout(_TIMEOUT_S, read=silence_s)
        with (
            _reached(self.url),
            self._http.stream("GET", path, params=given or None, headers=headers, timeout=timeout) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise self._rejected(answer)
            yield answer.iter_lines()

    def _rejected(self, answer: httpx.Response) -> Rejected:
        reason = _reason(answer)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            reason += "; is QSTASH_TOKEN right?" if self._has_token else "; set QSTASH_TOKEN or say --token"
        return Rejected(answer.status_code, reason)


def segment(text: str) -> str:
    """A text as one segment of a path. Raises `Unsendable` for one that would mean another path."""
    if text in ("", ".", ".."):
        raise Unsendable(f"{text!r} is no id and no name: expected one that is not empty")
    return quote(text, safe="")


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
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Unreachable(
            f"cannot reach {url}: {error or type(error).__name__}; is QSTASH_URL right, and does it run?"
        ) from error


def _reason(answer: httpx.Response) -> str:
    try:
        said = answer.json()
    except json.JSONDecodeError:
        return answer.text[:200] or answer.reason_phrase
    return str(said.get("error", said)) if isinstance(said, dict) else str(said)
