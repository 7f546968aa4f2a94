"""Destinations that do harm end within their time, hold little memory, and keep nobody from being served."""

from __future__ import annotations

import psutil

from postroad.store.engine import Connection
from tests.conftest import Running, eventually
from tests.receiver import Receiver
from tests.security.hostile import MOST_GROWTH_BYTES, MOST_OVERTIME_S, Ended, attempts_at, items
from tests.security.hostile_kinds import KINDS, hostile_destinations

COUNT = 2 * len(KINDS)
TIMEOUT_S = 2
ENDINGS = {
    "endless_body": "the destination answered 500",
    "chunks_of_one_byte": "the destination answered 500",
    "a_hoard_just_below_the_cap": "timed out after 2 s",
    "a_byte_per_second": "timed out after 2 s",
    "gzip_bomb": "the destination answered 500",
    "endless_headers": "invalid HTTP response: more than 100 headers",
    "tiny_headers_then_silence": "invalid HTTP response: more than 100 headers",
    "a_header_of_a_megabyte": "invalid HTTP response: more than 65536 bytes of headers",
    "endless_continue": "invalid HTTP response: more than 8 interim answers",
    "nul_in_a_header": "invalid HTTP response: Invalid header value char",
    "negative_length": "invalid HTTP response: Invalid character in Content-Length",
    "two_lengths": "invalid HTTP response: Duplicate Content-Length",
    "a_chunk_size_beyond_64_bits": "invalid HTTP response: Chunk size overflow",
    "a_chunk_extension_without_end": "invalid HTTP response: more than 65536 bytes of headers",
    "chunk_extensions_without_end": "invalid HTTP response: more than 65536 bytes of headers",
    "trailers_without_end": "invalid HTTP response: more than 65536 bytes of headers",
    "http_0_9": "invalid HTTP response: Expected HTTP/, RTSP/ or ICE/",
    "silence": "timed out after 2 s",
    "reset_at_once": "connection reset before any response",
    "tls_junk": "TLS error: wrong version number",
    "tls_silence": "timed out after 2 s",
}
"""How an attempt ends, where that does not depend on how fast it goes."""


async def test_hostile_destinations_end_in_time_and_honest_ones_are_served_meanwhile(
    server: Running, receiver: Receiver, connection: Connection
) -> None:
    async with hostile_destinations(COUNT) as hostile:
        urls = [one.url for one in hostile]
        before = psutil.Process().memory_info().rss
        grown: list[int] = []

        answer = await server.http.post("/v2/batch", json=items(hostile, timeout_s=TIMEOUT_S, retries=0))
        assert answer.status_code == 200, answer.text
        for number in range(30):
            await server.publish(receiver.url("/honest"), f"{number}")
        await receiver.wait_for(30, "/honest")

        async def ended() -> list[Ended]:
            grown.append(psutil.Process().memory_info().rss - before)
            return await attempts_at(connection, urls)

        attempts: list[Ended] = await eventually(ended, lambda found: len(found) == COUNT)

    assert max(one.duration_s for one in attempts) <= TIMEOUT_S + MOST_OVERTIME_S
    assert max(grown) < MOST_GROWTH_BYTES
    kinds = {one.url: one.kind for one in hostile}
    for one in attempts:
        if (ending := ENDINGS.get(kinds[one.url])) is not None:
            assert one.reason == ending, kinds[one.url]


async def test_the_status_counts_although_the_body_is_cut(server: Running, connection: Connection) -> None:
    async with hostile_destinations(1, ["endless_body_of_success"]) as hostile:
        message = await server.publish(hostile[0].url, b"x")
        assert (await server.settled(message))[-1] == "DELIVERED"
