"""What a reply means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postroad.domain.backoff import backoff
from postroad.domain.message import Attempt, StoredMessage
from postroad.domain.outcome import DELIVERED, FAILED, Retry, outcome
from postroad.domain.reply import NoResponse, Response
from tests.builders import a_message

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def an_attempt(retried: int = 0, **options: Any) -> Attempt:
    return Attempt(StoredMessage(a_message(**options), NOW), lease=1, retried=retried, destination=0)


@pytest.mark.parametrize("status", range(200, 300, 9))
def test_every_2xx_is_a_delivery(status: int) -> None:
    assert outcome(an_attempt(retries=0), Response(status, (), b""), NOW) == DELIVERED


@pytest.mark.parametrize("status", [100, 199, 300, 304, 404, 489, 500, 599])
def test_anything_else_is_retried_until_the_last_attempt(status: int) -> None:
    reply = Response(status, (), b"")

    assert outcome(an_attempt(0, retries=1), reply, NOW) == Retry(backoff(0))
    assert outcome(an_attempt(1, retries=1), reply, NOW) == FAILED


def test_a_message_is_never_retried_past_its_last_attempt() -> None:
    for retries in range(6):
        ends = [outcome(an_attempt(n, retries=retries), NoResponse("x"), NOW) == FAILED for n in range(retries + 1)]
        assert ends == [False] * retries + [True]


def test_the_delay_comes_from_the_destination_then_the_expression_then_the_default() -> None:
    asked = Response(429, (("Retry-After", "7"),), b"")
    attempt = an_attempt(1, retries=3, retry_delay="1000 * (1 + retried)")

    assert outcome(attempt, asked, NOW) == Retry(timedelta(seconds=7))
    assert outcome(attempt, Response(500, (), b""), NOW) == Retry(timedelta(seconds=2))
    assert outcome(an_attempt(1, retries=3), Response(500, (), b""), NOW) == Retry(backoff(1))


def test_489_fails_at_once_only_with_its_header() -> None:
    said = Response(489, (("upstash-nonretryable-error", "True"),), b"")

    assert outcome(an_attempt(retries=5), said, NOW) == FAILED
    assert outcome(an_attempt(retries=5), Response(400, said.headers, b""), NOW) == Retry(backoff(0))
