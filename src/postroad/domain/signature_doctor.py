"""Why a signature is not accepted: each claim of it is looked at, and what is wrong is told with its likely cause."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from postroad.domain.doctor_body import body_hash, explanation
from postroad.domain.doctor_url import differences
from postroad.domain.duration import format_duration
from postroad.errors import PostroadError

_MOST_SECONDS = 10**11
"""Beyond the year 5000."""


class Verdict(StrEnum):
    """What comes of a check."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check, its verdict, and that in a sentence."""

    check: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """How whoever asks can give what is missing: the names of options, or of fields in a form."""

    keys: str
    url: str
    body: str
    at: str


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a request. `keys` are secrets by their names; those of `strangers` ought not to match.

    Without `has_scheme` that of the URL is a guess, and not compared. `inputs` is what findings point to.
    """

    signature: str
    body: bytes | None
    url: str | None
    keys: Mapping[str, str]
    strangers: Mapping[str, str]
    now_s: int
    inputs: Inputs
    tolerance_s: int = 0
    has_scheme: bool = True


class _NoToken(PostroadError):
    """A text that is no token at all."""


def findings(case: Case) -> list[Finding]:
    """All that can be said of a signature, from its form to the hash of the body."""
    # Claims may hold halves of characters, which nobody can print.
    return [replace(one, sentence=one.sentence.encode("utf-8", "replace").decode()) for one in _findings(case)]


def is_good(found: Sequence[Finding]) -> bool:
    """Whether a receiver accepts it, as far as could be checked."""
    return all(finding.verdict is not Verdict.BAD for finding in found)


def _findings(case: Case) -> list[Finding]:
    token = case.signature.strip()
    try:
        head, claims = _decoded(token)
    except _NoToken as error:
        return [Finding("form", Verdict.BAD, str(error))]
    found = [_form(head, is_stripped=token != case.signature)]
    if found[0].verdict is Verdict.BAD:
        return found
    return [*found, _key(case, token), _issuer(claims), *_times(case, claims), _url(case, claims), _body(case, claims)]


def _decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims. Raises `_NoToken`."""
    if not token:
        raise _NoToken("the signature is empty: the header Upstash-Signature did not reach the app, or was not read")
    if token.lower().startswith("bearer "):
        raise _NoToken("this begins with Bearer: it is an Authorization header, not Upstash-Signature")
    if token.startswith(("v1,", "v1a,")):
        raise _NoToken("this is a Webhook-Signature of Standard Webhooks: verify that with a library for it")
    parts = token.split(".")
    if len(parts) != 3:
        raise _NoToken(
            f"this is no JWT: it has {len(parts)} of the three parts between dots; was it cut off, or is it another "
            "header?"
        )
    try:
        head, claims = (json.loads(_unpadded(part)) for part in parts[:2])
    except (ValueError, RecursionError):
        raise _NoToken("this is no JWT: its first two parts are no base64url of JSON; was it cut or quoted?") from None
    if not isinstance(head, dict) or not isinstance(claims, dict):
        raise _NoToken("this is no JWT: its first two parts are JSON, but no objects")
    return head, claims


def _form(head: dict[str, Any], *, is_stripped: bool) -> Finding:
    algorithm = head.get("alg")
    if algorithm != "HS256":
        return Finding("form", Verdict.BAD, f"the JWT is made with {algorithm}, but signatures are made with HS256")
    if is_stripped:
        return Finding("form", Verdict.GOOD, "a JWT with HS256; the white space around it is passed over here")
    return Finding("form", Verdict.GOOD, "a JWT with HS256")


def _key(case: Case, token: str) -> Finding:
    signed, _, mac = token.rpartition(".")
    for name, key in case.keys.items():
        if _matches(key, signed, mac):
            return Finding("key", Verdict.GOOD, f"made with {name}")
    for name, key in case.keys.items():
        for words, variant in _slips(key):
            if _matches(variant, signed, mac):
                return Finding("key", Verdict.BAD, f"made with {name} {words}: mend the setting")
    for name, key in case.strangers.items():
        if _matches(key, signed, mac):
            return Finding("key", Verdict.BAD, f"made with {name}, so the server is another than the app believes")
    if not case.keys:
        return Finding(
            "key",
            Verdict.UNKNOWN,
            f"no keys to check it with: {case.inputs.keys}",
        )
    return Finding(
        "key",
        Verdict.BAD,
        f"made with neither {' nor '.join(case.keys)}: the keys were rotated twice since the app got them, are those "
        "of another server or tenant, or the signature was changed on its way",
    )


def _slips(key: str) -> Iterator[tuple[str, str]]:
    """What a key may be instead, when somebody copied it."""
    yield "without the white space around it", key.strip()
    yield "without the quotes around it", key.strip().strip("\"'")
    yield "without what stands before sig_", key[key.find("sig_") :] if "sig_" in key else key
    yield "with sig_ before it", f"sig_{key.strip()}"


def _issuer(claims: dict[str, Any]) -> Finding:
    if claims.get("iss") == "Upstash":
        return Finding("issuer", Verdict.GOOD, "iss is Upstash")
    return Finding("issuer", Verdict.BAD, f"iss is {claims.get('iss')!r}, but receivers expect 'Upstash'")


def _times(case: Case, claims: dict[str, Any]) -> Iterator[Finding]:
    now = case.now_s
    times = {name: claims.get(name) for name in ("exp", "nbf", "iat")}
    for name, value in times.items():
        if name == "exp" and value is None:
            yield Finding("expiry", Verdict.BAD, "there is no exp, but receivers demand one")
        elif value is not None and not _is_instant(value):
            yield Finding(name, Verdict.BAD, f"{name} is {value!r}, but must be Unix seconds")
            return
    exp, nbf, iat = (times[name] for name in ("exp", "nbf", "iat"))
    if exp is not None:
        if now > exp + case.tolerance_s:
            yield Finding(
                "expiry",
                Verdict.BAD,
                f"expired {_duration(now - exp)} ago, at {_instant(exp)}: it came late, was kept and played again, or "
                f"the clock here is ahead; {case.inputs.at} says when it was checked",
            )
        else:
            yield Finding("expiry", Verdict.GOOD, f"valid for {_duration(exp - now)} more")
    if nbf is not None and nbf > now + case.tolerance_s:
        yield Finding("not before", Verdict.BAD, f"valid only in {_duration(nbf - now)}: the clock here is behind")
    if iat is not None and iat > now + case.tolerance_s:
        yield Finding(
            "made",
            Verdict.BAD,
            f"made {_duration(iat - now)} in the future, at {_instant(iat)}: the clock here is behind, or that of the "
            "server ahead",
        )
    elif iat is not None:
        yield Finding("made", Verdict.GOOD, f"made {_duration(now - iat)} ago, at {_instant(iat)}")


def _url(case: Case, claims: dict[str, Any]) -> Finding:
    signed = claims.get("sub")
    if not isinstance(signed, str):
        return Finding("url", Verdict.BAD, f"sub is {signed!r}, but must be the URL of the destination")
    if case.url is None:
        return Finding("url", Verdict.UNKNOWN, f"signed for {signed}; {case.inputs.url} compares that with yours")
    given = case.url if case.has_scheme else f"{signed.partition('://')[0]}://{case.url.partition('://')[2]}"
    found = differences(signed, given)
    if found:
        sentence = f"signed for {signed}, but the URL here is {given}. What differs: {'; '.join(found)}"
        return Finding("url", Verdict.BAD, sentence)
    aside = f"; the request does not say whether it came by http or https, {case.inputs.url} does"
    if case.has_scheme:
        aside = ""
    return Finding("url", Verdict.GOOD, f"signed for {signed}{aside}")


def _body(case: Case, claims: dict[str, Any]) -> Finding:
    signed = claims.get("body")
    if not isinstance(signed, str):
        return Finding("body", Verdict.BAD, f"the claim body is {signed!r}, but must be the hash of the body")
    signed, body = signed.rstrip("="), case.body
    if body is None:
        return Finding("body", Verdict.UNKNOWN, f"no body to check: {case.inputs.body} takes one")
    if body_hash(body) == signed:
        return Finding("body", Verdict.GOOD, f"the hash of the {len(body)} bytes is the signed one")
    if not body:
        return Finding(
            "body",
            Verdict.BAD,
            "the body here is empty, but another was signed: something read the stream before, such as a parser of "
            "JSON in front of the handler",
        )
    words = explanation(body, signed)
    if words is None:
        return Finding(
            "body",
            Verdict.BAD,
            f"the hash of the {len(body)} bytes is another, and no other way to write them was signed: it is another "
            "body, or was changed in a way that is not known here; verify the bytes as they arrive",
        )
    return Finding(
        "body",
        Verdict.BAD,
        f"what was signed is {words}: something parsed the body and wrote it anew, or added to it; verify the bytes as "
        "they arrive",
    )


def _matches(key: str, signed: str, mac: str) -> bool:
    made = hmac.digest(key.encode("utf-8", "surrogateescape"), signed.encode(), "sha256")
    return hmac.compare_digest(base64.urlsafe_b64encode(made).rstrip(b"="), mac.rstrip("=").encode())


def _is_instant(value: Any) -> bool:
    """Whether this may be Unix seconds; JSON of Python also has NaN and infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_SECONDS


def _unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _duration(seconds: float) -> str:
    return format_duration(timedelta(seconds=max(0, int(seconds))))


def _instant(unix_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return str(unix_s)
