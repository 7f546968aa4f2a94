"""What each step of a message costs, one by one in this process: `python -m bench.steps`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

from bench import sql_steps
from bench.report import Report, Samples
from bench.sample import HEADERS, KEY, TELLING, TOKEN, URL, publications, publisher
from bench.scenarios import postgres

from postroad.api.door import Door
from postroad.api.publishing import answer_to
from postroad.clock import Clock
from postroad.dispatch.deliver import Finished
from postroad.dispatch.egress.request import OutgoingRequest, head
from postroad.dispatch.settler import _settlement
from postroad.domain.destination import parse_url
from postroad.domain.ids import message_text, random_text
from postroad.domain.limits import Limits
from postroad.domain.message import Attempt, StoredMessage
from postroad.domain.outcome import outcome
from postroad.domain.publication import parse_options
from postroad.domain.reply import Response
from postroad.domain.request import request_headers
from postroad.domain.signature import signature
from postroad.domain.tenant import TenantId, token_hash
from postroad.publish import Published
from postroad.store.messages import NewMessage, _columns

PYTHON = "one step, µs of CPU/message"
SQL = "one durable statement"
GROUP = 100
ANSWER = Response(200, (("content-length", "2"), ("content-type", "text/plain")), b"ok")


def python_steps(count: int) -> Samples:
    """Microseconds a message of every step, in the order of a message's life."""
    clock, limits, tenant = Clock(), Limits(), TenantId(1)
    publish = publisher()
    # Only the options are asked for, and for them the door needs nothing but the clock and the limits.
    context = cast("Any", SimpleNamespace(intake=None, tenancy=None, limits=limits, clock=clock, trusted_proxies=()))
    door = Door(cast("Any", None), context)
    given = publications(count)
    news = [publish.message(tenant, publication, policy=None) for publication in given]
    groups = [news[at : at + GROUP] for at in range(0, count, GROUP)]
    attempts = [_attempt(new, clock) for new in news]
    requests = [_outgoing(attempt) for attempt in attempts]
    spent = timedelta(milliseconds=3)
    done = [Finished(one, ANSWER, outcome(one, ANSWER, clock.now()), spent, b"") for one in attempts]
    published = [Published(new.message.id, URL, deduplicated=False) for new in news]
    ids = [new.message.id for new in news]
    now_s = int(clock.now_s())

    telling = tuple(pair for pair in HEADERS if pair[0][:8] == b"upstash-" or pair[0] == b"content-type")

    def sign(attempt: Attempt) -> object:
        return signature(KEY, URL, attempt.message.body or b"", now_s, random_text("jwt_"))

    def headers(attempt: Attempt) -> object:
        return request_headers(attempt, attempt.message.body or b"", signing_key=KEY, now_s=now_s)

    return {
        "token_hash": _each(token_hash, [TOKEN] * count),
        "options, remembered": _each(lambda fields: door._options(fields, {}), [telling] * count),  # noqa: SLF001  the path as it is
        "options, parsed": _each(lambda it: parse_options(it, limits=limits, now_s=now_s), [TELLING] * count),
        "Publisher.message": _each(lambda publication: publish.message(tenant, publication, policy=None), given),
        f"columns of the insert, groups of {GROUP}": _each(_columns, groups) / GROUP,
        "answer to the publisher": _each(answer_to, published),
        "message_text": _each(message_text, ids),
        "signature with a new jti": _each(sign, attempts),
        "request_headers, signature included": _each(headers, attempts),
        "request head": _each(head, requests),
        "settlement": _each(_settlement, done),
    }


def _each(step: Callable[[Any], object], subjects: Sequence[Any]) -> float:
    """Microseconds of CPU that a step takes for one subject, the loop's own share taken off."""
    _time(step, subjects[: len(subjects) // 10])  # warm
    return (_time(step, subjects) - _time(_nothing, subjects)) / len(subjects) * 1e6


def _time(step: Callable[[Any], object], subjects: Iterable[Any]) -> float:
    began = time.process_time()
    for subject in subjects:
        step(subject)
    return time.process_time() - began


def _nothing(_: Any) -> None:
    """What a call costs."""


def _attempt(new: NewMessage, clock: Clock) -> Attempt:
    return Attempt(StoredMessage(new.message, clock.now()), lease=1, retried=0, destination=new.destination)


def _outgoing(attempt: Attempt) -> OutgoingRequest:
    body = attempt.message.body or b""
    headers = request_headers(attempt, body, signing_key=KEY, now_s=int(time.time()))
    return OutgoingRequest(parse_url(URL), "POST", headers, body, 30.0)


def measure(report: Report, *, messages: int, times: int) -> None:
    """Both tables, each step measured several times."""
    python_steps(messages // 10)
    report.measure(PYTHON, lambda: python_steps(messages), max(times, 3))
    with postgres() as server:
        report.measure(SQL, lambda: sql_steps.run(server, messages), times)


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--messages", type=int, default=10_000)
    options.add_argument("--repeat", type=int, default=3)
    chosen = options.parse_args()
    measure(Report(), messages=chosen.messages, times=chosen.repeat)


if __name__ == "__main__":
    main()
