"""Texts of others that look like markup: wherever they are shown, nothing of them is executed."""

from __future__ import annotations

from urllib.parse import quote

from tests.browser.conftest import Console
from tests.moods import status
from tests.receiver import Receiver

CORPUS = (
    "<script>window.struck = 1</script>",
    "\"'><img src=x onerror=window.struck=1>",
    "<svg onload=window.struck=1>",
    "</textarea></pre></code><script>window.struck=1</script>",
    "javascript:window.struck=1",
    "{{ 7 * 7 }}${7*7}<%= 7 %>",
    "' onfocus=window.struck=1 autofocus x='",
    '"><iframe srcdoc="<script>parent.struck=1</script>">',
    "<a href='javascript:window.struck=1'>click</a><form action=https://evil.example><button>",
    "]]><!--<script>window.struck=1</script>-->",
    "\u202egnp.exe\u2028<b>bold</b>",
)
EVERYTHING = " ".join(CORPUS)


async def test_nothing_of_it_is_executed(console: Console, receiver: Receiver) -> None:
    http = console.server.http
    header = EVERYTHING.encode("ascii", "ignore").decode()
    receiver.script("/bad", status(500, EVERYTHING.encode(), [("X-Answer", header), ("Content-Type", "text/html")]))
    label = CORPUS[1].replace(",", "")
    headers = {
        "Upstash-Forward-X-Text": header,
        "Upstash-Label": label,
        "Upstash-Flow-Control-Key": CORPUS[0],
        "Upstash-Flow-Control-Value": "parallelism=5",
        "Content-Type": "text/html",
    }
    url = f"{receiver.url('/bad')}?{quote(EVERYTHING, safe='')}&x=<script>window.struck=1</script>\"'"
    ids = []
    for retries in ("0", "3"):
        answer = await http.post(
            f"/v2/publish/{url}", headers={**headers, "Upstash-Retries": retries}, content=EVERYTHING.encode()
        )
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["messageId"])
    await console.server.settled(ids[0], "FAILED")
    await console.server.settled(ids[1], "RETRY")
    reported = await http.post(
        f"/v2/status/{ids[1]}", json={"progress": 50, "note": EVERYTHING, "log": EVERYTHING, "result": {label: label}}
    )
    assert reported.status_code == 200, reported.text
    [letter] = await console.server.dead_letters()
    schedule = await http.post(
        f"/v2/schedules/{url}",
        headers={**headers, "Upstash-Cron": "@daily", "Upstash-Schedule-Id": "s"},
        content=EVERYTHING.encode(),
    )
    assert schedule.status_code == 201, schedule.text
    endpoint = {"name": CORPUS[0], "url": receiver.url("/x")}
    group = await http.post("/v2/topics/g/endpoints", json={"endpoints": [endpoint]})
    assert group.is_success or group.status_code == 400
    await http.post(f"/v2/flowControl/{quote(CORPUS[1], safe='')}/pin", params={"parallelism": 1})

    evil = quote(EVERYTHING)
    for path in (
        "",
        "/messages",
        f"/messages?q={evil}",
        f"/messages/{ids[0]}",
        f"/messages/{ids[1]}",
        "/dlq",
        f"/dlq?q={evil}",
        f"/dlq/{letter['dlqId']}",
        f"/send?again={ids[0]}&dlq={letter['dlqId']}",
        f"/send?url={evil}",
        "/schedules",
        f"/schedules?q={evil}",
        "/schedules/s",
        "/schedules/s/edit",
        "/queues",
        "/flow",
        f"/flow?search={evil}",
        "/groups",
        "/groups/g",
        "/tokens",
        "/audit",
        "/settings",
        "/keys",
        "/verify",
    ):
        answered = await console.page.goto(f"{console.server.url}/console{path}")
        assert answered is not None
        assert answered.status < 500, path
        await console.page.wait_for_load_state("networkidle")
        assert await console.page.evaluate("window.struck") is None, path
        assert await console.page.locator("main iframe, main img[src='x'], main [onload], main b").count() == 0, path
        assert await console.page.locator("a[href^='javascript:'], form[action^='http']").count() == 0, path
    # A field that is refused is a 400, which a browser writes into its console.
    console.complaints = [one for one in console.complaints if "status of 40" not in one]
