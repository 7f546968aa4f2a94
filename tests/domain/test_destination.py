"""One strict reading of URLs."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroad.domain.destination import MAX_URL_LENGTH, Url, destination_key, parse_url
from postroad.errors import InvalidDestination


def test_a_url_is_taken_apart_and_its_text_is_kept_as_it_was() -> None:
    text = "HTTPS://Example.COM.:8443//a%2Fb/../c;d?x=1&y=%20#fragment"
    assert parse_url(text) == Url(
        text=text,
        scheme="https",
        host="example.com",
        port=8443,
        target="//a%2Fb/../c;d?x=1&y=%20",
        authority="Example.COM.:8443",
    )


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://h", "/"),
        ("http://h/", "/"),
        ("http://h?q=1", "/?q=1"),
        ("http://h#f", "/"),
        ("http://h/?", "/?"),
        ("http://h/a?b?c#d#e", "/a?b?c"),
        ("http://h/https://other/@x", "/https://other/@x"),
        ("http://h/<\"'`{}|^>", "/<\"'`{}|^>"),
    ],
)
def test_the_target_is_the_path_and_query_as_written(text: str, target: str) -> None:
    assert parse_url(text).target == target


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://example.com", "example.com", 80),
        ("https://example.com", "example.com", 443),
        ("http://example.com:1", "example.com", 1),
        ("http://example.com:65535", "example.com", 65535),
        ("http://localhost:3000", "localhost", 3000),
        ("http://my_service-1:80", "my_service-1", 80),
        ("http://xn--bcher-kva.example", "xn--bcher-kva.example", 80),
        ("http://127.0.0.1:9", "127.0.0.1", 9),
        ("http://127.0.0.1.", "127.0.0.1", 80),
        ("http://[::1]:9", "::1", 9),
        ("http://[0:0:0:0:0:0:0:1]", "::1", 80),
        ("http://[2001:DB8::A]", "2001:db8::a", 80),
        ("http://[::ffff:127.0.0.1]", "::ffff:7f00:1", 80),
        ("http://1.example", "1.example", 80),
        ("http://0x7f.example", "0x7f.example", 80),
        ("http://deadbeef", "deadbeef", 80),
    ],
)
def test_the_host_is_lower_case_and_bare(text: str, host: str, port: int) -> None:
    url = parse_url(text)
    assert (url.host, url.port) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "example.com", "ftp://h/", "//h/", "https:/h", "https%3A%2F%2Fh", " http://h/", "javascript:x"]
)
def test_a_missing_or_foreign_scheme_is_refused_in_the_words_of_qstash(text: str) -> None:
    with pytest.raises(InvalidDestination) as refused:
        parse_url(text)
    assert refused.value.reason == "endpoint has invalid scheme, add http:// or https://"


HOSTILE_HOSTS = [
    # What inet_aton and browsers take for an IPv4 address.
    *("127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0x"),
    *("127.0.0.01", "127.0.0.256", "127.0.0.1.1", "1.2.3", "example.1", "example.0x7F", "00.0.0.0", "999999999999"),
    *("127.0.0.1..", "127.0.0.0x1", "1e3.2", "127。0。0。1", "①②⑦.0.0.1"),
    # Labels.
    *("", ".", "..", "a..b", ".a", "a..", f"{'a' * 64}.example", ".".join(["a" * 63] * 4), "a b", "a*b", "*.example"),
    *("a%62", "%31%32%37.0.0.1", "exam\tple.com", "example.com\n", "\x00", "ex\x7fample", "bücher.example", "a\u200db"),
    *(
        "a\\b",
        "h\\@evil.example",
        "a,b",
        "a;b",
        "a&b",
        "a=b",
        "a!b",
        "a'b",
        'a"b',
        "a<b",
        "a^b",
        "a|b",
        "a~b",
        "a$b",
        "a(b)",
    ),
    # Brackets.
    *(
        "[",
        "]",
        "[]",
        "[::1",
        "::1",
        "::1]",
        "[::1]]",
        "[[::1]]",
        "[::1%25eth0]",
        "[::1%eth0]",
        "[fe80::1%lo]",
        "[v1.x]",
    ),
    *(
        "[127.0.0.1]",
        "[::1].",
        "[::1]x",
        "x[::1]",
        "[:::1]",
        "[1::2::3]",
        "[12345::]",
        "[::ffff:127.1]",
        "[example.com]",
    ),
    *("[::1:80", "[ ::1]", "[::1 ]", "[::ffff:0x7f.1]", "[::1/128]", "[1:2:3:4:5:6:7:8:9]", "[1:2:3:4:5:6:7]"),
    # Who am I.
    *("user@h", "user:pass@h", "@h", "h@", "127.0.0.1@example.com", "example.com@127.0.0.1", "a:b@c:d@e", "%40@h"),
    # Ports.
    *(
        "h:",
        "h:0",
        "h:65536",
        "h:99999",
        "h:080",
        "h:-1",
        "h:+80",
        "h: 80",
        "h:80 ",
        "h:8O",
        "h:80:80",
        "h:1e2",
        "h:٨٠",
    ),
    *("h:http", "[::1]:", "[::1]:0", "[::1]:x", ":80", ":", "h:123456", "h::80"),
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("ending", ["", "/", "/path?q", "?q", "#f"])
@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_a_host_that_two_readers_could_read_differently_is_refused(scheme: str, host: str, ending: str) -> None:
    with pytest.raises(InvalidDestination):
        parse_url(f"{scheme}://{host}{ending}")


@pytest.mark.parametrize(
    "text",
    [
        "http://h/a b",
        "http://h/\u00fc",
        "http://h/a\r\nX: y",
        "http://h/\x00",
        "http://h/?a\tb",
        "http://h/\\",
        "http://h/\x7f",
    ],
)
def test_what_cannot_stand_in_a_request_line_is_refused(text: str) -> None:
    with pytest.raises(InvalidDestination, match="percent-encoded"):
        parse_url(text)


@pytest.mark.parametrize("text", ["http://user@h/", "https://user:password@h:8443/a"])
def test_a_url_with_a_password_is_told_what_is_wrong_with_it(text: str) -> None:
    with pytest.raises(InvalidDestination, match="user name or password"):
        parse_url(text)


def test_a_url_may_be_just_as_long_as_the_limit() -> None:
    longest = "http://h/".ljust(MAX_URL_LENGTH, "a")
    assert parse_url(longest).text == longest
    with pytest.raises(InvalidDestination, match="longer than"):
        parse_url(longest + "a")


@given(
    st.text(st.characters(max_codepoint=0x250), max_size=60).map("http://".__add__)
    | st.from_regex(r"\Ahttps?://[0-9a-zx.:\[\]@/?#%\\]{0,40}\Z")
)
@example("http://[::1]:80/")
def test_every_text_is_a_url_or_refused_and_a_url_is_what_the_standard_library_reads(text: str) -> None:
    try:
        url = parse_url(text)
    except InvalidDestination:
        return
    theirs = urlsplit(text)
    assert url.text == text
    assert theirs.username is theirs.password is None
    assert (theirs.port or {"http": 80, "https": 443}[theirs.scheme]) == url.port
    assert (theirs.hostname or "").removesuffix(".") == url.host or ":" in url.host
    assert url.target.startswith("/")
    assert "#" not in url.target
    assert text.partition("#")[0] in (
        f"{text[: len(url.scheme)]}://{url.authority}{url.target}",
        f"{text[: len(url.scheme)]}://{url.authority}{url.target[1:]}",
    )
    assert (url.text + url.host + url.target + url.authority).isascii()


@given(
    st.text("0123456789abcdefxX.", min_size=1, max_size=20)
    | st.from_regex(r"\A(0[xX]?)?[0-9]{1,3}(\.(0[xX]?)?[0-9]{1,3}){0,3}\Z")
)
@example("0X7F.1")
def test_a_host_that_the_c_library_takes_for_an_address_is_that_address_or_refused(host: str) -> None:
    try:
        url = parse_url(f"http://{host}/")
    except InvalidDestination:
        return
    try:
        address = socket.inet_ntoa(socket.inet_aton(url.host))
    except OSError:
        return
    assert address == url.host == host.removesuffix(".")


def test_the_key_of_a_destination_is_the_same_in_every_process_and_fits_a_bigint() -> None:
    assert destination_key(1, parse_url("https://example.com/a")) == -6950024007600453395
    assert all(-(2**63) <= destination_key(n, parse_url("http://h/")) < 2**63 for n in range(100))


def test_the_key_of_a_destination_looks_at_tenant_scheme_host_and_port_only() -> None:
    key = destination_key(1, parse_url("https://example.com/a"))
    assert destination_key(1, parse_url("https://EXAMPLE.com.:443/b?c")) == key
    others = {
        destination_key(2, parse_url("https://example.com/a")),
        destination_key(1, parse_url("http://example.com:443/a")),
        destination_key(1, parse_url("https://example.org/a")),
        destination_key(1, parse_url("https://example.com:444/a")),
    }
    assert len(others | {key}) == 5
