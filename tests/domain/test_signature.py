"""The signature, as receivers check it."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qstash import Receiver
from qstash.errors import SignatureError

from postroad.domain.signature import LIFETIME_SECONDS, signature, standard_webhooks, standard_webhooks_secret

KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
NEXT_KEY = "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"
URL = "https://example.com/hook?a=1&b=%20#x"
JTI = "jwt_67kxXD6UBAk7DqU6hzuHMDdXFXfP"

urls = st.text() | st.text(st.characters(max_codepoint=127)).map("https://example.com/".__add__)
keys = st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=28, max_size=28).map(
    "sig_".__add__
)


def claims_of(token: str, key: str = KEY) -> dict[str, object]:
    """The claims without a look at the clock."""
    return jwt.decode(token, key, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})


def test_the_token_is_an_hs256_jwt_with_the_claims_of_qstash() -> None:
    token = signature(KEY, URL, b"hello", 1_700_000_000, JTI)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    assert claims_of(token) == {
        "iss": "Upstash",
        "sub": URL,
        "iat": 1_700_000_000,
        "exp": 1_700_000_300,
        "nbf": 0,
        "jti": JTI,
        "body": "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
    }


def test_an_empty_body_has_the_hash_of_nothing() -> None:
    claims = claims_of(signature(KEY, URL, b"", 0, JTI))
    assert claims["body"] == base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode()


def test_the_secret_is_the_whole_key_and_no_other() -> None:
    token = signature(KEY, URL, b"", 0, JTI)
    signed, _, mac = token.rpartition(".")
    expected = hmac.new(KEY.encode(), signed.encode(), "sha256").digest()
    assert base64.urlsafe_b64decode(mac + "=") == expected
    with pytest.raises(jwt.InvalidSignatureError):
        claims_of(token, NEXT_KEY)


def test_a_token_has_no_padding_and_no_line_break() -> None:
    for length in range(4):
        token = signature(KEY, URL + "a" * length, b"", 0, JTI)
        assert token.count(".") == 2
        assert "=" not in token
        assert "\n" not in token


@given(keys, urls, st.binary(), st.integers(0, 2**40))
def test_pyjwt_reads_back_what_was_signed(key: str, url: str, body: bytes, now_s: int) -> None:
    claims = claims_of(signature(key, url, body, now_s, JTI), key)
    assert claims["sub"] == url
    assert claims["iat"] == now_s
    assert claims["exp"] == now_s + 300
    assert claims["body"] == base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode()


@given(
    st.sampled_from(['https://e.com/"},"iss":"Evil', "https://e.com/\\", "https://é.com", "https://e.com/\x7f\n\ud800"])
)
def test_no_url_can_break_out_of_its_claim(url: str) -> None:
    token = signature(KEY, url, b"", 0, JTI)
    payload = base64.urlsafe_b64decode(token.split(".")[1] + "==")
    claims = json.loads(payload)
    assert claims["sub"] == url
    assert claims["iss"] == "Upstash"
    assert len(claims) == 7


@given(keys, keys, urls, st.text())
def test_the_official_receiver_accepts_it_with_its_current_and_its_next_key(
    key: str, other: str, url: str, body: str
) -> None:
    token = signature(key, url, body.encode(), int(time.time()), JTI)
    Receiver(key, other).verify(signature=token, body=body, url=url)
    Receiver(other, key).verify(signature=token, body=body, url=url)


@given(st.text(min_size=1), st.data())
def test_the_official_receiver_refuses_any_changed_body(body: str, data: st.DataObject) -> None:
    token = signature(KEY, URL, body.encode(), int(time.time()), JTI)
    at = data.draw(st.integers(0, len(body) - 1))
    changed = body[:at] + data.draw(st.characters(codec="utf-8").filter(lambda c: c != body[at])) + body[at + 1 :]
    for wrong in (changed, body + "\n", body[:-1]):
        with pytest.raises(SignatureError, match="Invalid body hash"):
            Receiver(KEY, KEY).verify(signature=token, body=wrong, url=URL)


@given(st.binary(min_size=1), st.data())
def test_any_changed_byte_of_the_body_changes_the_token(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert signature(KEY, URL, body, 0, JTI) != signature(KEY, URL, bytes(changed), 0, JTI)


def test_the_official_receiver_refuses_another_url_and_other_keys() -> None:
    token = signature(KEY, URL, b"", int(time.time()), JTI)
    with pytest.raises(SignatureError, match="Invalid subject"):
        Receiver(KEY, KEY).verify(signature=token, body="", url=URL + "/")
    with pytest.raises(SignatureError):
        Receiver(NEXT_KEY, NEXT_KEY).verify(signature=token, body="", url=URL)


def test_a_token_is_good_for_five_minutes() -> None:
    now = int(time.time())
    Receiver(KEY, NEXT_KEY).verify(signature=signature(KEY, URL, b"", now - 290, JTI), body="")
    with pytest.raises(SignatureError, match="expired"):
        Receiver(KEY, KEY).verify(signature=signature(KEY, URL, b"", now - 301, JTI), body="")


# Standard Webhooks 1.0.0, verified as its text says and not by our means.


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """What a receiver does: the id, the seconds and the body, joined by dots, under the decoded part of the secret."""
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    signed = headers["Webhook-Id"].encode() + b"." + headers["Webhook-Timestamp"].encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(one.partition(",") == ("v1", ",", expected) for one in headers["Webhook-Signature"].split(" "))


@given(keys, keys, st.binary(), st.integers(0, 2**40))
def test_a_receiver_with_either_key_verifies_the_headers_of_standard_webhooks(
    key: str, following: str, body: bytes, now_s: int
) -> None:
    headers = dict(standard_webhooks([key, following], "msg_1", body, now_s))
    assert (headers["Webhook-Id"], headers["Webhook-Timestamp"]) == ("msg_1", str(now_s))
    assert verified(standard_webhooks_secret(key), headers, body)
    assert verified(standard_webhooks_secret(following), headers, body)
    assert not verified(standard_webhooks_secret("sig_another"), headers, body)
    assert not verified(standard_webhooks_secret(key), headers, body + b"x")
    assert not verified(standard_webhooks_secret(key), headers | {"Webhook-Id": "msg_2"}, body)
    assert not verified(standard_webhooks_secret(key), headers | {"Webhook-Timestamp": str(now_s + 1)}, body)


def test_the_example_of_the_standard_is_verified() -> None:
    """What is verified here is not our own idea of the standard: the example is in the tests of its libraries."""
    headers = {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,bm9ldHU= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verified("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", headers, b'{"test": 2432232314}')
    assert not verified("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx", headers, b'{"test": 2432232314}')


def test_the_secret_is_what_libraries_take() -> None:
    assert standard_webhooks_secret(KEY) == f"whsec_{base64.b64encode(KEY.encode()).decode()}"
    assert standard_webhooks_secret(KEY) == "whsec_c2lnXzdrWWp3NDhtaFk3a0FqcU5HY3k2Y3IyOVJKNnI="


def test_a_signature_of_one_kind_is_none_of_the_other() -> None:
    token = signature(KEY, URL, b"", 0, JTI)
    headers = dict(standard_webhooks([KEY], "msg_1", token.rpartition(".")[0].encode(), 0))
    mac = base64.urlsafe_b64encode(base64.b64decode(headers["Webhook-Signature"][3:])).rstrip(b"=").decode()
    with pytest.raises(SignatureError):
        Receiver(KEY, KEY).verify(signature=f"{token.rpartition('.')[0]}.{mac}", body="")


def test_a_token_lives_for_a_short_time() -> None:
    assert LIFETIME_SECONDS <= 300
