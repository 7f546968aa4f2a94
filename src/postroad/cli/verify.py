"""`postroad verify`: the signature doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from postroad.cli import output
from postroad.cli.exits import ExitCode
from postroad.cli.options import BadOption, seconds, spread, time_ms

_SIGNATURE = "upstash-signature"


@spread
def verify(
    signature: Annotated[str | None, typer.Option(help="What came as Upstash-Signature.", show_default=False)] = None,
    body_file: Annotated[
        Path | None, typer.Option(help="File with the body as it arrived; - is standard input.", show_default=False)
    ] = None,
    body: Annotated[str | None, typer.Option(help="The body itself.", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="URL that the app verifies with.", show_default=False)] = None,
    current: Annotated[
        str | None,
        typer.Option(
            "--current-signing-key", envvar="QSTASH_CURRENT_SIGNING_KEY", help="The current key.", show_default=False
        ),
    ] = None,
    following: Annotated[
        str | None,
        typer.Option("--next-signing-key", envvar="QSTASH_NEXT_SIGNING_KEY", help="The next key.", show_default=False),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="When it was checked: 2026-01-31T12:00Z, or Unix seconds; now without it.", show_default=False
        ),
    ] = None,
    tolerance: Annotated[str, typer.Option(help="How far clocks may be apart.")] = "0s",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether a receiver accepts a signature, and if not, which of its claims is wrong and why.

    Without --signature a request is read from standard input: a curl command, or raw HTTP with its headers and body.
    No server is asked. Exit code 1 when anything is wrong.
    """
    from postroad.clock import Clock
    from postroad.dev import DEV_USERS
    from postroad.domain import signature_doctor

    names = {"QSTASH_CURRENT_SIGNING_KEY": current, "QSTASH_NEXT_SIGNING_KEY": following}
    strangers: dict[str, str] = {}
    for user in DEV_USERS:
        strangers[f"the current key of `postroad dev` ({user.tenant})"] = user.keys.current
        strangers[f"the next key of `postroad dev` ({user.tenant})"] = user.keys.next
    signature, content, url, has_scheme = _given(signature, body_file, body, url)
    found = signature_doctor.findings(
        signature_doctor.Case(
            signature,
            content,
            url,
            keys={name: key for name, key in names.items() if key},
            strangers=strangers,
            inputs=signature_doctor.Inputs(
                keys="set QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY",
                url="--url",
                body="--body-file",
                at="--at",
            ),
            now_s=int(Clock().now_s()) if at is None else time_ms("--at", at) // 1000,
            tolerance_s=int(seconds("--tolerance", tolerance)),
            has_scheme=has_scheme,
        )
    )
    is_good = signature_doctor.is_good(found)
    if json:
        findings = [{"check": one.check, "verdict": one.verdict, "sentence": one.sentence} for one in found]
        output.document({"valid": is_good, "findings": findings})
    else:
        output.table(
            found,
            (
                output.Column("check", lambda one: one.check),
                output.Column("verdict", lambda one: one.verdict),
                output.Column("why", lambda one: one.sentence),
            ),
            empty="",
        )
        wrong = [one.check for one in found if one.verdict is signature_doctor.Verdict.BAD]
        unknown = [one.check for one in found if one.verdict is signature_doctor.Verdict.UNKNOWN]
        if wrong:
            typer.echo(f"It is not accepted: {', '.join(wrong)}.", err=True)
        else:
            aside = f", as far as it could be checked (not: {', '.join(unknown)})" if unknown else ""
            typer.echo(f"It is accepted{aside}.", err=True)
    if not is_good:
        raise typer.Exit(int(ExitCode.REFUSED))


def _given(
    signature: str | None, body_file: Path | None, body: str | None, url: str | None
) -> tuple[str, bytes | None, str | None, bool]:
    """Signature, body, URL and whether its scheme is known. Raises `BadOption` or `NotARequest`."""
    from postroad.cli.publishing import content_of
    from postroad.domain import pasted_request

    if body is not None and body_file is not None:
        raise BadOption("--body-file", str(body_file), "only one of --body and --body-file")
    content = None if body is None else body.encode()
    if body_file is not None:
        content = sys.stdin.buffer.read() if str(body_file) == "-" else content_of("--body-file", body_file)
    if signature is not None:
        return signature, content, url, True
    if str(body_file) == "-":
        raise BadOption("--signature", "", "a signature, because standard input has the body")
    if sys.stdin.isatty():
        typer.echo("Paste a curl command or a raw HTTP request, then press Ctrl-D:", err=True)
    pasted = pasted_request.parsed(sys.stdin.buffer.read())
    if _SIGNATURE not in pasted.headers:
        raise pasted_request.NotARequest("it has no Upstash-Signature: expected a request with that header")
    content = pasted.body if content is None else content
    return pasted.headers[_SIGNATURE], content, url or pasted.url, url is not None or pasted.has_scheme
