"""The signature doctor: which claim of a signature fails, and why."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from starlette.responses import Response

from postroad.console.rendering import size
from postroad.console.visit import Visit
from postroad.domain import pasted_request, signature_doctor
from postroad.domain.signature_doctor import Case, Finding, Inputs, Verdict
from postroad.domain.tenant import SigningKeys
from postroad.errors import PostroadError

_MOST_CHARACTERS = 512 * 1024
_SIGNATURE = "upstash-signature"
_INPUTS = Inputs(keys="this tenant has none", url="the field URL", body="the field Body", at="the field Checked at")


class TypedWrongError(PostroadError):
    """What was typed cannot be checked at all."""


async def page(visit: Visit) -> Response:
    """The form."""
    return visit.page("verify.html", found=None, problem="")


async def check(visit: Visit) -> Response:
    """What is wrong with a signature. Nothing is kept of what was typed."""
    found: Sequence[Finding] = ()
    problem = ""
    try:
        found = await _findings(visit)
    except (TypedWrongError, pasted_request.NotARequest) as error:
        problem = str(error)
    return visit.page(
        "verify.html",
        http_status=400 if problem else 200,
        found=found if not problem else None,
        problem=problem,
        is_good=signature_doctor.is_good(found),
        wrong=[one.check for one in found if one.verdict is Verdict.BAD],
        unknown=[one.check for one in found if one.verdict is Verdict.UNKNOWN],
    )


async def _findings(visit: Visit) -> list[Finding]:
    # Not through the API, which shows keys to few: nothing of them leaves this module.
    keys = await visit.context.tenancy.keys(visit.session.caller.tenant_id)
    # Beside the loop: what a body may have been before takes a while to find out.
    return await asyncio.to_thread(_examined, visit, keys)


def _examined(visit: Visit, keys: SigningKeys) -> list[Finding]:
    form = visit.form
    if sum(len(value) for _, value in form.pairs) > _MOST_CHARACTERS:
        raise TypedWrongError(f"that is more than {size(_MOST_CHARACTERS)}: `postroad verify --body-file` takes it")
    signature, body, url, has_scheme = form.text("signature"), _body(visit), form.text("url") or None, True
    if form.text("request"):
        pasted = pasted_request.parsed(form.raw("request").encode())
        if not signature and _SIGNATURE not in pasted.headers:
            raise TypedWrongError("the request has no Upstash-Signature: expected a request with that header")
        signature = signature or pasted.headers[_SIGNATURE]
        body = pasted.body if body is None else body
        has_scheme = url is not None or pasted.has_scheme
        url = url or pasted.url
    if not signature:
        raise TypedWrongError("there is no signature: expected what came as Upstash-Signature, or a whole request")
    case = Case(
        signature=signature,
        body=body,
        url=url,
        keys={"the current key": keys.current, "the next key": keys.next},
        strangers={},
        now_s=_at(visit),
        inputs=_INPUTS,
        has_scheme=has_scheme,
    )
    return _best([signature_doctor.findings(replace(case, body=one)) for one in _bodies(body)])


def _body(visit: Visit) -> bytes | None:
    """The body that was typed; an empty field is none unless the box says that it is the body."""
    text = visit.form.raw("body")
    if not text:
        return b"" if visit.form.has("is_empty") else None
    if visit.form.text("encoding") != "base64":
        return text.encode()
    try:
        return b64decode("".join(text.split()), validate=True)
    except (Base64Error, ValueError):
        raise TypedWrongError("the body is no base64: expected letters, digits, + and /, with = at the end") from None


def _bodies(body: bytes | None) -> list[bytes | None]:
    """What may have been meant: browsers write line ends in their own way, so those of a form say nothing."""
    return [body] if body is None or b"\n" not in body else [body, body.replace(b"\n", b"\r\n")]


def _best(results: list[list[Finding]]) -> list[Finding]:
    return next((found for found in results if signature_doctor.is_good(found)), results[0])


def _at(visit: Visit) -> int:
    """When it is checked, in Unix seconds."""
    text = visit.form.text("at")
    if not text:
        return int(visit.context.clock.now_s())
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise TypedWrongError(f"{text} is no time: expected one such as 2026-01-31T12:00Z, or Unix seconds") from None
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp())


ROUTES = (
    ("GET", "/console/verify", page),
    ("POST", "/console/verify", check),
)
