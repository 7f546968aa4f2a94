"""Header fields become options, or a refusal that names the field."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.limits import Limits
from postroad.domain.message import After, Callback, NotBefore, Options, Origin
from postroad.domain.options import from_json, to_json
from postroad.domain.publication import (
    BY_CONTENT,
    UNIQUE,
    Publication,
    deduplication_key,
    parse_options,
    parse_overrides,
)
from postroad.domain.publish_header import ById
from postroad.errors import InvalidField, Refused

LIMITS = Limits()


def parse(*fields: tuple[str, str]) -> Options:
    return parse_options(fields, limits=LIMITS, now_s=0)[0]


def test_nothing_said_means_the_defaults() -> None:
    assert parse_options([], limits=LIMITS, now_s=0) == (Options(), UNIQUE)


def test_every_option_is_read() -> None:
    options, deduplication = parse_options(
        [
            ("content-type", "text/x"),
            ("upstash-method", "put"),
            ("upstash-delay", "1d10h30m"),
            ("upstash-retries", "7"),
            ("upstash-retry-delay", "1000 * (1 + retried)"),
            ("upstash-timeout", "30"),
            ("upstash-label", " a, b ,a"),
            ("upstash-redact-fields", "body,header[Authorization]"),
            ("upstash-forward-x-one", "1"),
            ("upstash-deduplication-id", "d"),
            ("upstash-telemetry-sdk", "ignored"),
        ],
        limits=LIMITS,
        now_s=0,
    )

    assert options == Options(
        method="PUT",
        headers=(("Content-Type", "text/x"), ("X-One", "1")),
        when=After(timedelta(days=1, hours=10, minutes=30)),
        retries=7,
        retry_delay="1000 * (1 + retried)",
        timeout=timedelta(seconds=30),
        labels=("a", "b"),
        redact="body,header[Authorization]",
    )
    assert deduplication == ById("d")


def test_an_id_counts_more_than_the_content_flag() -> None:
    fields = [("upstash-content-based-deduplication", "true"), ("upstash-deduplication-id", "x")]

    assert parse_options(fields, limits=LIMITS, now_s=0)[1] == ById("x")
    assert parse_options(fields[:1], limits=LIMITS, now_s=0)[1] == BY_CONTENT


def test_not_before_counts_more_than_a_delay() -> None:
    assert parse(("upstash-delay", "5s"), ("upstash-not-before", "100")).when == NotBefore(100)


def test_the_last_of_a_repeated_option_counts_and_all_forwarded_headers_are_kept() -> None:
    options = parse(
        ("upstash-retries", "1"), ("upstash-retries", "2"), ("upstash-forward-a", "1"), ("upstash-forward-a", "2")
    )

    assert options.retries == 2
    assert options.headers == (("A", "1"), ("A", "2"))


def test_callbacks_have_options_of_their_own_down_to_their_own_failure_callback() -> None:
    options = parse(
        ("upstash-retries", "5"),
        ("upstash-callback", "https://a.test/"),
        ("upstash-callback-method", "PUT"),
        ("upstash-callback-forward-x", "1"),
        ("upstash-callback-failure-callback", "https://b.test/"),
        ("upstash-callback-failure-callback-retries", "9"),
        ("upstash-failure-callback", "https://c.test/"),
    )

    assert options.callback == Callback(
        "https://a.test/",
        Options(
            method="PUT",
            headers=(("X", "1"),),
            retries=5,
            failure_callback=Callback("https://b.test/", Options(retries=9)),
        ),
    )
    assert options.failure_callback == Callback("https://c.test/", Options(retries=5))


def test_a_refusal_names_the_field_as_it_was_written() -> None:
    with pytest.raises(InvalidField, match="Upstash-Callback-Forward-X"):
        parse(("upstash-callback", "https://a.test/"), ("upstash-callback-forward-x", "\0"))


def test_what_frames_the_request_or_is_ours_is_not_forwarded() -> None:
    names = ("host", "content-length", "connection", "accept-encoding", "upstash-signature", "transfer_encoding")
    callback = [("upstash-callback", "https://a.test/"), ("upstash-callback-forward-host", "x")]

    options = parse(*((f"upstash-forward-{name}", "x") for name in (*names, "a")), *callback)

    assert options.headers == (("A", "x"),)
    assert options.callback is not None
    assert options.callback.options.headers == ()


def test_overrides_replace_what_they_name_and_end_the_wait() -> None:
    options = parse(
        ("content-type", "a/b"), ("upstash-forward-a", "1"), ("upstash-delay", "1h"), ("upstash-retries", "3")
    )

    changed = parse_overrides(
        [("upstash-retries", "0"), ("upstash-forward-a", "2"), ("content-type", "application/json")],
        options,
        limits=LIMITS,
        now_s=0,
    )

    assert changed == Options(headers=(("Content-Type", "a/b"), ("A", "2")), retries=0)


NAMES = st.sampled_from(
    ["method", "delay", "not-before", "retries", "retry-delay", "timeout", "label", "redact-fields", "deduplication-id",
     "content-based-deduplication", "forward-x", "forward-", "callback", "callback-retries", "failure-callback",
     "failure-callback-callback", "header-forward", "queue-name",
     "flow-control-key", "flow-control-value", "unknown", ""]
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "1",
            "0",
            "-1",
            "5s",
            "1e400",
            "https://a.test/x",
            "true",
            "POST",
            "pow(2,retried)*100",
            "9" * 40,
            "parallelism=3, rate=10, period=1m",
        ]
    ),
)


@given(st.lists(st.tuples(NAMES.map("upstash-{}".format), VALUES), max_size=8))
def test_whatever_is_sent_the_answer_is_options_or_a_refusal(fields: list[tuple[str, str]]) -> None:
    try:
        options, _ = parse_options(fields, limits=LIMITS, now_s=0)
    except Refused:
        return
    stored = to_json(options)
    headers = [list(pair) for pair in options.headers]
    assert (
        from_json(stored, method=options.method, headers=headers, labels=list(options.labels), queue=options.queue)
        == options
    )


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=2, max_size=2), st.binary(max_size=4))
def test_different_content_has_different_keys(headers: list[tuple[str, str]], body: bytes) -> None:
    one, other = (Publication("http://x/", body, Options(headers=(pair,)), BY_CONTENT) for pair in headers)
    folded = [(name.lower(), value) for name, value in headers]

    assert (deduplication_key(one) == deduplication_key(other)) == (folded[0] == folded[1])


def test_an_endpoint_of_a_group_has_a_key_of_its_own() -> None:
    one, other = (
        Publication(url, b"", Options(), ById("x"), origin=Origin("group")) for url in ("http://a/", "http://b/")
    )

    assert deduplication_key(one) != deduplication_key(other)
