"""`postroad apply` and `postroad import`: a server is brought to what a file, or another server, has."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli.exits import ExitCode
from postroad.cli.remote import Unreachable
from postroad.errors import InvalidDestination, Misconfigured, PostroadError

if TYPE_CHECKING:
    from postroad.cli.as_code.plan import Step
    from postroad.cli.as_code.resource import Kind, Resource
    from postroad.cli.remote import Remote

Url = Annotated[str | None, typer.Option(help="Address of the server, instead of QSTASH_URL.")]
Token = Annotated[str | None, typer.Option(help="Its token, instead of QSTASH_TOKEN.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the plan and its outcome as JSON.")]


Check = Annotated[bool, typer.Option("--check", help="As --dry-run, with exit code 7 if there is anything to do.")]


class NotAllApplied(PostroadError):
    """Some of what was planned was refused; the rest was done."""

    def __init__(self, failed: int, planned: int) -> None:
        super().__init__(
            f"{failed} of {planned} changes failed, {planned - failed} were made; run it again when that is mended"
        )


class Interrupted(Unreachable):
    """The server could not be reached any more while the plan was made."""

    def __init__(self, error: Unreachable, made: int, planned: int) -> None:
        super().__init__(f"{error}; {made} of {planned} changes were made before: run it again for the others")


def apply(
    file: Annotated[Path, typer.Argument(help="A YAML file, a vercel.json, or - for standard input.")],
    prune: Annotated[bool, typer.Option("--prune", help="Delete what the file does not have.")] = False,
    dry_run: DryRun = False,
    check: Check = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before something is deleted.")] = False,
    as_json: Json = False,
    base_url: Annotated[
        str | None, typer.Option(help="Where the app of a vercel.json is, e.g. https://app.example.com.")
    ] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Bring schedules, queues, URL groups and flow-control keys to what a file says. A second run changes nothing.

    ${NAME} in the file comes from the environment.

    --prune only deletes what the file has a section for; of a vercel.json, schedules that an earlier one has made.
    """
    from postroad.cli.as_code import plan, wire
    from postroad.cli.remote import Remote

    wanted, doomed, hidden = _wanted(file, base_url)
    remote = Remote(url, token)
    wire.check_sight(remote)
    keys = [one.name for one in wanted.get("flow key", ())]
    present = wire.present(remote, wanted.keys(), keys=keys)
    planned = plan.steps(_in_order(wanted), present, doomed=doomed if prune else _nothing)
    spared = 0 if prune else len(plan.steps(_in_order(wanted), present, doomed=doomed)) - len(planned)
    note = f"{spared} more on the server are not in the file: --prune deletes them" if spared else ""
    _carry_out(remote, planned, dry_run=dry_run or check, yes=yes, as_json=as_json, hidden=hidden, note=note)
    if check and any(step.is_work for step in planned):
        raise typer.Exit(ExitCode.DIFFERENT)


def import_(
    source: Annotated[str, typer.Option("--from", help="Address of the QStash or Postroad to read from.")],
    source_token: Annotated[
        str, typer.Option("--from-token", envvar="QSTASH_FROM_TOKEN", help="Its token; read-only is enough.")
    ],
    only: Annotated[str, typer.Option(help="A comma list of what to import.")] = "queues,groups,flow,schedules",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Change what is here and differs.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Bring schedules, URL groups, queues and pinned flow-control keys here from another QStash or Postroad.

    Nothing is changed there, and nothing is deleted here. What is here and differs is kept unless --overwrite.

    What the other side redacts cannot be read, and is skipped by name.
    """
    from postroad.cli.as_code import plan, wire
    from postroad.cli.as_code.sections import SECTIONS
    from postroad.cli.remote import Rejected, Remote

    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(SECTIONS)}", param_hint="--only")
    kinds = [kind for name, kind in SECTIONS.items() if name in names]
    there, here = Remote(source, source_token), Remote(url, token)
    if there.url == here.url and source_token == (token or os.environ.get("QSTASH_TOKEN")):
        raise Misconfigured(f"--from is {there.url}, which is where it would be imported: set QSTASH_URL or --url")
    try:
        wire.check_sight(there)
        found = wire.present(there, kinds)
    except Rejected as error:
        words = str(error).removesuffix(f" (HTTP {error.status})")
        reason = "it does not know the token of --from-token" if error.status == 401 else words
        raise Rejected(error.status, f"{there.url} cannot be read: {reason}") from None
    wanted, lost = _wanted_there(found)
    keys = [one.name for one in wanted if one.kind == "flow key"]
    planned = [
        _readable(step, lost) for step in plan.steps(wanted, wire.present(here, kinds, keys=keys), overwrite=overwrite)
    ]
    kept = sum(step.action is plan.Action.KEEP for step in planned)
    note = f"{kept} are here and differ, and are kept: --overwrite changes them" if kept else ""
    _carry_out(here, planned, dry_run=dry_run, yes=True, as_json=as_json, hidden=_as_is, note=note)


def _wanted_there(found: Mapping[Kind, Mapping[str, Resource]]) -> tuple[list[Resource], Mapping[str, list[str]]]:
    """What is to be brought here, and by the names of schedules the headers of theirs that stay behind."""
    from postroad.cli.as_code import plan
    from postroad.cli.as_code.resource import Schedule

    wanted: list[Resource] = []
    lost: dict[str, list[str]] = {}
    for one in (one for resources in found.values() for one in resources.values() if plan.is_there(one)):
        if isinstance(one, Schedule):
            schedule, lost[one.name] = one.sendable()
            wanted.append(schedule)
        else:
            wanted.append(one)
    return wanted, lost


def _readable(step: Step, left: Mapping[str, list[str]]) -> Step:
    """The step with what of it stays behind, unless the other side shows only hashes of what it would need."""
    from postroad.cli.as_code import plan
    from postroad.cli.as_code.resource import Schedule

    if isinstance(step.wanted, Schedule) and step.changes and (names := left[step.wanted.name]):
        step = replace(step, note=f"without {', '.join(names)}, which Postroad does not forward")
    lost = step.wanted.unreadable() if isinstance(step.wanted, Schedule) and step.changes else []
    if not lost:
        return step
    reason = f"redacted there, so it cannot be read: {', '.join(lost)}; make it by hand or with postroad apply"
    return plan.skipped(step.resource, reason)


def _wanted(
    file: Path, base_url: str | None
) -> tuple[Mapping[Kind, list[Resource]], Callable[[Resource], bool], Callable[[str], str]]:
    """What the file asks for; what of the rest --prune deletes; and how to print without secrets."""
    from postroad.cli.as_code import sections, vercel
    from postroad.cli.as_code.document import Document
    from postroad.cli.as_code.resource import Schedule

    text = _text(file)
    # A vercel.json may be indented by tabs, which JSON allows between its values and YAML does not.
    is_json = file.suffix == ".json"
    document = Document("standard input" if str(file) == "-" else file.name, {} if is_json else os.environ)
    root = document.read(text.replace("\t", " ") if is_json else text)
    if not vercel.is_vercel(root, file.name):
        if base_url is not None:
            raise typer.BadParameter("it is for the crons of a vercel.json", param_hint="--base-url")
        wanted = sections.read(document, root).resources
        document.check()
        return wanted, lambda _: True, document.hidden
    if base_url is None:
        raise typer.BadParameter(
            "say where the app is, e.g. --base-url https://app.example.com", param_hint="--base-url"
        )
    _check_base(base_url)
    schedules = vercel.read(document, root, base_url=base_url, environment=os.environ)
    document.check()

    def is_ours(resource: Resource) -> bool:
        return isinstance(resource, Schedule) and vercel.is_ours(resource, base_url=base_url)

    return {"schedule": [*schedules]}, is_ours, document.hidden


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8", param_hint="FILE") from None


def _check_base(url: str) -> None:
    from postroad.domain.destination import parse_url

    try:
        parse_url(url)
    except InvalidDestination as error:
        raise typer.BadParameter(error.reason, param_hint="--base-url") from None
    if "?" in url or "#" in url:
        raise typer.BadParameter("a base URL has no query and no fragment", param_hint="--base-url")


def _in_order(wanted: Mapping[Kind, list[Resource]]) -> list[Resource]:
    return [one for resources in wanted.values() for one in resources]


def _nothing(_: Resource) -> bool:
    return False


def _as_is(text: str) -> str:
    return text


def _carry_out(
    remote: Remote,
    planned: Sequence[Step],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    hidden: Callable[[str], str],
    note: str,
) -> None:
    """Print the plan, ask if something goes, make it, and tell how it went. Raises `NotAllApplied`."""
    from postroad.cli.as_code import plan, report

    work = [step for step in planned if step.is_work]
    if not as_json:
        for line in report.lines(planned, hidden=hidden, note=note):
            typer.echo(line)
    if not dry_run:
        _confirm([step for step in work if step.action is plan.Action.DELETE], yes=yes)
    failures: list[plan.Failure] = []
    for outcome in plan.make(remote, [] if dry_run else work):
        if isinstance(outcome, plan.Failure):
            failures.append(outcome)
            if not as_json:
                typer.secho(report.failure(outcome, hidden=hidden), fg="red", err=True)
    if as_json:
        document: dict[str, Any] = report.document(planned, failures, applied=not dry_run, hidden=hidden)
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif work and not failures:
        typer.echo("Nothing was changed: this was a dry run." if dry_run else "Done.")
    for one in failures:
        if one.lost is not None:
            raise Interrupted(one.lost, len(work) - len(failures), len(work))
    if failures:
        raise NotAllApplied(len(failures), len(work))


def _confirm(deletions: Sequence[Step], *, yes: bool) -> None:
    if not deletions or yes:
        return
    what = f"{len(deletions)} to delete"
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}, and nobody to ask: --yes deletes without a question, --dry-run only looks")
    typer.confirm(f"{what}. Go on?", abort=True, err=True)
