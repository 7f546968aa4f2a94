"""Destinations that do harm: one coroutine for each way to answer, on as many ports as are asked for.

`python -m tests.security.hostile_kinds 200` listens, prints a JSON list of kinds and URLs, and serves until its input
ends. It is a process of its own, so that what it allocates is not taken for what the node does.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import socket
import struct
import sys
import zlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

Kind = Callable[[StreamReader, StreamWriter], Awaitable[None]]

OVER_TLS = ("tls_junk", "tls_silence", "tls_half_a_record")
"""Kinds that are asked by https and speak no TLS."""

_OK = b"HTTP/1.1 200 OK\r\n"
_FAILED = b"HTTP/1.1 500 Oh no\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_MEBIBYTE = 1 << 20


def _gzip_bomb(layers: int = 1) -> bytes:
    """100 MiB of zeros at 1:1000, packed again and again."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(_MEBIBYTE)) for _ in range(100)) + packer.flush()
    for _ in range(layers - 1):
        bomb = gzip.compress(bomb, mtime=0)
    return bomb


_BOMB, _LAYERED_BOMB = _gzip_bomb(), _gzip_bomb(3)
_MANY_STREAMS = gzip.compress(b"", mtime=0) * 50_000


def _whole(coding: str, body: bytes) -> bytes:
    return _FAILED + f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _once(data: bytes, *, then_close: bool = False) -> Kind:
    """These bytes, and then silence or the end."""

    async def kind(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        while not then_close and await reader.read(65536):
            pass

    return kind


def _for_ever(start: bytes, piece: bytes, *, every_s: float = 0) -> Kind:
    """The start, and then a piece again and again for as long as somebody reads."""

    async def kind(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_s)

    return kind


def _reset(data: bytes) -> Kind:
    """These bytes, and then RST."""

    async def kind(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        connected: socket.socket = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return kind


KINDS: dict[str, Kind] = {
    # Bodies
    "endless_body": _for_ever(_FAILED + b"\r\n", b"x" * 65536),
    "endless_body_of_success": _for_ever(_OK + b"Content-Length: 10737418240\r\n\r\n", b"x" * 65536),
    "endless_chunks": _for_ever(_FAILED + _CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "chunks_of_one_byte": _for_ever(_FAILED + _CHUNKED, b"1\r\nx\r\n" * 10_000),
    "a_hoard_just_below_the_cap": _once(_FAILED + b"Content-Length: 1048576\r\n\r\n" + b"x" * (_MEBIBYTE - 1)),
    "a_byte_per_second": _for_ever(_OK + b"Content-Length: 1000\r\n\r\n", b"x", every_s=1),
    "a_byte_of_a_head_per_second": _for_ever(_OK + b"X: ", b"x", every_s=1),
    "gzip_bomb": _once(_whole("gzip", _BOMB)),
    "gzip_bomb_in_three_layers": _once(_whole("gzip, gzip, gzip", _LAYERED_BOMB)),
    "gzip_bomb_that_claims_one_layer": _once(_whole("gzip", _LAYERED_BOMB)),
    "deflate_bomb": _once(_whole("deflate", zlib.compress(bytes(100 * _MEBIBYTE), 9))),
    "gzip_streams_without_end": _once(_whole("gzip", _MANY_STREAMS)),
    # Heads
    "endless_headers": _for_ever(_OK, b"X-More: and more\r\n" * 1000),
    "a_header_of_a_megabyte": _once(_OK + b"X: " + b"y" * _MEBIBYTE + b"\r\n\r\n"),
    "tiny_headers_then_silence": _once(_OK + b"a:\r\n" * 16_000),
    "a_head_just_below_the_cap_then_silence": _once(_OK + b"X: " + b"y" * 65_000),
    "endless_continue": _for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "endless_hints": _for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100),
    "folded_headers": _for_ever(_OK + b"X: y\r\n", b" more\r\n" * 1000),
    "nul_in_a_header": _once(_FAILED + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"),
    "a_delay_that_takes_long_to_read": _once(
        _FAILED + b"Content-Length: 0\r\nRetry-After: " + b"1h" * 30_000 + b"\r\n\r\n"
    ),
    # Framing
    "negative_length": _once(_OK + b"Content-Length: -1\r\n\r\n"),
    "two_lengths": _once(_OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    "a_length_beyond_64_bits": _once(_OK + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    "a_length_and_chunks": _once(_OK + b"Content-Length: 2\r\n" + _CHUNKED + b"0\r\n\r\n"),
    "a_chunk_size_beyond_64_bits": _once(_OK + _CHUNKED + b"F" * 17 + b"\r\nxx"),
    "a_chunk_size_without_end": _for_ever(_OK + _CHUNKED, b"0" * 65536),
    "a_chunk_extension_without_end": _for_ever(_OK + _CHUNKED + b"1;", b"x" * 65536),
    "chunk_extensions_without_end": _for_ever(_OK + _CHUNKED, (b"1;" + b"x" * 1000 + b"\r\ny\r\n") * 50),
    "trailers_without_end": _for_ever(_OK + _CHUNKED + b"1\r\nx\r\n0\r\n", b"T: u\r\n" * 1000),
    "another_protocol": _once(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + b"x" * 1000),
    "http_0_9": _once(b"<html>hello</html>", then_close=True),
    "http_2": _once(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18),
    "ten_thousand_answers": _once((_OK + b"Content-Length: 0\r\n\r\n") * 10_000),
    # Connections
    "silence": _once(b""),
    "the_end_at_once": _once(b"", then_close=True),
    "half_a_head": _once(b"HTTP/1.1 200 O", then_close=True),
    "half_a_body": _once(_OK + b"Content-Length: 100\r\n\r\nx", then_close=True),
    "reset_at_once": _reset(b""),
    "reset_in_the_body": _reset(_OK + b"Content-Length: 100\r\n\r\nx"),
    # TLS
    "tls_junk": _for_ever(b"", os.urandom(4096)),
    "tls_silence": _once(b""),
    "tls_half_a_record": _once(b"\x16\x03\x03\x40\x00\x02" + b"\x00" * 5000),
}


@dataclass(frozen=True)
class Destination:
    """Somebody hostile, and where to find them."""

    kind: str
    url: str


async def _serve(count: int, kinds: Sequence[str]) -> None:
    servers: list[asyncio.Server] = []
    found: list[Destination] = []
    for kind, _ in zip(itertools.cycle(kinds), range(count), strict=False):
        server = await asyncio.start_server(_playing(KINDS[kind], reads=kind not in OVER_TLS), "127.0.0.1", 0)
        servers.append(server)
        scheme = "https" if kind in OVER_TLS else "http"
        found.append(Destination(kind, f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/{kind}"))
    sys.stdout.write(json.dumps([[one.kind, one.url] for one in found]) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _playing(kind: Kind, *, reads: bool) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
    async def play(reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if reads:
                await reader.readuntil(b"\r\n\r\n")
            await kind(reader, writer)
        writer.close()

    return play


@asynccontextmanager
async def hostile_destinations(count: int, kinds: Sequence[str] = tuple(KINDS)) -> AsyncIterator[list[Destination]]:
    """So many of them in a process of their own, of one kind after the other."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        str(count),
        *kinds,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,  # the list is one long line
    )
    try:
        assert process.stdout is not None
        yield [Destination(kind, url) for kind, url in json.loads(await process.stdout.readline())]
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    # Cancelled with its tasks when the input ends; whoever started it does not care for what is left unsent.
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2:] or list(KINDS)))
