"""What is redacted, how that is stored and what is shown instead."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.domain.headers import canonical
from postroad.domain.redaction import Redaction, parse_redaction, redacted_body
from postroad.errors import InvalidValue

SECRET = "Bearer abc"
SHOWN = f"REDACTED:{hashlib.sha256(b'Bearer abc').hexdigest()}"

names = st.text("!#$%&'*+-.^_`|~019azAZ", min_size=1)
fields = st.sampled_from(["body", "header", "headers"]) | st.builds(
    "{}[{}]".format, st.sampled_from(["header", "headers"]), names
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("body", Redaction(True, False, frozenset())),
        ("header", Redaction(False, True, frozenset())),
        ("headers", Redaction(False, True, frozenset())),
        ("body,header", Redaction(True, True, frozenset())),
        (" body ,\theader[authorization] ", Redaction(True, False, frozenset({"Authorization"}))),
        ("headers[X-A],header[x-b],header[x-a]", Redaction(False, False, frozenset({"X-A", "X-B"}))),
        ("header[X-A],header", Redaction(False, True, frozenset())),
        ("header[ X-A ]", Redaction(False, False, frozenset({"X-A"}))),
    ],
)
def test_fields_are_read_as_qstash_and_its_sdks_write_them(text: str, expected: Redaction) -> None:
    assert parse_redaction(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "body,",
        ",",
        "Body",
        "url",
        "header[]",
        "header[ab",
        "header]a[",
        "header[a]b",
        "header[a b]",
        "body[a]",
        "header[a][b]",
    ],
)
def test_an_unknown_field_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_redaction(text)


@given(st.text() | st.text("bodyhers[], -"))
def test_any_text_is_a_redaction_or_refused(text: str) -> None:
    try:
        redaction = parse_redaction(text)
    except InvalidValue:
        return
    assert redaction.body or redaction.all_headers or redaction.headers


@given(st.lists(fields, min_size=1))
def test_a_stored_redaction_reads_back_as_itself(asked: list[str]) -> None:
    redaction = parse_redaction(", ".join(asked))
    assert parse_redaction(redaction.text()) == redaction
    assert redaction.text() == parse_redaction(",".join(reversed(asked))).text()


def test_the_stored_text_is_in_a_fixed_order() -> None:
    assert parse_redaction("headers[x-b], header[X-A], body").text() == "body,header[X-A],header[X-B]"
    assert parse_redaction("headers,body,header[a]").text() == "body,header"


@given(st.binary())
def test_a_redacted_body_is_its_hash(body: bytes) -> None:
    assert redacted_body(body) == f"REDACTED:{hashlib.sha256(body).hexdigest()}"


def test_only_the_named_headers_are_hidden() -> None:
    headers = (("authorization", SECRET), ("X-A", "1"), ("Authorization", SECRET))
    shown = parse_redaction("header[AUTHORIZATION]").redacted_headers(headers)
    assert shown == (("authorization", SHOWN), ("X-A", "1"), ("Authorization", SHOWN))


def test_a_redaction_of_the_body_alone_leaves_the_headers() -> None:
    headers = (("Authorization", SECRET),)
    assert parse_redaction("body").redacted_headers(headers) == headers


@given(st.lists(st.tuples(names, st.text(st.characters(max_codepoint=255)))).map(tuple), st.lists(fields, min_size=1))
def test_a_header_is_hidden_exactly_when_asked_for(headers: tuple[tuple[str, str], ...], asked: list[str]) -> None:
    redaction = parse_redaction(",".join(asked))
    shown = redaction.redacted_headers(headers)
    assert [name for name, _ in shown] == [name for name, _ in headers]
    for (name, value), (_, seen) in zip(headers, shown, strict=True):
        hidden = redaction.all_headers or canonical(name) in redaction.headers
        assert seen == (f"REDACTED:{hashlib.sha256(value.encode('latin-1')).hexdigest()}" if hidden else value)
