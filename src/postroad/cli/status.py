"""`postroad status`: what became of a message, now or in the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from postroad.cli import output
from postroad.cli.exits import ExitCode
from postroad.cli.options import Server, seconds, spread
from postroad.cli.remote import NoProgress, Rejected, Remote, Unreachable, segment

_ENDED = {"completed": ExitCode.DONE, "failed": ExitCode.FAILED, "canceled": ExitCode.CANCELED}
_NOT_FOUND = 404
_PATIENCE_S = 30.0
_SILENCE_S = 60.0
_STEP_S = 1.0

Within = Annotated[
    str | None,
    typer.Option(help="Wait for so long at most: 30s, 5m. Exit code 5 when it is over.", show_default=False),
]


@spread
def status(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a message.", show_default=False)],
    at: Server,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended, with a bar of its progress.")] = False,
    within: Within = None,
) -> None:
    """Print the status of a message: pending, processing, completed, failed or canceled.

    Exit code 0 when it is completed, 3 failed, 4 canceled, 5 when it has not ended (in time).
    """
    deadline = deadline_of(within)
    with at.opened() as remote:
        if wait or deadline is not None:
            state = followed(remote, message_id, deadline=deadline)
        else:
            state = remote.call("GET", f"/v2/status/{segment(message_id)}")
    finish([state], as_json=at.json)


def deadline_of(within: str | None) -> float | None:
    """The monotonic second at which the time to wait is over. Raises `BadOption`."""
    return None if within is None else time.monotonic() + seconds("--within", within)


def followed(remote: Remote, message_id: str, *, deadline: float | None) -> dict[str, Any]:
    """The status of a message when it has ended, or when the time is over; meanwhile a bar shows it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.fields[status]:<10}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=100, status="pending", note="")
        state: dict[str, Any] = {}
        for state in _states(remote, message_id, deadline):
            note = output.plain(state.get("note"))
            done = 100 if state["status"] == "completed" else state.get("progress", 0)
            bar.update(task, completed=done, status=state["status"], note=note, refresh=True)
    return state


def finish(states: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print statuses, and end with the exit code that the worst of them has."""
    if as_json:
        output.document(states[0] if len(states) == 1 else states)
    else:
        for state in states:
            output.record(
                {
                    "id": state["id"],
                    "status": state["status"],
                    "progress": None if state.get("progress") is None else f"{state['progress']:g} %",
                    "note": state.get("note"),
                    "attempts": state.get("attempts"),
                    "result": shown(state.get("result")),
                    "error": state.get("error"),
                    "created": output.Instant(state["createdAt"]) if state.get("createdAt") else None,
                    "updated": output.Instant(state["updatedAt"]) if state.get("updatedAt") else None,
                }
            )
    code = max(_ENDED.get(state["status"], ExitCode.NOT_ENDED) for state in states)
    if code:
        raise typer.Exit(int(code))


def _states(remote: Remote, message_id: str, deadline: float | None) -> Iterator[dict[str, Any]]:
    """Each status of a message until the end, also over a break of the connection; the last one known at the least."""
    path = f"/v2/status/{segment(message_id)}"
    state = remote.call("GET", path)
    yield state
    lost_at: float | None = None
    while state["status"] not in _ENDED:
        left = _SILENCE_S if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return
        try:
            for event in remote.events(f"{path}/stream", silence_s=max(0.1, min(_SILENCE_S, left))):
                lost_at = None
                if event is not None and event.name == "status":
                    state = event.data
                    yield state
                if deadline is not None and time.monotonic() > deadline:
                    return
        except (Unreachable, Rejected) as error:
            if isinstance(error, NoProgress) and deadline is not None and time.monotonic() > deadline:
                return
            lost_at = lost_at or time.monotonic()
            if not error.is_passing or time.monotonic() - lost_at > _PATIENCE_S:
                raise
        # A server that is restarted ends the stream, and is there again in a moment.
        if state["status"] not in _ENDED:
            time.sleep(_STEP_S)


def found(remote: Remote, message_id: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The status of a message and the lines that its handler logged; nothing when nothing is known of it."""
    path = f"/v2/status/{segment(message_id)}"
    try:
        state = remote.call("GET", path)
        lines: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = remote.call("GET", f"{path}/log", query={"cursor": cursor})
            lines += page["lines"]
            cursor = page.get("cursor")
            if not cursor:
                return state, lines
    except Rejected as error:
        if error.status == _NOT_FOUND:
            return None, []
        raise


def shown(result: Any) -> str | None:
    """A result as text."""
    if result is None or isinstance(result, str):
        return result
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"))
