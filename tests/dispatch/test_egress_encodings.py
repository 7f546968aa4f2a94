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
from postroad.dispatch.egress.response import AMPLE_BYTES
from postroad.domain.reply import Response
from tests.egress import on_both_loops, reply_to
from tests.receiver import ok

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
        ("gzip", _gzip(bytes(AMPLE_BYTES))),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", _raw_deflate(PLAIN)),
    ],
)
@on_both_loops
async def test_a_packed_body_is_unpacked_and_no_header_says_otherwise(coding: str, packed: bytes) -> None:
    reply = await reply_to(ok(packed, [("Content-Encoding", coding), ("X-A", "b")]))
    assert reply == Response(200, (("X-A", "b"),), zlib.decompress(packed, 47) if "zip" in coding.lower() else PLAIN)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"whatever"),
        ("identity", PLAIN),
        ("gzip, gzip", _gzip(_gzip(PLAIN))),
        ("gzip", b"not gzip at all"),
        ("gzip", _gzip(PLAIN)[:-9]),
        ("gzip", _gzip(PLAIN) + b"surplus"),
        ("gzip", _gzip(PLAIN) * 2),
        ("gzip", b""),
        ("deflate", b"\x00"),
    ],
)
@on_both_loops
async def test_a_body_that_cannot_be_unpacked_is_left_as_it_came(coding: str, body: bytes) -> None:
    reply = await reply_to(ok(body, [("Content-Encoding", coding)]))
    assert reply == Response(200, (("Content-Length", str(len(body))), ("Content-Encoding", coding)), body)


@on_both_loops
async def test_a_body_that_is_packed_twice_is_left_as_it_came_however_that_is_said() -> None:
    body, lines = _gzip(_gzip(PLAIN)), (("Content-Encoding", "gzip"),) * 2
    reply = await reply_to(ok(body, list(lines)))
    assert reply == Response(200, (("Content-Length", str(len(body))), *lines), body)


@pytest.mark.parametrize("size", [AMPLE_BYTES + 1, 100_000_000])
@pytest.mark.parametrize("pack", [_gzip, zlib.compress, _raw_deflate])
@on_both_loops
async def test_a_bomb_is_left_as_it_came(pack: Callable[[bytes], bytes], size: int) -> None:
    packed, coding = pack(bytes(size)), "gzip" if pack is _gzip else "deflate"
    reply = await reply_to(ok(packed, [("Content-Encoding", coding)]))
    assert reply == Response(200, (("Content-Length", str(len(packed))), ("Content-Encoding", coding)), packed)


@on_both_loops
async def test_a_packed_body_of_which_there_is_but_the_beginning_is_left_as_it_came() -> None:
    packed = _gzip(os.urandom(1000))
    reply = await reply_to(ok(packed + b"x", [("Content-Encoding", "gzip")]), max_response_bytes=len(packed))
    headers = (("Content-Length", str(len(packed) + 1)), ("Content-Encoding", "gzip"))
    assert reply == Response(200, headers, packed, cut=True)


def test_a_bomb_is_not_unpacked_beyond_the_cap() -> None:
    bomb = _gzip(bytes(100_000_000))
    tracemalloc.start()
    assert decoded(bomb, "gzip", 100_000) is None
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000
