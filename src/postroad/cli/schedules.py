"""`postroad schedules`: schedules are made, looked at, run, paused and deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.options import BadOption, Consent, Server, spread
from postroad.cli.publishing import Content, Delivery, Destination, unfragmented
from postroad.cli.remote import Remote, segment
from postroad.cli.tick import next_runs

if TYPE_CHECKING:
    from postroad.cli.tick import Run

commands = typer.Typer(help="Schedules: messages at the times of a cron expression.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the schedule.", show_default=False)]

_COLUMNS = (
    output.at("scheduleId", "schedule"),
    output.at("cron"),
    output.Column("next", lambda one: "paused" if one["isPaused"] else _instant(one.get("nextScheduleTime"))),
    output.Column("last", lambda one: _instant(one.get("lastScheduleTime"))),
    output.Column("came to", lambda one: one.get("error") or _states(one)),
    output.at("destination"),
)


@commands.command("list")
@spread
def list_(at: Server) -> None:
    """List all schedules."""
    with at.opened() as remote:
        schedules = remote.call("GET", "/v2/schedules")
    if at.json:
        output.document(schedules)
    else:
        output.table(schedules, _COLUMNS, empty="There are no schedules; `postroad schedules create` makes one.")


@commands.command()
@spread
def show(schedule_id: Id, at: Server) -> None:
    """Print a schedule: when it fires, what it publishes, and what its last tick came to."""
    with at.opened() as remote:
        _print(remote, schedule_id, at)


@commands.command("next")
@spread
def next_(
    at: Server,
    schedule_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id of the schedule.", show_default=False)
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="A cron expression instead; no server is needed then.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="So many.")] = 10,
) -> None:
    """Print the next runs of a schedule, in its zone and in UTC, by the rules of the server where clocks change."""
    if (schedule_id is None) == (cron is None):
        raise BadOption("ID", schedule_id or "", "either the id of a schedule or --cron")
    is_paused = False
    if cron is None:
        with at.opened() as remote:
            schedule = remote.call("GET", f"/v2/schedules/{segment(schedule_id or '')}")
        cron, is_paused = schedule["cron"], schedule["isPaused"]
    zone, runs = next_runs(cron, count)
    if at.json:
        view = [{"local": run.local.isoformat(), "utc": str(run.instant), "unixMs": run.instant.ms} for run in runs]
        output.document({"cron": cron, "zone": zone, "isPaused": is_paused, "next": view})
        return
    output.table(runs, _run_columns(zone), empty="It never fires again.")
    if is_paused:
        typer.echo("It is paused: these are the times when it would fire.", err=True)


@commands.command()
@spread
def create(
    destination: Destination,
    cron: Annotated[
        str, typer.Option(help="When: '0 9 * * *', 'CRON_TZ=Europe/Berlin 0 9 * * MON-FRI'.", show_default=False)
    ],
    content: Content,
    delivery: Delivery,
    at: Server,
    schedule_id: Annotated[
        str | None, typer.Option("--id", help="Its id; one that is there is replaced.", show_default=False)
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Queue that its messages go into.", show_default=False)] = None,
) -> None:
    """Make a schedule, and print its id."""
    body = content.read()
    headers = content.headers(body) | delivery.headers() | {"Upstash-Cron": cron}
    if schedule_id is not None:
        headers["Upstash-Schedule-Id"] = schedule_id
    if queue is not None:
        headers["Upstash-Queue-Name"] = queue
    with at.opened() as remote:
        answer = remote.call("POST", f"/v2/schedules/{unfragmented(destination)}", headers=headers, body=body)
    if at.json:
        output.document(answer)
    else:
        typer.echo(answer["scheduleId"])


@commands.command()
@spread
def run(schedule_id: Id, at: Server) -> None:
    """Publish now what the next tick of a schedule would publish, and print the id of the message.

    It does not count as a tick, and a paused schedule stays paused.
    """
    with at.opened() as remote:
        answer = remote.call("POST", f"/v2/schedules/{segment(schedule_id)}/run")
    if at.json:
        output.document(answer)
        return
    for one in answer if isinstance(answer, list) else [answer]:
        typer.echo(output.plain(one["messageId"]))


@commands.command()
@spread
def pause(schedule_id: Id, at: Server) -> None:
    """Let a schedule fire no more until it is resumed."""
    with at.opened() as remote:
        remote.call("POST", f"/v2/schedules/{segment(schedule_id)}/pause")
        _print(remote, schedule_id, at)


@commands.command()
@spread
def resume(schedule_id: Id, at: Server) -> None:
    """Let a paused schedule go on. What it missed is not caught up with."""
    with at.opened() as remote:
        remote.call("POST", f"/v2/schedules/{segment(schedule_id)}/resume")
        _print(remote, schedule_id, at)


@commands.command()
@spread
def delete(schedule_id: Id, consent: Consent, at: Server) -> None:
    """Delete a schedule. Messages that it has made go their way."""
    with at.opened() as remote:
        schedule = remote.call("GET", f"/v2/schedules/{segment(schedule_id)}")
        what = f"{schedule_id} ({schedule['cron']} to {output.plain(schedule['destination'])})"
        if consent.dry_run:
            if at.json:
                output.document({"dryRun": True, "deleted": schedule_id})
            else:
                typer.echo(f"The schedule {what} would be deleted.")
            return
        consent.ask(f"Delete the schedule {what}")
        remote.call("DELETE", f"/v2/schedules/{segment(schedule_id)}")
    if at.json:
        output.document({"deleted": schedule_id})
    else:
        typer.echo(f"{schedule_id} is deleted.")


def _run_columns(zone: str) -> tuple[output.Column, ...]:
    def local(run: Run) -> str:
        return f"{run.local:%a %Y-%m-%d %H:%M %z}"

    return (output.Column(f"in {zone}", local), output.Column("in UTC", lambda run: run.instant))


def _print(remote: Remote, schedule_id: str, at: Server) -> None:
    schedule: dict[str, Any] = remote.call("GET", f"/v2/schedules/{segment(schedule_id)}")
    if at.json:
        output.document(schedule)
        return
    headers = [f"{name}: {value}" for name, values in schedule["header"].items() for value in values]
    output.record(
        {
            "schedule": schedule["scheduleId"],
            "cron": schedule["cron"],
            "destination": f"{schedule['method']} {schedule['destination']}",
            "paused": schedule["isPaused"],
            "next": _instant(schedule.get("nextScheduleTime")),
            "last": _instant(schedule.get("lastScheduleTime")),
            "came to": _states(schedule),
            "error": schedule.get("error"),
            "retries": schedule["retries"],
            "delay": f"{schedule['delay']}s" if schedule.get("delay") else None,
            "queue": schedule.get("queueName"),
            "flow-control key": schedule.get("flowControlKey"),
            "labels": output.joined(schedule.get("labels")),
            "callback": schedule.get("callback"),
            "failure callback": schedule.get("failureCallback"),
            "headers": "\n".join(headers) or None,
            "body": schedule.get("body", schedule.get("bodyBase64")),
            "created": output.Instant(schedule["createdAt"]),
        }
    )


def _instant(ms: int | None) -> output.Instant | None:
    return None if ms is None else output.Instant(ms)


def _states(schedule: dict[str, Any]) -> str | None:
    return output.joined(sorted(set((schedule.get("lastScheduleStates") or {}).values())))
