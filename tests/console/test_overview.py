"""The overview: how much goes on, what waits, what is wrong."""

from __future__ import annotations

import asyncio
import re

import httpx

from tests.conftest import Running, eventually
from tests.console.conftest import XSS
from tests.moods import status
from tests.receiver import Receiver


async def test_it_counts_what_goes_on(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    receiver.script("/bad", status(500))
    for path in ("/good", "/good", "/bad"):
        await server.publish(receiver.url(path), Upstash_Retries="0")
    await server.publish(receiver.url("/good"), Upstash_Delay="1h")

    async def tiles() -> dict[str, str]:
        page = (await visitor.get("/console/overview/live")).text
        found = re.findall(r'class="name">([^<]+)</span><span class="value">([^<]+)<', page)
        more = re.findall(r'<span class="small-print">(\d+) in the last hour', page)
        return {**dict(found), "accepted": more[0], "delivered": more[1]}

    seen = await eventually(tiles, lambda one: (one["accepted"], one["delivered"]) == ("4", "2"))
    assert (seen["Waiting"], seen["In flight"], seen["Dead letters"], seen["Success rate"]) == ("1", "0", "1", "66.7 %")
    page = (await visitor.get("/console")).text
    assert httpx.URL(receiver.url("/")).netloc.decode() in page
    assert "Nodes that deliver" not in page


async def test_spans_and_schedules(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    made = await server.http.post(
        f"/v2/schedules/{receiver.url('/x?') + 'a=<b>'}",
        headers={"Upstash-Cron": "@daily", "Upstash-Schedule-Id": "nightly"},
    )
    assert made.status_code == 201, made.text

    pages = await asyncio.gather(*(visitor.get("/console", params={"span": one}) for one in ("15m", "24h", XSS)))

    assert [page.status_code for page in pages] == [200, 200, 200]
    assert all('href="/console/schedules/nightly"' in page.text and "<b>" not in page.text for page in pages)
    assert "in the last 24 hours" in pages[1].text
    assert "in the last hour" in pages[2].text
