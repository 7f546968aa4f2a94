"""A request that somebody pasted, as a curl command or as raw HTTP."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from postroad.errors import PostroadError

_METHODS = re.compile(rb"\A(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) (\S+)(?: HTTP/[\d.]+)?\r?\n", re.ASCII)
_HEADER = re.compile(rb"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+:")
_ANSI = re.compile(r"\$'((?:[^'\\]|\\.)*)'")
_DATA = {"-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--json"}
_WITH_VALUE = {
    "-X", "--request", "-A", "--user-agent", "-b", "--cookie", "-u", "--user", "-o", "--output", "-e", "--referer",
    "-m", "--max-time", "--connect-timeout", "-x", "--proxy", "--resolve", "--cacert", "-F", "--form",
}  # fmt: skip


class NotARequest(PostroadError):
    """A text that is neither a curl command nor an HTTP request."""


@dataclass(frozen=True, slots=True)
class Pasted:
    """What the text says. Of raw HTTP the scheme is not known unless a proxy wrote it into a header."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    url: str | None = None
    has_scheme: bool = True


def parsed(text: bytes) -> Pasted:
    """The request in a text. Raises `NotARequest`."""
    stripped = text.lstrip()
    if stripped.startswith(b"curl"):
        return _curl(stripped.decode("utf-8", "surrogateescape"))
    if _METHODS.match(stripped) or _HEADER.match(stripped):
        return _raw(stripped)
    raise NotARequest("what was pasted is no request: expected a curl command, or HTTP from `POST /path` on")


def _raw(text: bytes) -> Pasted:
    first = _METHODS.match(text)
    target = first[1].decode("utf-8", "replace") if first else None
    rest = text[first.end() :] if first else text
    end = re.search(rb"\r?\n\r?\n", rest)
    head, body = (rest[: end.start()], rest[end.end() :]) if end else (rest, b"")
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) < 18 and int(length) <= len(body):
        body = body[: int(length)]  # What follows was added by the paste.
    elif not length and body.endswith(b"\n"):
        body = body.removesuffix(b"\n").removesuffix(b"\r")
    host = headers.get("x-forwarded-host") or headers.get("host")
    if target is None or "://" in target or host is None:
        return Pasted(headers, body, target if target and "://" in target else None)
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    return Pasted(headers, body, f"{scheme or 'http'}://{host}{target}", has_scheme=bool(scheme))


def _curl(text: str) -> Pasted:
    # Browsers quote as bash does: $'…' with escapes.
    plain = _ANSI.sub(lambda match: shlex.quote(_unescaped(match[1])), text.replace("\\\r\n", " ").replace("\\\n", " "))
    try:
        words = shlex.split(plain)[1:]
    except ValueError as error:
        raise NotARequest(f"the curl command cannot be read: {error}; is a quote missing?") from None
    headers: dict[str, str] = {}
    data: list[str] = []
    url: str | None = None
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name in ("-H", "--header"):
            key, _, content = (value if equals else next(rest, "")).partition(":")
            headers[key.strip().lower()] = content.strip()
        elif name in _DATA:
            data.append(value if equals else next(rest, ""))
        elif name == "--url":
            url = value if equals else next(rest, "")
        elif name in _WITH_VALUE:
            if not equals:
                next(rest, None)
        elif not word.startswith("-"):
            url = word
    if any(one.startswith("@") for one in data):
        raise NotARequest("the curl command takes its body from a file: give what is in that file as the body")
    body = "&".join(data).encode("utf-8", "surrogateescape")
    return Pasted(headers, body, url if url is None or "://" in url else f"http://{url}")


def _unescaped(text: str) -> str:
    simple = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "ux" and len(code) > 1:
            # Half of a character has no bytes of its own.
            return chr(int(code[1:], 16)).encode("utf-8", "replace").decode()
        return simple.get(code, code)

    return re.sub(r"\\(u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|.)", one, text, flags=re.DOTALL)
