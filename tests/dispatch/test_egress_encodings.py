"""What the client does with packed bodies, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial

import pytest

from postroad.dispatch.egress.content_coding import decoded
from postroad.domain.reply import Response
from tests.egress import on_both_loops, reply_to
from tests.receiver import (
    ok,
)

PLAIN = b"plain text " * 1000
_gzip = partial(gzip.compress, mtime=0)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", _gzip(PLAIN)),
        ("GZIP", _gzip(PLAIN)),
        ("x-gzip", _gzip(PLAIN)),
        ("gzip", _gzip(PLAIN[:500]) + _gzip(PLAIN[500:])),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", _raw_deflate(PLAIN)),
    ],
)
@on_both_loops
async def test_a_packed_body_is_unpacked_and_no_header_says_otherwise(coding: str, packed: bytes) -> None:
    reply = await reply_to(ok(packed, [("Content-Encoding", coding), ("X-A", "b")]))
    assert reply == Response(200, (("X-A", "b"),), PLAIN)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"whatever"),
        ("identity", PLAIN),
        ("gzip, gzip", _gzip(_gzip(PLAIN))),
        ("gzip", b"not gzip at all"),
        ("gzip", _gzip(PLAIN)[:-9]),
        ("gzip", _gzip(PLAIN) + b"surplus"),
        ("gzip", _gzip(b"") * 17),
        ("gzip", b""),
        ("deflate", b"\x00"),
    ],
)
@on_both_loops
async def test_a_body_that_cannot_be_unpacked_is_left_as_it_came(coding: str, body: bytes) -> None:
    reply = await reply_to(ok(body, [("Content-Encoding", coding)]))
    assert reply == Response(200, (("Content-Length", str(len(body))), ("Content-Encoding", coding)), body)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, _raw_deflate])
@on_both_loops
async def test_a_bomb_stops_at_the_cap(pack: Callable[[bytes], bytes]) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    reply = await reply_to(ok(pack(bytes(100_000_000)), [("Content-Encoding", coding)]), max_response_bytes=200_000)
    assert reply == Response(200, (), bytes(200_000), cut=True)


def test_a_bomb_is_not_unpacked_beyond_the_cap() -> None:
    bomb = _gzip(bytes(100_000_000))
    tracemalloc.start()
    assert decoded(bomb, "gzip", 100_000, cut=False) == (bytes(100_000), True)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


@on_both_loops
async def test_what_is_there_of_a_packed_body_over_the_cap_is_unpacked() -> None:
    noise = os.urandom(300_000)
    reply = await reply_to(ok(_gzip(noise), [("Content-Encoding", "gzip")]), max_response_bytes=100_000)
    assert isinstance(reply, Response)
    assert reply.cut
    assert 50_000 < len(reply.body) <= 100_000
    assert noise.startswith(reply.body)
