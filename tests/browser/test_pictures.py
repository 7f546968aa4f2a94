"""The pictures of README and docs: `make screenshots` writes them, and every run sees that they can be made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from playwright.async_api import ViewportSize

from postroad.store.engine import Connection
from tests.browser.conftest import SHOTS, WAYS, Console
from tests.conftest import eventually
from tests.moods import status
from tests.receiver import Receiver

WINDOW: ViewportSize = {"width": 1280, "height": 800}
PICTURES = ("overview", "message", "dead-letters", "send")
IMAGES = Path(__file__).parents[2] / "docs" / "images"

_LAST_HOUR = """
insert into activity (tenant_id, at, host, accepted, delivered, retried, failed, took_ms, longest_ms, late_ms)
select 1, date_bin('10 s', now() - n * interval '10 s', 'epoch'), '', a, a, a / 14, a / 90, a * 42, 910, 3
from unnest($1::int[], $2::int[]) as t(n, a) on conflict do nothing
"""


async def test_pictures(console: Console, receiver: Receiver, connection: Connection) -> None:
    receiver.script("/payments", status(503, b'{"error": "upstream unavailable", "retry": true, "took_ms": 812}'))
    receiver.script("/invoices", status(422, b'{"error": "customer 4711 has no address"}'))
    server = console.server
    json = {"Content_Type": "application/json"}
    for order in range(24):
        await server.publish(receiver.url("/orders"), b'{"order": %d}' % order, Upstash_Label="orders", **json)
    dead = [
        await server.publish(
            receiver.url("/invoices", host=host), b'{"customer": 4711, "total": "129.00"}', Upstash_Retries="0", **json
        )
        for host in ("127.0.0.1", "localhost", "localhost")
    ]
    for one in dead:
        await server.settled(one, "FAILED")
    failing = await server.publish(
        receiver.url("/payments"),
        b'{"order": 4711, "amount": "129.00", "currency": "EUR"}',
        Upstash_Retries="5",
        Upstash_Retry_Delay="200 + 300000 * retried",
        Upstash_Label="payments",
        Upstash_Forward_X_Shop="north",
        **json,
    )
    await eventually(lambda: server.states(failing), lambda states: states.count("RETRY") == 2)
    await server.publish(receiver.url("/reminders"), b"{}", Upstash_Delay="2h", **json)
    for schedule, cron in (("daily-digest", "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI"), ("clean-up", "*/30 * * * *")):
        await server.http.post(
            f"/v2/schedules/{receiver.url('/tasks')}", headers={"Upstash-Cron": cron, "Upstash-Schedule-Id": schedule}
        )
    steps = range(1, 360)
    await connection.execute(
        _LAST_HOUR, list(steps), [int(180 + 120 * math.sin(n / 47) + 25 * math.sin(n / 3)) for n in steps]
    )

    paths = ("/console", f"/console/messages/{failing}", "/console/dlq", f"/console/send?again={failing}")
    for name, path in zip(PICTURES, paths, strict=True):
        for way in ("light", "dark"):
            context = await console.browser.new_context(**{**WAYS[way], "viewport": WINDOW}, reduced_motion="reduce")
            page = await context.new_page()
            console.listen(page)
            await page.goto(server.url + path)
            await page.wait_for_load_state("networkidle")
            if SHOTS:
                await page.screenshot(path=Path(SHOTS) / f"{name}-{way}.png")
            await context.close()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("way", ["light", "dark"])
def test_the_picture_is_there(name: str, way: str) -> None:
    assert (IMAGES / f"{name}-{way}.png").read_bytes().startswith(b"\x89PNG")
