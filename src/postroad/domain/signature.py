"""The token that proves to a destination who sends the request."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

LIFETIME_SECONDS = 300


def signature(key: str, url: str, body: bytes, now_s: int, jti: str) -> str:
    """The value of `Upstash-Signature`: a compact JWS (RFC 7515) with HS256, valid for five minutes. QStash's scheme.

    key is the whole signing key with its `sig_`; its UTF-8 bytes are the secret. url is the one that the request goes
    to, character for character. now_s is Unix seconds, never rounded up: receivers refuse a token from the future.
    nbf is 0, as QStash's is since September 2024, so that a slow clock at the receiver does no harm. A new jti each
    time makes the token of an attempt its own.
    """
    body_hash = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode()
    claims = (
        f'{{"iss":"Upstash","sub":{_json(url)},"exp":{now_s + LIFETIME_SECONDS},"nbf":0,"iat":{now_s},'
        f'"jti":{_json(jti)},"body":"{body_hash}"}}'
    )
    signed = _HEADER + base64.urlsafe_b64encode(claims.encode()).rstrip(b"=")
    mac = base64.urlsafe_b64encode(hmac.digest(key.encode(), signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."


def _json(text: str) -> str:
    # Nearly every URL is plain ASCII without quotes, and json.dumps takes longer than the rest of the claims.
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return json.dumps(text)
