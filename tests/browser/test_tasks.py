"""What people come to do, from the overview on: none of it takes more than three clicks."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.async_api import Locator, expect

from tests.browser.conftest import Console
from tests.moods import ok, status
from tests.receiver import Receiver

MOST = 3


@dataclass
class Clicks:
    """Counts them."""

    console: Console
    count: int = 0

    async def begin(self) -> None:
        """Start on the overview, where somebody is who has just come in."""
        self.count = 0
        await self.console.open("/console")

    async def on(self, what: Locator) -> None:
        """Click once more."""
        self.count += 1
        await what.first.click()

    async def find(self, text: str) -> None:
        """Type into the box on top, which `/` leads to."""
        await self.console.page.keyboard.press("/")
        await self.console.page.keyboard.type(text)
        await self.console.page.keyboard.press("Enter")

    def within_reach(self) -> None:
        """It is done, in so few."""
        assert self.count <= MOST


async def test_messages(console: Console, receiver: Receiver) -> None:
    page, server, clicks = console.page, console.server, Clicks(console)
    receiver.script("/bad", status(500, b"no stock"))
    failed = await server.publish(receiver.url("/bad"), Upstash_Retries="0", Upstash_Label="nightly")
    await server.settled(failed, "FAILED")
    failing = await server.publish(receiver.url("/bad"), Upstash_Retry_Delay="3600000")
    await server.settled(failing, "RETRY")
    waiting = await server.publish(receiver.url("/x"), Upstash_Delay="1h")

    await clicks.begin()  # Why did this message fail?
    await clicks.find(failed)
    await expect(page.get_by_text("no stock")).to_be_visible()
    clicks.within_reach()

    await clicks.begin()  # Which messages of this label have failed in the last hour?
    await clicks.find("label=nightly state=FAILED since=1h")
    await expect(page.get_by_role("link", name=failed, exact=True)).to_be_visible()
    clicks.within_reach()

    await clicks.begin()  # Cancel one that waits.
    await clicks.on(page.get_by_role("link", name="Waiting"))
    await clicks.on(page.get_by_role("link", name=f"Cancel {waiting}"))
    await clicks.on(page.get_by_role("button", name="Yes, cancel it"))
    await expect(page.get_by_role("status").first).to_contain_text("It is canceled")
    clicks.within_reach()

    await clicks.begin()  # Make the next attempt now.
    await clicks.on(page.get_by_role("link", name="Waiting"))
    await clicks.on(page.get_by_role("link", name=failing, exact=True))
    await clicks.on(page.get_by_role("button", name="Retry now"))
    await expect(page.get_by_role("status").first).to_contain_text("It is due now")
    clicks.within_reach()

    await clicks.begin()  # Publish one, with its code.
    await page.keyboard.press("n")
    await page.get_by_label("Destination", exact=True).fill(receiver.url("/x"))
    await expect(page.locator("#check")).to_contain_text("curl --globoff")
    await clicks.on(page.get_by_role("button", name="Send", exact=True))
    await expect(page.get_by_role("status").first).to_contain_text("It is sent.")
    clicks.within_reach()


async def test_dead_letters(console: Console, receiver: Receiver) -> None:
    page, server, clicks = console.page, console.server, Clicks(console)
    receiver.script("/bad", *[status(500)] * 3, ok())
    for host in ("localhost", "127.0.0.1", "127.0.0.1"):
        await server.settled(
            await server.publish(receiver.url("/bad", host=host), b"wrong", Upstash_Retries="0"), "FAILED"
        )

    await clicks.begin()  # Retry all failures of the last day to one host.
    await clicks.on(page.get_by_role("link", name="Dead letters"))
    await clicks.on(page.get_by_role("link", name="Retry localhost"))
    await clicks.on(page.get_by_role("button", name="Retry 1", exact=True))
    await expect(page.get_by_role("status").first).to_contain_text("1 dead letter is on the way again")
    clicks.within_reach()

    await clicks.begin()  # Edit one, and send it again.
    await clicks.on(page.get_by_role("link", name="Dead letters"))
    await clicks.on(page.get_by_role("link", name="Edit and retry"))
    await page.get_by_label("Body").fill("right")
    await clicks.on(page.get_by_role("button", name="Send", exact=True))
    await expect(page.get_by_role("status").first).to_contain_text("It is sent.")
    clicks.within_reach()
    assert len(await server.dead_letters()) == 1
    assert [one.body for one in await receiver.wait_for(5, "/bad")][-1] == b"right"


async def test_what_is_managed(console: Console, receiver: Receiver) -> None:
    page, server, clicks = console.page, console.server, Clicks(console)
    await server.http.post(
        f"/v2/schedules/{receiver.url('/x')}", headers={"Upstash-Cron": "0 9 * * *", "Upstash-Schedule-Id": "daily"}
    )
    flow = {"Upstash_Flow_Control_Key": "shop", "Upstash_Flow_Control_Value": "parallelism=1"}
    await server.publish(receiver.url("/x"), **flow)
    await server.http.post(f"/v2/enqueue/mails/{receiver.url('/x')}")

    await clicks.begin()  # Tomorrow's run at another time.
    await clicks.on(page.get_by_role("link", name="Schedules"))
    await clicks.on(page.get_by_role("link", name="Edit daily"))
    await page.get_by_label("Cron expression").fill("30 10 * * *")
    await clicks.on(page.get_by_role("button", name="Save"))
    await expect(page.get_by_role("status").first).to_contain_text("It is changed.")
    clicks.within_reach()

    await clicks.begin()  # Pause what goes to a destination.
    await clicks.on(page.get_by_role("link", name="Flow control"))
    await clicks.on(page.get_by_role("button", name="Pause shop"))
    await expect(page.get_by_text("paused").first).to_be_visible()
    clicks.within_reach()

    await clicks.begin()  # Pause a queue.
    await clicks.on(page.get_by_role("link", name="Queues"))
    await clicks.on(page.get_by_role("button", name="Pause mails"))
    await expect(page.get_by_role("status").first).to_contain_text("mails is paused")
    clicks.within_reach()

    await clicks.begin()  # A token for a dashboard.
    await clicks.on(page.get_by_role("link", name="Tokens"))
    await page.get_by_label("What it is for").fill("dashboard")
    await clicks.on(page.get_by_role("radio", name="read-only"))
    await clicks.on(page.get_by_role("button", name="Make the token"))
    await expect(page.get_by_text("prt_").first).to_be_visible()
    clicks.within_reach()

    await clicks.begin()  # Roll the signing keys.
    await clicks.on(page.get_by_role("link", name="Signing keys"))
    await clicks.on(page.get_by_role("button", name="Roll"))
    await clicks.on(page.locator("[popover]:popover-open button.danger"))
    await expect(page.get_by_role("status").first).to_contain_text("olled")
    clicks.within_reach()
