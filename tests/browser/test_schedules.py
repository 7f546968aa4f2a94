"""The pages of schedules and queues in a browser."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Console
from tests.conftest import Running
from tests.moods import status
from tests.receiver import Receiver


async def make(server: Running, schedule_id: str, destination: str, cron: str, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"Upstash-Cron": cron, "Upstash-Schedule-Id": schedule_id}
    answer = await server.http.post(f"/v2/schedules/{destination}", headers=named, content=b'{"a": 1}')
    assert answer.status_code == 201, answer.text


async def test_schedules_are_looked_at(console: Console, receiver: Receiver) -> None:
    receiver.script("/bad", status(500, b"no"))
    await console.look("schedules-none", "/console/schedules")
    berlin = "CRON_TZ=Europe/Berlin 30 2 * * *"
    await make(console.server, "daily-report", receiver.url("/good"), berlin, Upstash_Retries="0", Upstash_Label="a,b")
    await make(console.server, "cleanup", receiver.url("/bad"), "*/15 * * * *", Upstash_Retries="0")
    await console.server.http.post("/v2/schedules/cleanup/pause")
    for schedule_id, end in (("daily-report", "DELIVERED"), ("cleanup", "FAILED")):
        for _ in range(3):
            answer = await console.server.http.post(f"/v2/schedules/{schedule_id}/run")
            await console.server.settled(answer.json()["messageId"], end)

    await console.look("schedules", "/console/schedules")
    await console.look("schedule", "/console/schedules/daily-report", ready='.runs a[data-state="delivered"]')
    await console.look("schedule-paused", "/console/schedules/cleanup", ready='.runs a[data-state="failed"]')
    await console.look("schedule-edit", "/console/schedules/daily-report/edit")
    await console.look("schedule-new", "/console/schedules/-/new")

    page = await console.open("/console/schedules/daily-report")
    await page.get_by_role("button", name="Delete…").click()
    await console.look("schedule-delete")
    await page.get_by_role("button", name="Delete the schedule").click()
    await expect(page.get_by_role("status").first).to_contain_text("daily-report is deleted.")


async def test_tomorrows_schedule_is_changed_with_three_clicks(console: Console, receiver: Receiver) -> None:
    await make(console.server, "daily-report", receiver.url("/good"), "CRON_TZ=Europe/Berlin 0 9 * * *")
    page = await console.open("/console")

    await page.get_by_role("link", name="Schedules").click()
    await page.get_by_role("link", name="Edit daily-report").click()
    await page.get_by_label("Cron expression").fill("30 10 * * MON-FRI")
    words = page.locator("#words")
    await expect(words).to_contain_text("Every weekday at 10:30, Europe/Berlin")
    await page.get_by_label("Cron expression").fill("99 10 * * *")
    await expect(words).to_contain_text("expected 0 to 59 as the minute")
    await console.look("schedule-edit-wrong")
    await page.get_by_label("Cron expression").fill("30 10 * * *")
    await page.get_by_label("Time zone").fill("Asia/Tokyo")
    await expect(words).to_contain_text("Every day at 10:30, Asia/Tokyo")
    await page.get_by_role("button", name="Save").click()

    await expect(page.get_by_role("status").first).to_contain_text("It is changed.")
    shown = (await console.server.http.get("/v2/schedules/daily-report")).json()
    assert (shown["cron"], shown["body"]) == ("CRON_TZ=Asia/Tokyo 30 10 * * *", '{"a": 1}')


async def test_a_schedule_is_made_run_and_paused(console: Console, receiver: Receiver) -> None:
    page = await console.open("/console/schedules")
    await page.get_by_role("link", name="Make the first one").click()
    await page.get_by_label("Cron expression").fill("0 9 * * *")
    await page.get_by_label("Destination").fill(receiver.url("/made?a=1&b=%2F"))
    await page.get_by_label("Body").fill("hello")
    await page.get_by_label("Id", exact=True).fill("mine")
    await page.get_by_role("button", name="Make the schedule").click()
    await expect(page.get_by_role("status").first).to_contain_text("It is made.")

    await page.get_by_role("button", name="Run now").click()
    await expect(page.get_by_role("status").first).to_contain_text("mine was run")
    request = await receiver.next_request("/made")
    assert (request.target, request.body) == ("/made?a=1&b=%2F", b"hello")

    await console.open("/console/schedules")
    row = page.locator('tr[data-key="mine"]')
    await row.get_by_role("button", name="Pause mine").click()
    await expect(row).to_contain_text("paused")
    # What others do is seen without a click.
    await console.server.http.post("/v2/schedules/mine/resume")
    await expect(row).to_contain_text("running", timeout=15_000)
    await expect(row.get_by_role("button", name="Pause mine")).to_be_visible()


async def test_queues(console: Console, receiver: Receiver) -> None:
    await console.look("queues-none", "/console/queues")
    page = await console.open("/console/queues")
    await page.get_by_label("Name").fill("mails")
    await page.get_by_role("button", name="Make the queue").click()
    await expect(page.get_by_role("status").first).to_contain_text("It is made.")
    await console.look("queue-none", "/console/queues/mails")

    # Two clicks from anywhere.
    await page.get_by_role("link", name="Queues").click()
    await page.get_by_role("button", name="Pause mails").click()
    await expect(page.get_by_role("status").first).to_contain_text("mails is paused")
    for number in range(3):
        await console.server.http.post(f"/v2/enqueue/mails/{receiver.url('/mail')}", content=str(number))
    await console.look("queues", "/console/queues")
    await console.look("queue", "/console/queues/mails", ready="td >> text=which is paused")

    await console.open("/console/queues/mails")
    await page.get_by_role("spinbutton", name="At a time").fill("2")
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_role("status").first).to_contain_text("It lets 2 go at a time.")
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("Nothing waits")).to_be_visible(timeout=15_000)
    await page.get_by_role("button", name="Delete…").click()
    await console.look("queue-delete")
    await page.get_by_role("button", name="Delete the queue").click()
    await expect(page.get_by_role("status").first).to_contain_text("mails is deleted")
