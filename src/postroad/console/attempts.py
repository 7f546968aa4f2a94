"""The attempts of a message, put together from the events of its log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postroad.console import payloads
from postroad.console.payloads import Payload

_MOST_ANSWERED_BYTES = 64 * 1024
"""Of answers that are shown whole, the newest first: to colour them all could take seconds."""

_ENDS = ("DELIVERED", "ERROR", "FAILED", "CANCELED")


@dataclass(slots=True)
class Attempted:
    """An attempt: when it began and how it ended, the answer if it failed, and when the next one comes."""

    number: int
    began_at: int
    ended_at: int | None = None
    state: str = "ACTIVE"
    status: int | None = None
    error: str | None = None
    headers: dict[str, list[str]] | None = None
    answer: Payload | None = None
    next_at: int | None = None

    @property
    def took_ms(self) -> int | None:
        """How long it took, None while it is under way."""
        return None if self.ended_at is None else max(self.ended_at - self.began_at, 0)


def attempts_in(events: Sequence[dict[str, Any]]) -> list[Attempted]:
    """Every attempt, the first one first, of events of which the first is the oldest."""
    found: list[Attempted] = []
    answers: list[tuple[Attempted, bytes | str | None]] = []
    for event in events:
        state = event["state"]
        if state == "ACTIVE":
            found.append(Attempted(len(found) + 1, event["time"]))
            continue
        if not found:
            continue
        attempt = found[-1]
        if state in _ENDS and attempt.ended_at is None:
            attempt.ended_at = event["time"]
            attempt.state = state
        if state == "ERROR":
            attempt.status = event.get("responseStatus")
            attempt.error = event.get("error")
            attempt.headers = event.get("responseHeader")
            answers.append((attempt, payloads.of_event(event, "responseBody")))
        elif state == "FAILED":
            attempt.error = attempt.error or event.get("error")
        elif state == "RETRY":
            attempt.next_at = event.get("nextDeliveryTime")
    left = _MOST_ANSWERED_BYTES
    for attempt, body in reversed(answers):
        attempt.answer = payloads.shown(body) if left > 0 else payloads.glimpse(body)
        left -= len(body or "")
    return found
