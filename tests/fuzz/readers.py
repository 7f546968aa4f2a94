"""The parsers of text that strangers send, each with what must hold of it whatever they send.

A function gives what its parser makes of a text, None where that refuses it with its own error. Whatever else is raised
is a finding.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import orjson

from postroad.api import bulk_actions, client_address, door, json_text, logs
from postroad.api.auth import bearer, token_in_query
from postroad.api.query import Query
from postroad.api.reports import said_in
from postroad.api.wire import cursor_of
from postroad.domain.backoff import LONGEST_DELAY, requested_delay
from postroad.domain.cron import parse_cron
from postroad.domain.dead_letter import dead_letter_number, dlq_id
from postroad.domain.destination import parse_url
from postroad.domain.duration import format_duration, parse_duration, parse_go_duration
from postroad.domain.flow_control import MAX_PERIOD, MOST, parse_flow_key, parse_flow_value
from postroad.domain.headers import check_name, check_value
from postroad.domain.ids import MessageId, message_text, parse_message_id
from postroad.domain.limits import Limits
from postroad.domain.message import Options
from postroad.domain.network import parse_networks
from postroad.domain.options import from_json, to_json
from postroad.domain.outcome import LONGEST_SPAN
from postroad.domain.publication import Publication as Asked
from postroad.domain.publication import deduplication_key, parse_options, parse_overrides
from postroad.domain.queue import parse_queue_name
from postroad.domain.redaction import parse_redaction
from postroad.domain.retry_expression import parse_retry_expression, stored_expression
from postroad.domain.schedule import due, next_tick, parse_schedule_id
from postroad.domain.status import MOST_LOG_CHARACTERS, MOST_NOTE_CHARACTERS
from postroad.domain.status_access import grant, parse_access
from postroad.domain.url_group import parse_default_headers, parse_endpoint, parse_group_name
from postroad.errors import InvalidValue, PostroadError, Refused
from postroad.store.deliveries import RESULT_BYTES

T = TypeVar("T")

NOW = datetime(2026, 11, 22, 12, 34, 56, 789_000, tzinfo=UTC)
LIMITS = Limits()
LONGEST = timedelta(days=36_500)


def duration(text: str) -> object:
    """Durations as QStash writes them."""
    found: list[timedelta] = []
    for bare_seconds in (False, True):
        try:
            found.append(parse_duration(text, bare_seconds=bare_seconds))
        except InvalidValue:
            continue
        assert timedelta() <= found[-1] <= LONGEST
        assert parse_duration(format_duration(found[-1])) == found[-1]
        assert text.isascii()
    return found or None


def go_duration(text: str) -> object:
    """Durations as Go writes them."""
    try:
        value = parse_go_duration(text)
    except InvalidValue:
        return None
    assert timedelta() <= value <= LONGEST
    return value


def cron(text: str) -> object:
    """Cron expressions and their ticks, also around clock changes and near the end of time."""
    try:
        value = parse_cron.__wrapped__(text)
    except InvalidValue:
        return None
    assert parse_cron.__wrapped__(value.text) == value
    for start in (NOW, datetime(2028, 2, 29, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)):
        tick = value.next_after(start)
        assert start < tick < start + timedelta(days=366 * 40)
        assert value.next_after(tick - timedelta(microseconds=1)) == tick
        last = value.last_before_or_at(tick)
        assert last == tick
    with suppress(InvalidValue):
        next_tick.__wrapped__(value, datetime(9999, 12, 30, tzinfo=UTC))
    what = due(value, value.next_after(NOW - timedelta(hours=2)), NOW, catch_up=timedelta(minutes=10))
    assert len(what.ticks) <= 100
    assert all(tick <= NOW or len(what.ticks) == 1 for tick in what.ticks)
    return value


def retry_expression(text: str) -> object:
    """Formulas for the delay before a retry."""
    stored = stored_expression.__wrapped__(text)
    for retried in (0, 1, 2, 1000, 10**6):
        assert timedelta() <= stored.delay(retried) <= LONGEST_DELAY
    try:
        value = parse_retry_expression.__wrapped__(text, 1000)
    except InvalidValue:
        return None
    assert len(text) <= 256
    assert [value.delay(n) for n in range(5)] == [stored.delay(n) for n in range(5)]
    return value


def flow_control(text: str) -> object:
    """Values and keys of flow control."""
    with suppress(InvalidValue):
        assert parse_flow_key(text) == text
        assert 0 < len(text) <= 256
    try:
        parallelism, rate, period = parse_flow_value(text)
    except InvalidValue:
        return None
    given = {"parallelism": parallelism, "rate": rate, "period": format_duration(period)}
    assert timedelta(seconds=1) <= period <= MAX_PERIOD
    assert all(1 <= number <= MOST for number in (parallelism, rate) if number is not None)
    again = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    assert parse_flow_value(again) == (parallelism, rate, period)
    return again


def redaction(text: str) -> object:
    """Lists of what is not to be seen."""
    try:
        value = parse_redaction(text)
    except InvalidValue:
        return None
    assert parse_redaction(value.text()) == value
    return value


def destination(text: str) -> object:
    """URLs of destinations and endpoints."""
    with suppress(Refused):
        parse_endpoint(text, "name", path="endpoints[0]")
    try:
        url = parse_url.__wrapped__(text)
    except PostroadError:
        return None
    again = parse_url.__wrapped__(f"{url.scheme}://{url.authority}{url.target}")
    assert (again.scheme, again.host, again.port, again.target) == (url.scheme, url.host, url.port, url.target)
    assert re.fullmatch(r"[a-z0-9_.:-]{1,253}", url.host)
    assert 1 <= url.port <= 65_535
    assert re.fullmatch(r"/[\x21-\x7e]*", url.target)
    return url


def publish_headers(text: str) -> object:
    """The fields of a publish, one on a line: `name: value`."""
    fields = [(name.lower(), value) for line in text.split("\n") for name, _, value in [line.partition(": ")]]
    with suppress(Refused):
        parse_overrides(fields, Options(), limits=LIMITS, now_s=NOW.timestamp())
    try:
        options, deduplication = parse_options(fields, limits=LIMITS, now_s=NOW.timestamp())
    except Refused:
        return None
    stored = orjson.loads(orjson.dumps(to_json(options)))
    headers = [list(pair) for pair in options.headers]
    again = from_json(stored, method=options.method, headers=headers, labels=list(options.labels), queue=options.queue)
    assert again == options
    assert "\0" not in orjson.dumps(stored).decode()
    assert "\\u0000" not in orjson.dumps(stored).decode()
    assert all(name.isascii() and value.encode("latin-1") is not None for name, value in options.headers)
    deduplication_key(Asked("http://x/", b"", options, deduplication))
    return options


def default_headers(text: str) -> object:
    """The default headers of a URL group, one on a line."""
    fields = [(name, value) for line in text.split("\n") for name, _, value in [line.partition(": ")]]
    try:
        kept, options = parse_default_headers(fields, limits=LIMITS, now_s=NOW.timestamp())
    except Refused:
        return None
    assert parse_default_headers(kept, limits=LIMITS, now_s=NOW.timestamp()) == (kept, options)
    return kept


def headers(text: str) -> object:
    """Names and values of headers."""
    for check in (check_name, check_value):
        try:
            assert check(check(text)) == check(text)
        except InvalidValue:
            continue
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", check(text))
    return text


def names(text: str) -> object:
    """Names of queues, groups and schedules, and ids of messages."""
    found: list[object] = []
    for parse in (parse_queue_name, parse_group_name, parse_schedule_id):
        with suppress(InvalidValue):
            found.append(parse(text))
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,256}", text)
    identity = parse_message_id(text)
    if identity is not None:
        assert isinstance(identity, UUID)
        assert message_text(identity) == text
        found.append(identity)
    return found or None


def cursors(text: str) -> object:
    """Cursors of the log, of bulk actions and of dead letters."""
    found: list[object] = []
    number = dead_letter_number(text)
    if number is not None:
        assert 0 <= number < 2**63
        assert dead_letter_number(dlq_id(number, NOW)) == number
        found.append(number)
    for oldest_first in (False, True):
        try:
            position = logs._position(text, oldest_first=oldest_first)
        except Refused:
            continue
        assert datetime(1970, 1, 1, tzinfo=UTC) <= position.at < datetime(9000, 1, 1, tzinfo=UTC)
        if 0 <= position.ordinal <= 9 and "-" in text:
            assert logs._position(cursor_of(position), oldest_first=oldest_first) == position
        found.append(position)
    with suppress(Refused):
        found.append(bulk_actions._place(text))
    return found or None


def query(text: str) -> object:
    """Filters and pages in a query string."""
    given = Query()
    try:
        for name, value in parse_qsl(text, keep_blank_values=True):
            given.add(name, value)
        count = given.take_int("count", default=10, least=1, most=2**31)
        assert 1 <= count <= 2**31
        given.take_flag("async")
        filters = _result(given.take_filters())
        given.end()
    except Refused:
        return None
    assert all("\0" not in value for values in filters.values.values() for value in values)
    return filters


def _result(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that waits for nothing but its turn."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result


def retry_after(text: str) -> object:
    """What destinations ask for."""
    asked = requested_delay((("Retry-After", text), ("X-RateLimit-Reset", text)), NOW)
    assert asked is None or timedelta() <= asked <= LONGEST_DELAY
    return asked


def addresses(text: str) -> object:
    """X-Forwarded-For, from proxies that are trusted and others."""
    trusted = parse_networks("127.0.0.0/8,10.0.0.0/8,::1")
    lines = [(b"x-forwarded-for", line.encode("latin-1", "replace")) for line in text.split("\n")]
    for peer in ("127.0.0.1", "8.8.8.8", None, "::1"):
        found = client_address.caller_ip(peer, lines, trusted)
        assert found == peer if peer in (None, "8.8.8.8") else re.fullmatch(r"[0-9a-f.:]+", found or "")
    return lines


def targets_of_requests(text: str) -> object:
    """The path and the query of a request, as the door takes them apart."""
    raw = text.encode("latin-1", "replace")
    path, _, parameters = raw.partition(b"?")
    entry = door._ENTRY.fullmatch(path)
    put_right = door._put_right(text, "POST")
    assert door._put_right(put_right, "POST") == put_right
    try:
        own, kept = door._split_query(parameters.decode("latin-1"))
    except Refused:
        return None
    assert all(name.startswith(b"upstash-") for name, _ in own)
    assert not kept.lower().startswith("upstash-")
    right = door._put_right_destination((entry[2] or b"").decode("latin-1") if entry else text, kept)
    bearer(text)
    token_in_query(text)
    return right


def status_access(text: str) -> object:
    """What a status URL claims: there is one text for it."""
    access = parse_access(text)
    if access is None:
        return None
    assert not access.is_proven(("sig_a", "sig_b"), MessageId(UUID(int=1)), 0.0)
    again = grant(
        "sig_a",
        MessageId(UUID(int=1)),
        access.tenant_id,
        purpose=access.purpose,
        until_s=access.until_s,
        lease=access.lease,
    )
    assert again[:22] == text[:22]
    assert len(again) == len(text)
    proven = parse_access(again)
    assert proven is not None
    assert proven.is_proven(("sig_b", "sig_a"), MessageId(UUID(int=1)), access.until_s)
    assert not proven.is_proven(("sig_a",), MessageId(UUID(int=1)), access.until_s + 1)
    return access


def report(text: str) -> object:
    """What a handler reports."""
    try:
        document = json_text.parsed(text.encode("utf-8", "surrogatepass"), "a JSON object")
        if not isinstance(document, dict):
            return None
        said = said_in(document)
    except Refused:
        return None
    stored = said.report
    assert stored.progress is None or 0 <= stored.progress <= 100
    assert len((stored.note or "").encode()) <= 4 * MOST_NOTE_CHARACTERS
    assert len((stored.log or "").encode()) <= 4 * MOST_LOG_CHARACTERS
    assert stored.result is None or orjson.loads(stored.result) == document["result"]
    assert len(stored.result or b"") <= RESULT_BYTES
    assert not (said.ack and said.nack is not None)
    assert said.span is None or timedelta() <= said.span <= LONGEST_SPAN
    return said


def json_texts(text: str) -> object:
    """JSON: an array is read in pieces as it is in one, and nothing is too deep for us."""
    body = text.encode("utf-8", "surrogatepass")
    try:
        value = json_text.parsed(body, "a JSON text")
    except Refused:
        value = None
    else:
        orjson.dumps(value)
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        whole = None
    try:
        parts = [orjson.loads(part) for part in json_text._Splitter(body, "an array").texts() if part is not None]
    except (Refused, orjson.JSONDecodeError):
        parts = None
    if parts is not None:
        assert parts == whole
    elif isinstance(whole, list):
        assert len(body) > 1000 or body.count(b"[") + body.count(b"{") > json_text.MOST_LEVELS
    try:
        read = asyncio.run(_gathered(body)) if len(body) < 64 else None
    except Refused:
        read = None
    assert read is None or read == whole
    return value


async def _gathered(body: bytes) -> list[Any]:
    return [element async for element in json_text.elements(body, "an array", most=100)]
