"""Flow control, URL groups, keys, tokens, tenants, settings and the signature doctor in a browser."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Console
from tests.conftest import KEYS, eventually
from tests.receiver import Receiver

LIMITED = {"Upstash_Flow_Control_Key": "pay", "Upstash_Flow_Control_Value": "parallelism=2, rate=9, period=1h"}


async def test_a_destination_is_paused_and_limited(console: Console, receiver: Receiver) -> None:
    await console.look("flow-none", "/console/flow")
    server = console.server
    await server.settled(await server.publish(receiver.url("/pay"), **LIMITED))
    await console.look("flow", "/console/flow")
    await console.look("flow-key", "/console/flow/key?key=pay")

    page = await console.open("/console")
    await page.get_by_role("link", name="Flow control").click()
    await page.get_by_role("button", name="Pause pay").click()
    await expect(page.get_by_role("status").first).to_contain_text("pay is paused")
    message = await server.publish(receiver.url("/pay"), **LIMITED)
    await expect(page.get_by_role("row", name="pay").get_by_role("cell").nth(1)).to_have_text("1", timeout=15_000)
    await page.get_by_role("button", name="Resume pay").click()
    await server.settled(message)

    await page.get_by_role("link", name="Limits of pay").click()
    await page.get_by_label("Deliveries under way at a time").fill("5")
    await page.get_by_role("button", name="Pin the parallelism").click()
    await expect(page.get_by_text("0 of 5")).to_be_visible()
    await page.get_by_role("button", name="Unpin the parallelism").click()
    await page.get_by_label("Deliveries", exact=True).fill("many")
    await page.get_by_role("button", name="Pin the rate").click()
    await expect(page.get_by_role("alert")).to_contain_text("expected an integer")
    await console.look("flow-wrong")
    console.complaints = [one for one in console.complaints if "400 (Bad Request)" not in one]
    await page.get_by_label("Deliveries", exact=True).fill("8")
    await page.get_by_role("button", name="Pin the rate").click()
    await expect(page.get_by_text("0 of 8 in 1h")).to_be_visible()
    await page.get_by_role("button", name="Unpin the rate").click()
    await page.get_by_role("button", name="Begin a new period now").click()
    await expect(page.get_by_role("status").first).to_contain_text("has a new period")


async def test_a_group_is_made_and_deleted(console: Console, receiver: Receiver) -> None:
    await console.look("groups-none", "/console/groups")
    page = await console.open("/console/groups")
    await page.get_by_label("Name", exact=True).fill("orders")
    await page.get_by_role("textbox", name="Endpoints").fill(f"first {receiver.url('/a')}\n{receiver.url('/b')}")
    await page.get_by_role("button", name="Make the group").click()
    await page.get_by_text("Set some").click()
    await page.get_by_label("Headers", exact=True).fill("Upstash-Retries: 1")
    await page.get_by_role("button", name="Set the headers").click()
    await expect(page.get_by_role("row", name="Upstash-Retries")).to_be_visible()
    await console.look("groups", "/console/groups")
    await console.look("group", "/console/groups/orders")
    await page.get_by_role("textbox", name="Endpoints").fill(receiver.url("/c"))
    await page.get_by_role("button", name="Add").click()
    await page.get_by_role("row", name="/b").get_by_role("button", name="Remove…").click()
    await console.look("group-remove")
    await page.get_by_role("button", name="Remove the endpoint").locator("visible=true").click()
    await expect(page.get_by_role("row", name="/b")).to_have_count(0)
    await page.get_by_role("button", name="Delete…").click()
    await page.get_by_role("button", name="Delete the group").click()
    await expect(page.get_by_role("status").first).to_contain_text("The group orders is deleted")


async def test_keys_are_revealed_and_rolled(console: Console) -> None:
    await console.look("keys", "/console/keys")
    page = await console.open("/console/keys")
    await page.get_by_role("button", name="Reveal the keys").click()
    await expect(page.get_by_text(f'QSTASH_CURRENT_SIGNING_KEY="{KEYS.current}"')).to_be_visible()
    await console.look("keys-shown")
    await page.get_by_role("button", name="Copy both as .env lines").click()
    await page.get_by_role("link", name="Hide them").click()
    await page.get_by_role("button", name="Roll the keys…").click()
    await console.look("keys-roll")
    await page.get_by_role("button", name="Roll them now").click()
    await expect(page.get_by_role("status").first).to_contain_text("Rolled")
    await expect(page.get_by_text(f"••••{KEYS.next[-4:]}").first).to_be_visible()


async def test_a_tenant_gets_a_token_and_loses_it(console: Console) -> None:
    page = await console.open("/console/tenants")
    await page.get_by_label("Name", exact=True).fill("shop")
    await page.get_by_role("button", name="Make the tenant").click()
    await console.look("tokens-none", "/console/tokens?tenant=shop")
    await page.get_by_label("What it is for").fill("counts")
    await page.get_by_label("metadata").check()
    await page.get_by_role("button", name="Make the token").click()
    token = await page.get_by_label("The token", exact=True).inner_text()
    await console.look("token-made")

    async def status() -> int:
        headers = {"Authorization": f"Bearer {token.strip()}"}
        return (await console.server.http.get("/v2/queues", headers=headers)).status_code

    assert await status() == 200
    await console.look("tokens", "/console/tokens?tenant=shop")
    await page.get_by_role("button", name="Revoke…").click()
    await console.look("token-revoke")
    await page.get_by_role("button", name="Revoke it").click()
    await expect(page.get_by_role("status").first).to_contain_text("counts is revoked")
    await eventually(status, lambda found: found == 401)

    await console.look("tenants", "/console/tenants")
    await console.look("tenant", "/console/tenants/shop")
    await console.open("/console/tenants/shop")
    await page.get_by_label("Messages a day").fill("1000")
    await page.get_by_role("button", name="Set", exact=True).click()
    await expect(page.get_by_role("status").first).to_contain_text("Set")
    await page.get_by_role("link", name="Tenants").first.click()
    await page.get_by_role("button", name="Look at shop").click()
    await page.get_by_role("link", name="Settings").click()
    await expect(page.get_by_text("1,000; 0 today")).to_be_visible()
    await console.look("settings", "/console/settings")


async def test_a_signature_is_examined(console: Console, receiver: Receiver) -> None:
    await console.server.publish(receiver.url("/hook"), b'{"a": 1}\n')
    signature = (await receiver.next_request("/hook")).header("Upstash-Signature") or ""
    await console.look("verify", "/console/verify")
    page = await console.open("/console/verify")
    await page.get_by_label("Upstash-Signature").fill(signature)
    await page.get_by_label("URL that the receiver").fill(receiver.url("/hook"))
    await page.get_by_label("Body, as it arrived").fill('{"a": 1}\n')
    await page.get_by_role("button", name="Examine", exact=True).click()
    await expect(page.get_by_role("heading", name="It is accepted")).to_be_visible()
    await console.look("verify-good")
    await page.get_by_label("URL that the receiver").fill("https://app.example.com/hook")
    await page.get_by_role("button", name="Examine", exact=True).click()
    await expect(page.get_by_role("heading", name="It is not accepted: url")).to_be_visible()
    await console.look("verify-bad")
