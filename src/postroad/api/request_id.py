"""The id of a request, by which its client finds it in our log again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from postroad.domain.ids import random_text

HEADER = b"x-request-id"

_USABLE = re.compile(rb"[!-~]{1,128}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What the client calls its request, if that is 1 to 128 visible ASCII characters, else a random text."""
    given = dict(headers).get(HEADER)
    if given is not None and _USABLE.fullmatch(given):
        return given
    return random_text("req_").encode()
