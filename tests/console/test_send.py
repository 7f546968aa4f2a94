"""The request builder: what it checks, what it sends, and that its code does the same."""

from __future__ import annotations

import asyncio
import html
import os
import re
import shutil
import sys
from base64 import b64encode
from pathlib import Path

import httpx
import pytest

from postroad import dev
from postroad.console.drafts import Draft
from postroad.console.snippets import command, curl, python, typescript
from tests.conftest import TOKEN, Running
from tests.console.conftest import XSS, said
from tests.contract import javascript
from tests.receiver import Received, Receiver

NASTY = 'it\'s "$HOME" `id` \\ \\n %s {x} ${y} \t grüße 日本 !\nsecond line\n'

DRAFTS: dict[str, dict[str, str]] = {
    "plain": {"kind": "publish", "body": '{"a": 1}', "content_type": "application/json"},
    "nasty": {
        "kind": "publish",
        "body": NASTY,
        "content_type": 'text/plain; charset="utf-8"',
        "headers": 'X-Quotes: it\'s "$HOME" `id` \\ $(id)',
        "label": "two words, it's",
    },
    "dash": {"kind": "publish", "body": "-"},
    "nothing": {"kind": "publish"},
    "options": {
        "kind": "publish",
        "body": "x",
        "content_type": "text/plain",
        "method": "PATCH",
        "retries": "7",
        "retry_delay": "pow(2, retried) * 1000",
        "timeout": "25s",
        "delay": "1s",
        "callback": "CALLBACK",
        "failure_callback": "CALLBACK",
        "deduplication_id": "",
        "flow_key": "k y",
        "parallelism": "5",
        "rate": "100",
        "period": "1m",
        "redact": "header[X-Secret]",
        "headers": "X-Secret: s",
        "label": "one",
    },
    "queue": {"kind": "enqueue", "queue": "in-order", "body": "x", "content_type": "text/plain", "retries": "0"},
    "bytes": {"kind": "publish", "body_base64": b64encode(b"\x00\xff\x01").decode(), "content_type": "image/png"},
}
BY_THEMSELVES = (
    "upstash-message-id",
    "upstash-signature",
    "host",
    "user-agent",
    "accept",
    "upstash-caller-ip",
    "upstash-status-url",
)


async def made(visitor: httpx.AsyncClient, values: dict[str, str]) -> str:
    """Send a draft by the form, and give the id of its message."""
    answer = await visitor.post("/console/send", data=values)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].rpartition("/")[2]


def seen(request: Received) -> tuple[str, str, bytes, dict[str, str]]:
    """What of a delivery does not differ from one to the next."""
    headers = {name.lower(): value for name, value in request.headers if not name.lower().startswith(BY_THEMSELVES)}
    return request.method, request.target, request.body, headers


async def run(code: str, kind: str, server: Running) -> str:
    """Run a piece of code as somebody would who has pasted it."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "QSTASH_URL": server.url,
        "QSTASH_TOKEN": TOKEN,
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
    }
    if kind == "typescript":
        await asyncio.to_thread(javascript.install)
        arguments = [str(javascript.NODE), "--input-type=module", "-e", code]
    elif kind == "python":
        arguments = [sys.executable, "-c", code]
    else:
        arguments = ["bash", "-c", f"set -o pipefail; {code}"]
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=javascript.SCRIPTS,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{err.decode()}\n{out.decode()}\n{code}"
    return out.decode()


WAYS = {"curl": curl, "python": python, "typescript": typescript, "command": command}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DRAFTS)
async def test_code_sends_what_the_form_sends(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver, name: str, way: str
) -> None:
    if way == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    values = {key: value.replace("CALLBACK", receiver.url("/back")) for key, value in DRAFTS[name].items()}
    values["destination"] = receiver.url("/x?a=1&b=%20") if name == "nasty" else receiver.url("/x")
    message = await made(visitor, values)
    by_form = await receiver.next_request("/x")

    await run(WAYS[way](Draft(values)), way, server)
    by_code = await receiver.next_request("/x")

    one, other = seen(by_form), seen(by_code)
    if name == "nothing" or "content_type" not in values:
        # Without a type each client has one of its own.
        one[3].pop("content-type", None)
        other[3].pop("content-type", None)
    assert one == other
    [first, *_] = await server.events(messageId=message, order="earliestFirst")
    second = (await server.events(messageId=by_code.header("Upstash-Message-Id"), order="earliestFirst"))[0]
    for field in ("messageId", "time", "header", "callerIP", "nextDeliveryTime"):
        first.pop(field, None)
        second.pop(field, None)
    assert first == second


@pytest.mark.parametrize("way", WAYS)
async def test_code_makes_the_same_schedule(visitor: httpx.AsyncClient, server: Running, way: str) -> None:
    if way == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    values = {
        "kind": "schedule",
        "destination": "http://127.0.0.1:9/x",
        "cron": "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI",
        "schedule_id": "by-form",
        "body": "it's",
        "content_type": "text/plain",
        "queue": "emails",
        "delay": "5s",
        "retries": "2",
        "headers": "X-A: b",
    }
    assert (await visitor.post("/console/send", data=values)).headers["location"] == "/console/schedules/by-form"
    await run(WAYS[way](Draft({**values, "schedule_id": "by-code"})), way, server)

    first, second = [(await server.http.get(f"/v2/schedules/{one}")).json() for one in ("by-form", "by-code")]
    for field in ("scheduleId", "createdAt", "callerIP", "callerIp"):
        first.pop(field, None)
        second.pop(field, None)
    assert first == second


@pytest.mark.parametrize("way", WAYS)
async def test_code_sends_a_batch(visitor: httpx.AsyncClient, server: Running, receiver: Receiver, way: str) -> None:
    batch = '[{{"destination": "{}", "body": "it\'s $1"}}, {{"destination": "{}"}}]'.format(
        receiver.url("/a"),
        receiver.url("/b"),
    )
    page = await visitor.post("/console/send", data={"kind": "batch", "batch": batch})
    assert len(set(re.findall(r"/console/messages/(msg_\w+)", page.text))) == 2
    assert (await receiver.next_request("/a")).body == b"it's $1"
    await receiver.next_request("/b")
    await run(WAYS[way](Draft({"kind": "batch", "batch": batch})), way, server)
    assert (await receiver.next_request("/a")).body == b"it's $1"


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"delay": "soon"}, "delay", "invalid Upstash-Delay: got 'soon', expected a duration"),
        ({"retries": "-1"}, "retries", "invalid Upstash-Retries"),
        ({"retry_delay": "pow(2,"}, "retry_delay", "invalid Upstash-Retry-Delay"),
        ({"destination": "ftp://x"}, "destination", "endpoint has invalid scheme"),
        ({"destination": "nogroup"}, "destination", "topic nogroup not found"),
        ({"callback": "x"}, "callback", "Upstash-Callback"),
        ({"headers": "no colon"}, "headers", "is no header"),
        ({"headers": "X A: 1"}, "headers", "expected a header name"),
        ({"headers": "X-A: 日本"}, "headers", "expected printable ASCII"),
        ({"flow_key": "k"}, "flow", "Upstash-Flow-Control-Value"),
        ({"at": "2026-12-24T18:00", "zone": "Mars/Base"}, "zone", "no time zone"),
        ({"at": "tomorrow"}, "at", "is no time"),
        ({"kind": "enqueue"}, "queue", "name the queue"),
        ({"kind": "enqueue", "queue": "q", "delay": "5s"}, "delay", "can not be used with enqueue"),
        ({"kind": "schedule", "cron": "* * *"}, "cron", "invalid Upstash-Cron"),
        ({"kind": "batch", "batch": "[{}]"}, "batch", "(item 0)"),
        ({"kind": "batch", "batch": "{"}, "batch", "JSON"),
        ({"label": XSS + "\x01"}, "label", "Upstash-Label"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_said_at_its_field_and_nothing_is_sent(
    visitor: httpx.AsyncClient, server: Running, values: dict[str, str], field: str, words: str
) -> None:
    draft = {"kind": "publish", "destination": "http://127.0.0.1:9/x", **values}

    checked = await visitor.post("/console/send/check", data=draft)
    sent = await visitor.post("/console/send", data=draft)

    for page in (checked, sent):
        problem = re.search(r'data-field="([^"]*)">([^<]*)<', page.text)
        assert problem is not None, page.text
        assert (problem[1], words in html.unescape(problem[2])) == (field, True), problem[0]
    assert (checked.status_code, sent.status_code) == (200, 400)
    assert html.escape(next(iter(values.values())))[:8] in sent.text
    assert await server.events() == []


async def test_a_reader_may_check_and_not_send(reader: httpx.AsyncClient, server: Running) -> None:
    draft = {"kind": "publish", "destination": "http://127.0.0.1:9/x"}

    assert "The server would take it" in (await reader.post("/console/send/check", data=draft)).text
    assert "may not send" in (await reader.get("/console/send")).text
    refused = await reader.post("/console/send", data=draft)

    assert (refused.status_code, "this token is read-only" in refused.text) == (400, True)
    assert await server.events() == []


async def test_checking_sees_nothing_of_others(visitor: httpx.AsyncClient, server: Running) -> None:
    other = {"Authorization": f"Bearer {dev.DEV_USERS[1].token}"}
    endpoint = {"name": "one", "url": "http://127.0.0.1:9/x"}
    made_there = await server.http.post("/v2/topics/theirs/endpoints", json={"endpoints": [endpoint]}, headers=other)
    assert made_there.is_success

    answer = await visitor.post("/console/send/check", data={"kind": "publish", "destination": "theirs"})

    assert "topic theirs not found" in answer.text


async def test_a_message_is_published_again(visitor: httpx.AsyncClient, server: Running, receiver: Receiver) -> None:
    options = {
        "Upstash_Retries": "2",
        "Upstash_Label": "one,two",
        "Upstash_Forward_X_A": "it's",
        "Upstash_Flow_Control_Key": "k",
        "Upstash_Flow_Control_Value": "rate=10, period=1m",
        "Content_Type": "application/json",
        "Upstash_Callback": receiver.url("/back"),
    }
    for body in (b'{"a": "<b>"}\n', b"\x00\xff"):
        old = await server.publish(receiver.url("/x?a=b"), body, **options)
        first = await receiver.next_request("/x")
        page = (await visitor.get("/console/send", params={"again": old})).text
        assert "<b>" not in page
        values = dict(re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', page))
        values |= dict(re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>\n?([^<]*)</textarea>', page))
        values = {name: html.unescape(value) for name, value in values.items() if name != "kind"}
        new = await made(visitor, {**values, "kind": "publish"})
        second = await receiver.next_request("/x")
        assert new != old
        assert seen(first) == seen(second)
        assert first.body == body


async def test_a_dead_letter_is_edited_and_sent_anew(
    visitor: httpx.AsyncClient, server: Running, receiver: Receiver
) -> None:
    dead = await server.publish("http://127.0.0.1:9/x", b"wrong", Upstash_Retries="0")
    await server.settled(dead, "FAILED")
    [letter] = await server.dead_letters()
    page = (await visitor.get("/console/send", params={"again": dead, "dlq": letter["dlqId"]})).text
    assert "Delete the dead letter" in page
    assert "wrong</textarea>" in page

    draft = {
        "kind": "publish",
        "destination": receiver.url("/x"),
        "body": "right",
        "dlq": letter["dlqId"],
        "drop": "on",
    }
    answer = await visitor.post("/console/send", data=draft)

    assert "It is sent." in await said(visitor, answer)
    assert (await receiver.next_request("/x")).body == b"right"
    assert await server.dead_letters() == []
