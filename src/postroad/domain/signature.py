"""What proves to a destination who sends the request: QStash's token, and the signatures of Standard Webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence

from postroad.domain.reply import Headers

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


STANDARD_WEBHOOKS = frozenset({"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"})
"""The headers that `standard_webhooks` writes, in canonical case."""


def standard_webhooks(keys: Sequence[str], message_id: str, body: bytes, now_s: int) -> Headers:
    """The headers of Standard Webhooks 1.0.0: one signature for each key, so that a receiver needs only one of them.

    The id is the same for every attempt at a message, as the standard wants it; now_s is when this one is made. The
    secret of a key is what `standard_webhooks_secret` shows. What is signed begins with the id, which is no base64 of
    a JSON object: a signature of this kind is never a valid token of the other, although both have the same secret.
    """
    start = f"{message_id}.{now_s}.".encode()
    signatures: list[str] = []
    for key in keys:
        mac = hmac.new(key.encode(), start, "sha256")
        mac.update(body)
        signatures.append(f"v1,{base64.b64encode(mac.digest()).decode()}")
    return (
        ("Webhook-Id", message_id),
        ("Webhook-Timestamp", str(now_s)),
        ("Webhook-Signature", " ".join(signatures)),
    )


def standard_webhooks_secret(key: str) -> str:
    """A signing key in the form that libraries for Standard Webhooks take: `whsec_` and the base64 of its bytes.

    They decode what follows the prefix, and so come to the bytes that sign: those of the whole key with its `sig_`.
    """
    return f"whsec_{base64.b64encode(key.encode()).decode()}"


def _json(text: str) -> str:
    # Nearly every URL is plain ASCII without quotes, and json.dumps takes longer than the rest of the claims.
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return json.dumps(text)
