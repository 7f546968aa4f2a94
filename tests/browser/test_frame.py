"""What all pages share, the overview, and signing in, in a browser."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.browser.conftest import Console
from tests.conftest import TOKEN, Serve
from tests.moods import status
from tests.receiver import Receiver


async def test_the_overview_lives(console: Console, receiver: Receiver) -> None:
    receiver.script("/bad", status(500))
    for path in ("/good", "/good", "/bad"):
        await console.server.publish(receiver.url(path), Upstash_Retries="0")
    await console.server.http.post(
        f"/v2/schedules/{receiver.url('/daily')}", headers={"Upstash-Cron": "@daily", "Upstash-Schedule-Id": "nightly"}
    )
    page = await console.open("/console")
    await expect(page.locator(".tile", has_text="Accepted")).to_contain_text("3 in the last hour", timeout=15_000)
    await expect(page.locator(".tile", has_text="Dead letters")).to_contain_text("1")

    await console.server.publish(receiver.url("/good"))
    await expect(page.locator(".tile", has_text="Accepted")).to_contain_text("4 in the last hour", timeout=15_000)

    await console.look("overview", "/console")
    await console.look("overview-day", "/console?span=24h")
    await console.look("nowhere-to-be-found", "/console/messages?q=host%3Dnowhere.example")


async def test_signing_in(console: Console, serve: Serve) -> None:
    server = await serve()
    inside, console.server = console.server, server
    await console.look("login", "/console/login")
    page = await console.open("/console/messages")
    await expect(page).to_have_url(re.compile("/console/login"))
    await page.get_by_label("Token or password").fill("wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nobody has this token")
    # Browsers write the status of the page itself into their console.
    console.complaints = [one for one in console.complaints if "401" not in one]
    await console.look("login-wrong")
    await page.get_by_label("Token or password").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(f"{server.url}/console/messages")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Token or password")).to_be_visible()
    console.server = inside


async def test_by_keyboard_and_in_the_colours_of_ones_choice(console: Console) -> None:
    page = await console.open("/console")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("/")
    await expect(page.get_by_label("Find messages")).to_be_focused()
    await page.keyboard.type("host=nowhere.example")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("No message matches.")).to_be_visible()
    await page.locator("main").focus()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
    await console.look("shortcuts")
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()

    await page.get_by_role("button", name="Dark").click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    await console.look("overview-chosen-dark")
    await page.get_by_role("button", name="Auto").click()
    await expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")


async def test_what_is_read_needs_no_scripts(console: Console, receiver: Receiver) -> None:
    message = await console.server.publish(receiver.url("/x"), b"the body", Upstash_Delay="1h")
    context = await console.browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{console.server.url}/console/messages")
    await page.get_by_role("link", name=message, exact=True).click()
    await expect(page.get_by_text("the body")).to_be_visible()
    await expect(page.get_by_text("Waits for its time")).to_be_visible()
    await page.get_by_role("button", name="Cancel…").click()
    await page.get_by_role("button", name="Cancel the message").click()
    await expect(page.get_by_role("status").first).to_contain_text("It is canceled")
    await context.close()
