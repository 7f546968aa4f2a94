"""What the messages of a run carry, and where they go: so that a receiver knows a message without remembering any."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MESSAGE, GROUP, TICK, CALLBACK, FAILED = "m", "group", "tick", "callback", "failed"
"""First segments of paths: /m/<op>, /group/<number of the endpoint>, /tick/<schedule>, /callback/<op>, /failed/<op>."""


@dataclass(frozen=True, slots=True)
class Content:
    """What the body of a message says of it. All endpoints of a URL group have the `op` of the first."""

    run: int
    op: int | None
    kind: str


def body(content: Content, pad: str) -> bytes:
    """A body that proves itself: its last field is the SHA-256 of all bytes before."""
    fields = orjson.dumps({"run": content.run, "op": content.op, "kind": content.kind, "pad": pad})[:-1]
    return fields + _CLOSING % hashlib.sha256(fields).hexdigest().encode()


_CLOSING = b',"sha256":"%s"}'
_CLOSING_BYTES = len(_CLOSING) - 2 + 64


def content(data: bytes) -> Content | None:
    """What a body says, or None when a byte of it is not as it was written."""
    fields, closing = data[:-_CLOSING_BYTES], data[-_CLOSING_BYTES:]
    if closing != _CLOSING % hashlib.sha256(fields).hexdigest().encode():
        return None
    document = orjson.loads(data)
    return Content(document["run"], document["op"], document["kind"])


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a request is by its path: what kind, and which number or name."""

    kind: str
    number: str

    @property
    def op(self) -> int | None:
        """The op that the path names. That of a URL group is in its body."""
        return int(self.number) if self.kind in (MESSAGE, CALLBACK, FAILED) and self.number.isdigit() else None


def arrival(path: str) -> Arrival | None:
    """What a path stands for; None for one that no message was sent to."""
    before, _, rest = path.partition("/")
    kind, _, number = rest.partition("/")
    if before or not number:
        return None
    if kind == TICK or (kind in (MESSAGE, GROUP, CALLBACK, FAILED) and number.isdigit()):
        return Arrival(kind, number)
    return None


def report_is_right(document: Mapping[str, Any], where: Arrival, run: int) -> bool:
    """Whether a callback is whole: it brings the body of its message back, and the answer, both in base64."""
    source = content(base64.b64decode(document["sourceBody"], validate=True))
    base64.b64decode(document["body"], validate=True)
    if source is None or (source.run, source.op) != (run, where.op):
        return False
    return isinstance(document["status"], int) and (where.kind == CALLBACK or "dlqId" in document)
