"""A plan as people and programs read it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import typer

from postroad.cli.as_code.plan import Action, Change, Fact, Failure, Step
from postroad.cli.as_code.resource import REDACTED

Hidden = Callable[[str], str]

HIDDEN = "(hidden)"

_MARKS = {
    Action.CREATE: ("+", "green"),
    Action.CHANGE: ("~", "yellow"),
    Action.DELETE: ("-", "red"),
    Action.KEEP: ("!", "yellow"),
    Action.SKIP: ("!", "yellow"),
    Action.UNCHANGED: (" ", None),
}
_COUNTED = {
    Action.CREATE: "to create",
    Action.CHANGE: "to change",
    Action.DELETE: "to delete",
    Action.KEEP: "kept",
    Action.SKIP: "skipped",
    Action.UNCHANGED: "unchanged",
}
_SECRET = re.compile(r"auth|cookie|secret|token|passw|pwd|signature|key|credential|session|bearer|jwt", re.IGNORECASE)
_MOST_CHARACTERS = 80


def lines(steps: Sequence[Step], *, hidden: Hidden, note: str = "") -> Iterator[str]:
    """The plan: a line for each resource, one for each field that changes, and the sum."""
    for step in steps:
        mark, colour = _MARKS[step.action]
        resource = step.resource
        words = f"{mark} {step.action.value} {resource.kind} {resource.name}"
        yield typer.style(words + (f": {step.note}" if step.note else ""), fg=colour)
        changes = list(_told(step))
        width = max((len(one.field) for one in changes), default=0)
        for change in changes:
            yield f"    {change.field.ljust(width)}  {_change(step, change, hidden)}"
    counts = Counter(step.action for step in steps)
    parts = [f"{counts[action]} {words}" for action, words in _COUNTED.items() if counts[action]]
    yield f"{', '.join(parts) or 'nothing to do'}."
    if note:
        yield f"{note}."


def failure(outcome: Failure, *, hidden: Hidden) -> str:
    """What the server refused, in its words."""
    step = outcome.step
    return f"{step.action.value} {step.resource.kind} {step.resource.name} failed: {hidden(outcome.reason)}"


def document(steps: Sequence[Step], failures: Iterable[Failure], *, applied: bool, hidden: Hidden) -> dict[str, Any]:
    """The plan and its outcome as JSON."""
    reasons = {id(one.step): hidden(one.reason) for one in failures}
    return {
        "applied": applied and not reasons,
        "steps": [
            {
                "action": step.action.value,
                "kind": step.resource.kind,
                "name": step.resource.name,
                "changes": [
                    {
                        "field": one.field,
                        "from": _masked(one, one.before, hidden),
                        "to": _masked(one, one.after, hidden),
                    }
                    for one in _told(step)
                ],
                **({"note": step.note} if step.note else {}),
                **({"error": reasons[id(step)]} if id(step) in reasons else {}),
            }
            for step in steps
        ],
        "counts": {action.value: count for action, count in Counter(step.action for step in steps).items()},
    }


def _told(step: Step) -> Iterator[Change]:
    """The changes that are worth a line: of what is new, not what it has not."""
    for change in step.changes:
        if step.action is not Action.CREATE or change.after not in (None, False):
            yield change


def _change(step: Step, change: Change, hidden: Hidden) -> str:
    after = _shown(change, change.after, hidden)
    return after if step.action is Action.CREATE else f"{_shown(change, change.before, hidden)} → {after}"


def _shown(change: Change, fact: Fact, hidden: Hidden) -> str:
    match _masked(change, fact, hidden):
        case None:
            return "none"
        case bool() as flag:
            return str(flag).lower()
        case str() as text if text.startswith(REDACTED):
            return f"redacted, {text.removeprefix(REDACTED)[:12]}…"
        case str() as text:
            text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
            return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)} characters)"
        case number:
            return str(number)


def _masked(change: Change, fact: Fact, hidden: Hidden) -> Fact:
    """The value as it may be printed. What was there before may be an older secret, so it hides with the new one."""
    if not isinstance(fact, str) or fact.startswith(REDACTED):
        return fact
    _, is_header, name = change.field.rpartition("header ")
    if is_header and _SECRET.search(name):
        return HIDDEN
    if isinstance(change.after, str) and hidden(change.after) != change.after and fact is not change.after:
        return HIDDEN
    return hidden(fact)
