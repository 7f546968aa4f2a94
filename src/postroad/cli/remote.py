"""A Postroad that is spoken to over HTTP: by QSTASH_URL and QSTASH_TOKEN, as every SDK finds it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from postroad.errors import PostroadError

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_S = 60.0


class Unreachable(PostroadError):
    """No answer came from the server."""


class Rejected(PostroadError):
    """The server answered with an error: `status` and its own words."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"{reason} (HTTP {status})")


class Remote:
    """Calls of the HTTP API. Raises `Unreachable` and `Rejected`."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self.url = (url or os.environ.get("QSTASH_URL") or DEFAULT_URL).rstrip("/")
        token = token or os.environ.get("QSTASH_TOKEN") or ""
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S, trust_env=False
        )

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
            answer = self._http.request(method, path, params=given or None, headers=headers, timeout=timeout, **content)
        if answer.is_error:
            raise Rejected(answer.status_code, _reason(answer))
        return answer.json() if answer.content else None

    @contextmanager
    def lines(
        self, path: str, *, query: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[str]]:
        """The lines of an answer that does not end, such as server-sent events."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        with (
            _reached(self.url),
            self._http.stream("GET", path, params=given, headers=headers, timeout=_SILENCE) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise Rejected(answer.status_code, _reason(answer))
            yield answer.iter_lines()


_SILENCE = httpx.Timeout(_TIMEOUT_S, read=60.0)


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
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
