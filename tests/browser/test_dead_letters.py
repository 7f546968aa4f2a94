"""The pages of dead letters and of the audit log in a browser."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Console
from tests.conftest import eventually
from tests.moods import ok, status
from tests.receiver import Receiver

ONCE = {"Upstash_Retries": "0"}
NOBODY = "http://localhost:9/gone"


async def buried(console: Console, destinations: list[str]) -> None:
    """Publish these and have them fail for good."""
    before = len(await console.server.dead_letters())
    for destination in destinations:
        await console.server.publish(
            destination, b'{"order": 4711}', Content_Type="application/json", Upstash_Label="orders", **ONCE
        )
    number = before + len(destinations)
    await eventually(console.server.dead_letters, lambda letters: len(letters) == number)


async def test_dead_letters_by_group_ticked_and_one_by_one(console: Console, receiver: Receiver) -> None:
    receiver.script("/bad", *[status(500, b'{"error": "no stock"}')] * 5, ok())
    await console.look("dead-letters-none", "/console/dlq")
    await buried(console, [receiver.url("/bad")] * 5 + [NOBODY] * 4)
    letter = next(one for one in await console.server.dead_letters() if one["responseStatus"] == 500)

    await console.look("dead-letters", "/console/dlq")
    await console.look("dead-letters-wrong", "/console/dlq?q=color%3Dred")
    await console.look("dead-letters-ask", "/console/dlq/bulk?do=retry&q=")
    await console.look("dead-letters-delete", "/console/dlq/bulk?do=delete&q=host%3Dlocalhost")
    await console.look("dead-letter", f"/console/dlq/{letter['dlqId']}")

    page = await console.open("/console/dlq")
    await page.get_by_role("link", name=f"Retry 127.0.0.1:{receiver.port}, 500").click()
    await expect(page.get_by_role("heading", name="Retry 5 dead letters?")).to_be_visible()
    await page.get_by_role("button", name="Retry 5").click()
    await expect(page.get_by_role("status").first).to_contain_text("5 dead letters are on the way again.")
    await receiver.wait_for(10, "/bad")

    await page.get_by_role("checkbox", name="Tick all on this page").check()
    await page.get_by_role("checkbox", name="Tick").nth(1).uncheck()
    await page.get_by_role("button", name="Delete ticked…").click()
    await page.get_by_role("button", name="Delete 3").click()
    await expect(page.get_by_role("status").first).to_contain_text("3 dead letters are deleted.")

    await page.locator(".letters tbody td a").first.click()
    await expect(page.get_by_role("link", name="Edit and retry")).to_be_visible()
    await page.get_by_role("button", name="Delete…").click()
    await console.look("dead-letter-delete")
    await page.get_by_role("button", name="Delete the dead letter").click()
    await expect(page.get_by_role("status").first).to_contain_text("It is deleted.")
    await expect(page.get_by_text("No dead letters")).to_be_visible()

    await console.look("audit", "/console/audit")
    await console.open("/console/audit?q=delete")
    await expect(page.locator("tbody tr")).to_have_count(3)


async def test_a_throttled_retry_is_live_and_stops(console: Console, receiver: Receiver) -> None:
    receiver.script("/bad", *[status(500)] * 30, ok())
    await buried(console, [receiver.url("/bad")] * 30)

    page = await console.open("/console/dlq?q=label%3Dorders")
    await page.get_by_role("link", name="Retry all that match…").click()
    await page.get_by_label("1 a second", exact=False).first.check()
    await page.get_by_role("button", name="Retry 30").click()
    await expect(page.get_by_role("heading", name="Under way")).to_be_visible()
    where = page.url.removeprefix(console.server.url)
    await console.look("dead-letters-run", where)
    progress = page.get_by_role("progressbar")
    first = int(await progress.get_attribute("value") or 0)
    await expect(progress).not_to_have_attribute("value", str(first), timeout=15_000)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("heading", name="Ended")).to_be_visible(timeout=15_000)
    await expect(page.get_by_role("link", name="See what is left")).to_be_visible()
    assert await console.server.dead_letters()
