"""Header names and values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.headers import (
    MAX_NAME_LENGTH,
    MAX_VALUE_BYTES,
    NOT_FORWARDED,
    _remembered_canonical,
    canonical,
    check_name,
    check_value,
    following,
    header_map,
    is_forwardable,
    unambiguous,
)
from postroad.errors import InvalidValue

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
tokens = st.text(TOKEN_CHARACTERS, min_size=1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test-header", "Test-Header"),
        ("TEST-HEADER", "Test-Header"),
        ("content-type", "Content-Type"),
        ("x-ratelimit-reset", "X-Ratelimit-Reset"),
        ("x_y-z", "X_y-Z"),
        ("a", "A"),
        ("-a--b-", "-A--B-"),
        ("1st-ABC", "1st-Abc"),
        ("not a token", "not a token"),
        ("ünï-code", "ünï-code"),
        ("", ""),
        ("long-" * 100, "Long-" * 100),
    ],
)
def test_names_are_shown_in_canonical_case(name: str, expected: str) -> None:
    assert canonical(name) == expected


@given(tokens)
def test_canonical_case_forgets_the_case_and_nothing_else(name: str) -> None:
    assert canonical(name).lower() == name.lower()
    assert canonical(canonical(name)) == canonical(name.swapcase()) == canonical(name)


def test_a_destination_cannot_fill_the_memory_with_long_names() -> None:
    before = _remembered_canonical.cache_info().misses
    assert canonical("x" * 65) == "X" + "x" * 64
    assert _remembered_canonical.cache_info().misses == before


@given(tokens)
def test_every_token_is_a_name(name: str) -> None:
    assert check_name(name) == name


def test_a_name_and_a_value_have_a_longest_length() -> None:
    assert check_name("x" * MAX_NAME_LENGTH)
    with pytest.raises(InvalidValue, match="at most 256 characters"):
        check_name("x" * (MAX_NAME_LENGTH + 1))
    assert check_value(f" {'x' * MAX_VALUE_BYTES} ")
    with pytest.raises(InvalidValue, match="at most 8192 bytes"):
        check_value("x" * (MAX_VALUE_BYTES + 1))


@given(st.text(min_size=1).filter(lambda text: not set(text) <= set(TOKEN_CHARACTERS)))
def test_nothing_else_is_a_name(name: str) -> None:
    with pytest.raises(InvalidValue, match="a header name"):
        check_name(name)


@pytest.mark.parametrize("name", ["", "X-A\n", "X A", "X:A", "X-A\r\nX-B", "é", "a[b]"])
def test_a_name_with_anything_else_in_it_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        check_name(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("  a b\t", "a b"),
        ("a\tb", "a\tb"),
        ("caf\xe9", "caf\xe9"),
        ("\xc2\x85", "\xc2\x85"),
        ("\xa0a\xa0", "\xa0a\xa0"),
    ],
)
def test_a_value_keeps_all_but_the_blanks_around_it(value: str, expected: str) -> None:
    assert check_value(value) == expected


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\n", "\na", "\r", "a\0b", "\x1b[0m", "\x7f", "€", "日本", "\ud800"]
)
def test_a_value_that_a_header_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(InvalidValue, match="a header value"):
        check_value(value)


@given(st.text() | st.text(st.characters(max_codepoint=255)))
def test_an_accepted_value_is_one_line_of_latin_1(value: str) -> None:
    try:
        accepted = check_value(value)
    except InvalidValue:
        assert any(c > "\xff" or c == "\x7f" or (c < " " and c != "\t") for c in value)
        return
    wire = accepted.encode("latin-1")
    assert not set(wire) & (set(range(32)) - {9} | {127})
    assert accepted == value.strip(" \t")


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "connection",
        "keep-alive",
        "upgrade",
        "expect",
        "proxy-authorization",
        "proxy-anything",
        "upstash-message-id",
        "upstash-signature",
        "upstash-anything",
        "content_length",
        "transfer_encoding",
        "proxy_authorization",
        "upstash_message_id",
    ],
)
def test_headers_of_the_connection_and_ours_are_not_forwarded(name: str) -> None:
    assert not is_forwardable(name)


@pytest.mark.parametrize(
    "name",
    ["authorization", "content-type", "content-encoding", "cookie", "x-upstash-a", "x-proxy-a", "accept", "hosts"],
)
def test_all_other_headers_are_forwarded(name: str) -> None:
    assert is_forwardable(name)


def test_names_that_are_not_forwarded_are_lower_case_tokens() -> None:
    assert all(check_name(name) == name.lower() for name in NOT_FORWARDED)
    assert not any(is_forwardable(name) for name in NOT_FORWARDED)


def test_what_follows_is_neither_for_us_nor_of_proxies_nor_who_the_caller_is() -> None:
    fields = [
        ("connection", "close, X-Hop"),
        ("connection", "x-Other ,"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("forwarded", "for=x"),
        ("x-forwarded-for", "x"),
        ("x-forwarded-client-cert", "x"),
        ("upstash-retries", "1"),
        ("host", "h"),
        ("x-own", "1"),
        ("accept", "a"),
        ("x-own", "2"),
    ]
    assert following(fields) == [("x-own", "1"), ("accept", "a"), ("x-own", "2")]


def test_of_a_header_that_is_no_list_the_last_line_is_left() -> None:
    headers = [("Content-Type", "a"), ("X-A", "1"), ("Cookie", "a"), ("Content-Type", "b"), ("X-A", "2")]
    assert unambiguous(headers) == [("X-A", "1"), ("Cookie", "a"), ("Content-Type", "b"), ("X-A", "2")]


def test_values_of_one_name_are_gathered_in_their_order() -> None:
    headers = (("set-cookie", "a"), ("X-One", "1"), ("Set-Cookie", "b"), ("SET-COOKIE", "a"))
    assert header_map(headers) == {"Set-Cookie": ["a", "b", "a"], "X-One": ["1"]}
    assert list(header_map(headers)) == ["Set-Cookie", "X-One"]


@given(st.lists(st.tuples(tokens, st.text())).map(tuple))
def test_a_header_map_loses_no_value(headers: tuple[tuple[str, str], ...]) -> None:
    by_name = header_map(headers)
    assert sum(map(len, by_name.values())) == len(headers)
    for name, value in headers:
        assert value in by_name[canonical(name)]
