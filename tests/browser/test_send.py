"""The request builder in a browser."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.browser.conftest import Console
from tests.receiver import Receiver


async def test_a_message_is_put_together_checked_and_sent(console: Console, receiver: Receiver) -> None:
    await console.look("send", f"/console/send?url={receiver.url('/x')}")
    page = await console.open("/console/send")
    check = page.locator("#check")
    await page.get_by_label("Destination", exact=True).fill(receiver.url("/x"))
    await expect(check).to_contain_text("The server would take it: 1 message.")
    await page.get_by_text("When", exact=True).click()
    await page.get_by_label("Delay", exact=True).fill("soon")
    await expect(check).to_contain_text("expected a duration")
    await expect(page.get_by_label("Delay", exact=True)).to_have_attribute("aria-invalid", "true")
    await console.look("send-wrong")
    await page.get_by_label("Delay", exact=True).fill("1s")
    await expect(page.get_by_label("Delay", exact=True)).not_to_have_attribute("aria-invalid", "true")
    await page.get_by_label("Body").fill('{"a": ')
    await expect(check).to_contain_text("said to be JSON and is none")
    await page.get_by_label("Body").fill('{"a": 1}')
    await check.get_by_text("Python").click()
    await expect(check).to_contain_text("client.message.publish(")
    await page.get_by_label("Headers for the destination").fill("X-Own: yes")
    await expect(check).to_contain_text("'X-Own': 'yes'")
    await console.look("send-code")

    await page.get_by_role("button", name="Send", exact=True).click()

    await expect(page).to_have_url(re.compile(r"/console/messages/msg_"))
    await expect(page.get_by_role("status").first).to_contain_text("It is sent.")
    arrived = await receiver.next_request("/x")
    assert (arrived.body, arrived.header("X-Own")) == (b'{"a": 1}', "yes")


async def test_every_kind_shows_its_own_fields(console: Console) -> None:
    page = await console.open("/console/send")
    for kind, shown, hidden in (
        ("Enqueue", ["Queue", "Destination"], ["Cron", "Messages"]),
        ("Schedule", ["Cron", "Queue"], ["Messages"]),
        ("Batch", ["Messages"], ["Destination", "Cron", "Body"]),
        ("Publish", ["Destination", "Body"], ["Queue", "Cron", "Messages"]),
    ):
        await page.get_by_role("radio", name=kind).check()
        for label in shown:
            await expect(page.get_by_label(label, exact=True)).to_be_visible()
        for label in hidden:
            await expect(page.get_by_label(label, exact=True)).to_be_hidden()
        await console.look(f"send-{kind.lower()}")
