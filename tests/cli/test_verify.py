"""verify, the signature doctor."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from qstash import Receiver as OfficialReceiver

from postroad.domain.signature import signature
from tests.cli.conftest import Ran, Run, run_here
from tests.conftest import KEYS, Running
from tests.receiver import Receiver

URL = "https://app.example.com/api/job?a=1&b=2"
BODY = b'{"b": 1, "a": "\xc3\xa9", "list": [1, 2]}'

pytestmark = pytest.mark.usefixtures("keys")


def signed(body: bytes = BODY, *, url: str = URL, key: str = KEYS.current, ago_s: int = 10) -> str:
    return signature(key, url, body, int(time.time()) - ago_s, "jwt_1")


def verified(token: str, *options: str, body: bytes | None = BODY, url: str | None = URL) -> Ran:
    given = [*(["--body-file", "-"] if body is not None else []), *(["--url", url] if url else []), *options]
    return run_here("verify", "--signature", token, *given, stdin=body or b"")


def complaints(ran: Ran) -> dict[str, str]:
    """What is bad, with why."""
    assert ran.code == 1, ran
    return {row[0]: row[2] for row in (line.split("\t") for line in ran.out.splitlines()) if row[1] == "bad"}


def test_what_a_receiver_accepts_is_good() -> None:
    ran = verified(signed())

    assert [row[:2] for row in ran.rows] == [
        [check, "good"] for check in ("form", "key", "issuer", "expiry", "made", "url", "body")
    ]
    assert ran.rows[1][2] == "made with QSTASH_CURRENT_SIGNING_KEY"
    assert ran.err == "It is accepted.\n"
    assert verified(signed(key=KEYS.next)).rows[1][2] == "made with QSTASH_NEXT_SIGNING_KEY"


def test_what_is_not_given_is_not_checked() -> None:
    ran = verified(signed(), body=None, url=None)

    assert ran.code == 0
    assert ran.err == "It is accepted, as far as it could be checked (not: url, body).\n"


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "is empty"),
        ("Bearer abc", "an Authorization header"),
        ("v1,abc=", "Standard Webhooks"),
        ("abc.def", "2 of the three parts"),
        ("abc.def.ghi", "no base64url of JSON"),
        (".".join(base64.urlsafe_b64encode(b"[1]").decode() for _ in range(3)), "but no objects"),
        (
            base64.urlsafe_b64encode(b'{"alg":"none"}').decode() + "." + base64.urlsafe_b64encode(b"{}").decode() + ".",
            "none",
        ),
    ],
)
def test_what_is_no_token_of_ours(token: str, why: str) -> None:
    assert why in complaints(verified(token))["form"]


def test_the_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "made with neither QSTASH_CURRENT_SIGNING_KEY nor QSTASH_NEXT"
        in complaints(verified(signed(key="sig_x")))["key"]
    )
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", "sig_of_production")
    monkeypatch.setenv("QSTASH_NEXT_SIGNING_KEY", "sig_after_it")
    assert "current key of `postroad dev` (default)" in complaints(verified(signed()))["key"]
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", f'"{KEYS.current}"')
    assert "without the quotes around it" in complaints(verified(signed()))["key"]
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", f"{KEYS.current} ")
    assert "without the white space around it" in complaints(verified(signed()))["key"]


def test_keys_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSTASH_CURRENT_SIGNING_KEY")
    monkeypatch.delenv("QSTASH_NEXT_SIGNING_KEY")

    assert "set QSTASH_CURRENT_SIGNING_KEY" in verified(signed(key="sig_x")).rows[1][2]


def test_time() -> None:
    assert complaints(verified(signed(ago_s=900)))["expiry"].startswith("expired 10m")
    assert "in the future" in complaints(verified(signed(ago_s=-60)))["made"]
    assert verified(signed(ago_s=-60), "--tolerance", "2m").code == 0
    assert verified(signed(ago_s=900), "--at", str(int(time.time()) - 880)).code == 0


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://app.example.com/api/job?a=1&b=2", "the scheme: signed is https, here it is http: a proxy"),
        ("https://10.0.0.7/api/job?a=1&b=2", "the host: signed is app.example.com, here it is 10.0.0.7"),
        ("https://APP.example.com/api/job?a=1&b=2", "how the host is written"),
        ("https://app.example.com:8443/api/job?a=1&b=2", "the port: signed is 443, here it is 8443"),
        ("https://app.example.com:443/api/job?a=1&b=2", "how the host is written"),
        ("https://app.example.com/job?a=1&b=2", "something in between took /api away"),
        ("https://app.example.com/other?a=1&b=2", "the path: signed is /api/job, here it is /other"),
        ("https://app.example.com/API/job?a=1&b=2", "large and small letters"),
        ("https://app.example.com/api%2Fjob?a=1&b=2", "how the path is percent-encoded"),
        ("https://app.example.com/api/job/?a=1&b=2", "the slash at the end of the path"),
        ("https://app.example.com/api/job", "the query: signed is ?a=1&b=2, here there is none"),
        ("https://app.example.com/api/job?b=2&a=1", "the order in the query"),
        ("https://app.example.com/api/job?a=%31&b=2", "how the query is percent-encoded"),
        ("https://app.example.com/api/job?a=2", "the query: signed is ?a=1&b=2, here it is ?a=2"),
        ("https://app.example.com/api/job?a=1&b=2#top", "the fragment"),
    ],
)
def test_another_url_and_which_part_of_it(url: str, part: str) -> None:
    found = complaints(verified(signed(), url=url))

    assert list(found) == ["url"]
    assert part in found["url"]
    assert "; " not in found["url"], "only that part"


VALUE = json.loads(BODY)
ESCAPED = "letters beyond ASCII as \\u escapes"


@pytest.mark.parametrize(
    ("original", "words"),
    [
        (
            json.dumps(VALUE, separators=(",", ":"), ensure_ascii=False),
            "the same JSON compact, as JSON.stringify writes it",
        ),
        (
            json.dumps(VALUE, separators=(",", ":")),
            f"the same JSON compact, as JSON.stringify writes it, {ESCAPED}",
        ),
        (
            json.dumps(VALUE),
            f"the same JSON with blanks after commas and colons, as json.dumps of Python writes it, {ESCAPED}",
        ),
        (
            json.dumps(VALUE, separators=(",", ":"), ensure_ascii=False, sort_keys=True),
            "the same JSON compact, as JSON.stringify writes it, keys sorted",
        ),
        (json.dumps(VALUE, indent=2, ensure_ascii=False), "the same JSON indented by 2"),
        (
            json.dumps(VALUE, indent=4, ensure_ascii=False) + "\n",
            "the same JSON indented by 4, with a newline at the end",
        ),
        (BODY.decode() + "\n", "this one with a newline at the end"),
        ("", "an empty body"),
        (json.dumps(BODY.decode()), "this text in quotes, as a JSON string"),
        (base64.b64encode(BODY).decode(), "this one encoded as base64"),
    ],
)
def test_a_body_that_was_written_anew_and_how(original: str, words: str) -> None:
    found = complaints(verified(signed(original.encode())))

    assert list(found) == ["body"]
    assert found["body"].startswith(f"what was signed is {words}: something")


def test_bodies_that_are_gone_or_are_others() -> None:
    assert "something read the stream before" in complaints(verified(signed(), body=b""))["body"]
    assert "it is another body" in complaints(verified(signed(b"hello")))["body"]
    assert "decoded from base64" in complaints(verified(signed(), body=base64.b64encode(BODY)))["body"]
    assert "without the white space at its end" in complaints(verified(signed(), body=BODY + b"\n"))["body"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    ran = verified(signed(b"other", ago_s=900, key="sig_x"), "--json", url="http://elsewhere.test/")

    assert ran.code == 1
    document: dict[str, Any] = json.loads(ran.out)
    assert document["valid"] is False
    assert [one["check"] for one in document["findings"] if one["verdict"] == "bad"] == ["key", "expiry", "url", "body"]


RAW = (
    "POST /api/job?a=1&b=2 HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-Proto: https\r\n"
    "Upstash-Signature: {token}\r\nContent-Length: {length}\r\n\r\n"
)


def test_a_pasted_request() -> None:
    raw = RAW.format(token=signed(), length=len(BODY)).encode() + BODY
    for pasted in (raw, raw + b"\n", raw.replace(b"\r\n", b"\n"), b"\n" + raw):
        ran = run_here("verify", stdin=pasted)
        assert (ran.code, ran.err) == (0, "It is accepted.\n"), pasted
    without_scheme = raw.replace(b"X-Forwarded-Proto: https\r\n", b"")
    assert "http or https" in run_here("verify", stdin=without_scheme).rows[5][2]
    other_host = raw.replace(b"Host: app", b"Host: internal")
    assert "the host" in complaints(run_here("verify", stdin=other_host))["url"]


@pytest.mark.parametrize("quoted", ["'{body}'", "$'{escaped}'"])
def test_a_pasted_curl_command(quoted: str) -> None:
    body = b'{"name": "O\xc3\xa9"}'
    written = quoted.format(body=body.decode(), escaped=body.decode().replace("é", "\\u00e9"))
    command = f"curl -X POST '{URL}' \\\n -H 'Upstash-Signature: {signed(body)}' \\\n -A agent --data-raw {written}"

    ran = run_here("verify", stdin=command)

    assert (ran.code, ran.err) == (0, "It is accepted.\n")


@pytest.mark.parametrize(
    ("pasted", "why"),
    [
        ("hello", "expected a curl command, or HTTP"),
        ("curl 'http://x.test", "is a quote missing?"),
        ("curl http://x.test -d @file -H 'Upstash-Signature: x'", "takes its body from a file"),
        ("curl http://x.test", "a request with that header"),
        ("", "expected a curl command"),
    ],
)
def test_what_was_pasted_is_no_such_request(pasted: str, why: str) -> None:
    ran = run_here("verify", stdin=pasted)

    assert ran.code == 1
    assert why in ran.err
    assert ran.err.count("\n") == 1


async def test_what_a_server_delivers_is_good_and_the_official_receiver_agrees(
    run: Run, environment: Running, receiver: Receiver, tmp_path: Path
) -> None:
    await environment.publish(receiver.url("/hook"), BODY)
    request = await receiver.next_request()
    token = request.header("Upstash-Signature") or ""
    (tmp_path / "body").write_bytes(request.body)

    ran = await run(
        "verify", "--signature", token, "--body-file", str(tmp_path / "body"), "--url", receiver.url("/hook")
    )

    assert ran.code == 0
    official = OfficialReceiver(KEYS.current, KEYS.next)
    official.verify(signature=token, body=request.body.decode(), url=receiver.url("/hook"))
