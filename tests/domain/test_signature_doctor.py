"""What nobody who means well would paste: the doctor has an answer for it, and no exception."""

from __future__ import annotations

import base64

import pytest

from postroad.domain import pasted_request
from postroad.domain.signature_doctor import Case, Inputs, Verdict, findings, is_good

NOW_S = 1_800_000_000
GOOD = '{"iss":"Upstash","sub":"http://x","exp":1800000300,"iat":1800000000,"body":"x"}'
HEAD = '{"alg":"HS256"}'


def token(head: str, claims: str) -> str:
    return ".".join(base64.urlsafe_b64encode(one.encode()).decode().rstrip("=") for one in (head, claims, "mac"))


def case(signature: str, *, body: bytes | None = None, url: str | None = None) -> Case:
    inputs = Inputs(keys="keys", url="url", body="body", at="at")
    return Case(signature, body, url, keys={"the key": "sig_a"}, strangers={}, now_s=NOW_S, inputs=inputs)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "1e300", "9" * 30, "true", '"soon"', "[]"])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_a_time_that_is_none_is_said_to_be(claim: str, number: str) -> None:
    found = findings(case(token(HEAD, f'{{"exp":1800000300,"{claim}":{number}}}')))
    assert any(one.check == claim and "must be Unix seconds" in one.sentence for one in found)


@pytest.mark.parametrize(
    ("signature", "body", "url"),
    [
        (token("[" * 20_000, GOOD), None, None),
        (token(HEAD, '{"a":' * 20_000), None, None),
        (token(HEAD, GOOD), b"[" * 20_000, None),
        (token(HEAD, GOOD), b'{"a":' * 20_000, None),
        (token(HEAD, GOOD), b'"\\ud800"', None),
        (token(HEAD, GOOD), None, "http://["),
        (token(HEAD, GOOD), None, "http://x:99999/"),
        (token(HEAD, GOOD.replace("http://x", "http://[")), None, "http://x"),
        (token(HEAD, GOOD.replace("http://x", "\\ud800")), None, None),
    ],
    ids=["head", "claims", "list", "object", "half", "host", "port", "signed host", "signed half"],
)
def test_what_cannot_be_read_is_no_defect(signature: str, body: bytes | None, url: str | None) -> None:
    found = findings(case(signature, body=body, url=url))
    assert not is_good(found)
    assert all(one.sentence.encode() for one in found if one.verdict is Verdict.BAD)


@pytest.mark.parametrize(
    "text",
    [
        "POST / HTTP/1.1\nContent-Length: ²\n\nx",
        f"POST / HTTP/1.1\nContent-Length: {'9' * 5000}\n\nx",
        "curl http://x -d $'\\ud800'",
    ],
)
def test_a_pasted_request_may_hold_anything(text: str) -> None:
    assert pasted_request.parsed(text.encode()).body in (b"x", b"?")
