"""Servers that answer what no QStash does, and texts that would do something to a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

from postroad.cli import output
from tests.cli.conftest import POSTROAD, Run, command, run_here
from tests.moods import Headers, Mood, ok, raw, redirect, status
from tests.receiver import Receiver

JSON = (("Content-Type", "application/json"),)
HTML = (("Content-Type", "text/html"),)
STREAM = (("Content-Type", "text/event-stream"),)
ID = "msg_1ChJjTai2G96YBcMGvCnEd"


def page(code: int, text: str) -> Mood:
    return status(code, f"<html>\r\n<head><title>{text}</title></head>\r\n</html>".encode(), HTML)


@pytest.mark.parametrize(
    ("mood", "code", "said"),
    [
        (page(502, "Bad Gateway"), 1, "Bad Gateway (HTTP 502)"),
        (page(413, "nginx"), 1, "Request Entity Too Large (HTTP 413)"),
        (page(200, "Welcome"), 6, "is no QStash: it sent '<html>"),
        (ok(b""), 6, "is no QStash: it sent ''"),
        (ok(b"{", JSON), 6, "is no QStash: it sent '{'"),
        (ok(b"\xff\xfe\x00", JSON), 6, "is no QStash"),
        (ok(b"no gzip", (*JSON, ("Content-Encoding", "gzip"))), 6, "cannot reach"),
        (status(403, b"caf\xe9", (("Content-Type", "text/plain; charset=latin-1"),)), 1, "café (HTTP 403)"),
        (status(500, b""), 1, "Internal Server Error (HTTP 500)"),
        (redirect("https://app.example.com/v2/queues"), 1, "it sends on to https://app.example.com/v2/queues"),
        (redirect("https://u:secret@app.example.com/"), 1, "it sends on to https://app.example.com/"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n[", then_close=True), 6, "cannot reach"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_of_the_api_is_told_in_a_sentence(
    receiver: Receiver, mood: Mood, code: int, said: str
) -> None:
    receiver.script("/v2/queues", mood)

    ran = await command(receiver, "queues", "list", "--json")

    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1, "one sentence"
    assert "secret" not in ran.err


@pytest.mark.parametrize(
    "url", ["http://[::1", "localhost:8080", "ftp://u:secret@x", "http://", "http://127.0.0.1:99999"]
)
def test_a_url_that_is_none_is_told_with_what_one_is(url: str) -> None:
    ran = run_here("queues", "list", "--url", url)

    assert ran.code == 1
    assert "expected one such as http://127.0.0.1:8080" in ran.err
    assert "secret" not in ran.err


@pytest.mark.parametrize("token", ["sécret", "sec\x00ret", "sec\r\nX-Other: ret"])
def test_a_token_that_cannot_be_sent_is_not_printed(token: str) -> None:
    ran = run_here("queues", "list", "--url", "http://127.0.0.1:1", "--token", token)

    assert ran.code == 1
    assert ran.err == "postroad: QSTASH_TOKEN is no token: expected printable letters of ASCII on one line\n"


async def test_the_end_of_a_line_after_a_token_is_no_part_of_it(receiver: Receiver) -> None:
    receiver.script("/v2/queues", ok(b"[]", JSON))

    ran = await asyncio.to_thread(
        run_here, "queues", "list", "--url", receiver.url("").rstrip("/") + "\n", "--token", "t\r\n"
    )

    assert ran.code == 0
    assert (await receiver.next_request("/v2/queues")).header("Authorization") == "Bearer t"


def test_a_password_in_the_url_is_not_printed() -> None:
    ran = run_here("queues", "list", "--url", "http://user:secret@127.0.0.1:1")

    assert ran.err.startswith("postroad: cannot reach http://127.0.0.1:1: ")


async def test_a_proxy_of_the_environment_is_used_but_for_this_machine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", receiver.url("").rstrip("/"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    receiver.script("http://qstash.invalid/v2/queues", ok(b"[]", JSON))

    far = await asyncio.to_thread(run_here, "queues", "list", "--url", "http://qstash.invalid", "--token", "t")
    near = await asyncio.to_thread(run_here, "queues", "list", "--url", "http://127.0.0.1:1", "--token", "t")

    assert far.code == 0
    assert len(receiver.requests()) == 1
    assert near.code == 6


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://127.0.0.1:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)

    ran = run_here("queues", "list", "--url", "http://qstash.invalid")

    assert ran.code == 1
    assert ran.err.startswith("postroad: HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE cannot be used: ")


EVIL = "\x1b]0;owned\x07\x9b31m[red]\u202e"


def queue(name: str) -> dict[str, Any]:
    return {"name": name, "parallelism": 1, "paused": False, "lag": 0, "counts": {}, "createdAt": 1, "updatedAt": 1}


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_nothing_that_a_server_says_is_obeyed_by_a_terminal(
    receiver: Receiver, run_on_terminal: Run, options: Headers
) -> None:
    receiver.script("/v2/queues", ok(json.dumps([queue(EVIL)], ensure_ascii=False).encode(), JSON))

    ran = await run_on_terminal("queues", "list", "--url", receiver.url("").rstrip("/"), *options)

    assert "[red]" in ran.out
    assert not any(letter in ran.out for letter in "\x07\x9b\x1b\u202e"), ran.out


async def test_nor_is_what_it_says_of_an_error(receiver: Receiver) -> None:
    receiver.script("/v2/queues", status(400, json.dumps({"error": EVIL}).encode(), JSON))

    ran = await command(receiver, "queues", "list")

    assert ran.err == "postroad: \\x1b]0;owned\\x07\\x9b31m[red]\\u202e (HTTP 400)\n"


def test_json_loses_nothing(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    value = {"big": 2**100, "half": "\ud800", "odd": EVIL, "far": "日本 \U000e0001", "name\x7f": [None, True, 1.5]}

    output.document(value)

    assert json.loads(capfdbinary.readouterr().out) == value


async def test_a_locale_without_a_letter_is_no_reason_to_fail(receiver: Receiver) -> None:
    receiver.script("/v2/queues", ok(json.dumps([queue("日本")]).encode(), JSON))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(POSTROAD), "queues", "list", "--url", receiver.url("").rstrip("/")],
            env=os.environ | {"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            text=True,
            check=False,
        )

    ran = await asyncio.to_thread(run)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("\\u65e5\\u672c\t1\t")


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\x0b", "\x1c"])
async def test_an_end_of_a_line_in_what_a_handler_says_is_no_end_of_a_line_of_the_stream(
    receiver: Receiver, letter: str
) -> None:
    state = {"id": ID, "status": "pending", "createdAt": 1, "updatedAt": 1}
    last = state | {"status": "completed", "note": f"a{letter}b"}
    receiver.script(f"/v2/status/{ID}", ok(json.dumps(state).encode(), JSON))
    data = json.dumps(last, ensure_ascii=False).encode()
    receiver.script(f"/v2/status/{ID}/stream", ok(b"event: status\r\ndata: " + data + b"\r\n\r\n", STREAM))

    ran = await command(receiver, "status", ID, "--wait", "--json")

    assert (ran.code, ran.err) == (0, "")
    assert ran.json == last


async def test_a_page_instead_of_a_stream_is_told(receiver: Receiver) -> None:
    receiver.script("/v2/events/stream", page(200, "Welcome"))

    ran = await command(receiver, "logs", "--follow")

    assert ran.code == 6
    assert "is no QStash: it sent '<html>" in ran.err


async def test_a_narrow_terminal_gets_names_and_values_and_no_id_in_pieces(
    receiver: Receiver, run_on_terminal: Run
) -> None:
    one = {"messageId": ID, "state": "waiting", "dueAt": 1, "waitsFor": "its time", "url": "http://x/"}
    receiver.script("/v2/messages", ok(json.dumps({"messages": [one, one]}).encode(), JSON))

    narrow = await run_on_terminal("messages", "--url", receiver.url("").rstrip("/"), columns=40)
    wide = await run_on_terminal("messages", "--url", receiver.url("").rstrip("/"), columns=120)

    assert [line.split() for line in narrow.out.splitlines() if line.startswith("message ")] == [["message", ID]] * 2
    assert max(map(len, narrow.out.splitlines())) <= 40
    assert len([line for line in wide.out.splitlines() if line.startswith(ID)]) == 2
