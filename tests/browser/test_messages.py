"""The pages of messages in a browser."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Console
from tests.moods import status
from tests.receiver import Receiver


async def test_the_list_and_a_message(console: Console, receiver: Receiver) -> None:
    receiver.script("/bad", status(500, b'{"error": "no stock", "n": [1, 2.5, null, true]}'))
    await console.server.publish(receiver.url("/good"), b'{"a": 1}', Content_Type="application/json")
    failing = await console.server.publish(
        receiver.url("/bad"), b'{"a": 1}', Content_Type="application/json", Upstash_Retry_Delay="3600000"
    )
    await console.server.settled(failing, "RETRY")
    waiting = await console.server.publish(receiver.url("/good"), b"later", Upstash_Delay="2h")

    await console.look("messages", "/console/messages")
    await console.look("messages-unfinished", "/console/messages?show=unfinished")
    await console.look("messages-none", "/console/messages?q=host%3Dnowhere.example")
    await console.look("messages-wrong", "/console/messages?q=color%3Dred")
    await console.look("message", f"/console/messages/{failing}")
    await console.look("message-edit", f"/console/messages/{waiting}/edit")

    page = await console.open("/console/messages?show=unfinished")
    await page.get_by_role("link", name=waiting, exact=True).click()
    await expect(page.get_by_text("Waits for its time")).to_be_visible()
    await page.get_by_role("link", name="Edit").click()
    await page.get_by_label("Body").fill("sooner")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("It is changed.")
    await page.get_by_role("button", name="Send now").click()
    await expect(page.get_by_text("delivered").first).to_be_visible(timeout=15_000)
    assert (await receiver.next_request("/good")).body == b'{"a": 1}'
    assert (await receiver.next_request("/good")).body == b"sooner"

    await console.open(f"/console/messages/{failing}")
    await page.get_by_role("button", name="Cancel…").click()
    await console.look("message-cancel")
    await page.get_by_role("button", name="Cancel the message").click()
    await expect(page.get_by_role("status").first).to_contain_text("It is canceled")
    assert await console.server.settled(failing, "CANCELED")


async def test_the_list_lives_and_stays_put(console: Console, receiver: Receiver) -> None:
    first = await console.server.publish(receiver.url("/good"), b"1", Upstash_Delay="1h")
    page = await console.open("/console/messages")
    row = page.locator(f'tr[data-key="{first}"]')
    await expect(row).to_contain_text("created")

    answer = await console.server.http.patch(f"/v2/messages/{first}", json={"delay": "0s"})
    assert answer.status_code == 200
    await expect(row).to_contain_text("delivered", timeout=15_000)

    await console.server.publish(receiver.url("/good"), b"2")
    news = page.locator("[data-news]")
    await expect(news).to_have_text("1 new", timeout=15_000)
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("button", name="Pause updates").click()
    await expect(page.get_by_role("button", name="Updates are paused")).to_be_visible()
    await news.click()
    await expect(page.locator("tbody tr")).to_have_count(2)
