"""Texts by the grammars that the parsers read, mostly valid and never quite sure to be, and mutations of texts."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from random import Random

from hypothesis import strategies as st

ODD = (
    "\0", "\n", "\r\n", "\t", " ", "\x7f", "\x85", "\xa0", "\u2003", "\u200b", "\u202e", "\ud800", "\ufeff",
    "\U0001f4a9", "٣", "①", "²", "１", "𝟙", "ſ", "K", "İ", "ß", "ﬁ", "é", "_",
    "+", "-", "--", ".", "..", ",", ",,", ";", ":", "::", "%", "%00",
    "%2e", "\\", "'", '"', "`", "$", "(", ")", "[", "]", "{", "}", "<", ">", "|", "&", "=", "?", "#", "@", "*", "/",
    "//", "~", "^",
    "0", "00", "1", "-1", "1_0", "1e9", "1e400", "0x1f", "0o7", "0b1", "NaN", "Infinity", "-0", "null", "true",
    "9" * 10, "9" * 19, "9" * 30, "9" * 400, "9" * 5000, "2147483647", "2147483648", "9223372036854775807",
    "9223372036854775808", "253402300799", "253402300800", "' or 1=1; --", "{{7*7}}", "${x}", "../..",
)  # fmt: skip
"""Digits that are none, edges of integers, and what means something to somebody."""


def mutated(random: Random, seeds: Sequence[str], *, most: int = 9_000) -> str:
    """A text made of one or two others by up to eight small changes."""
    text = random.choice(seeds)
    for _ in range(random.randint(1, 8)):
        start = random.randint(0, len(text))
        end = min(len(text), start + random.choice((0, 1, 1, 2, 5, 20)))
        match random.randrange(7):
            case 0:
                middle = ""
            case 1:
                middle = text[start:end] * random.choice((2, 2, 3, 10, 100, 3000))
            case 2 | 3:
                middle = random.choice(ODD)
            case 4:
                other = random.choice(seeds)
                middle = other[random.randint(0, len(other)) :]
            case 5:
                middle = chr(random.choice((random.randrange(128), random.randrange(0x110000))))
            case _:
                middle = text[start:end].swapcase()
        text = (text[:start] + middle + text[end:])[:most]
    return text


def _mixed(*strategies: st.SearchStrategy[str], joined: str = "") -> st.SearchStrategy[str]:
    return st.lists(st.one_of(*strategies), max_size=8).map(joined.join)


odd = st.sampled_from(ODD)
any_text = st.text(st.characters(), max_size=60) | _mixed(odd, st.text(max_size=5))
digits = (
    st.integers(0, 10**20).map(str) | st.text("0123456789", max_size=25) | st.sampled_from(["0", "1", "59", "2026"])
)

durations = _mixed(st.tuples(digits, st.sampled_from("smhdSw ")).map("".join), odd) | digits
go_durations = _mixed(
    st.tuples(digits, st.sampled_from(["", ".", ".5", ".123456789012345678901"]),
              st.sampled_from(["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", ""])).map("".join),
    odd,
)  # fmt: skip

_cron_number = st.integers(0, 61).map(str) | st.sampled_from(
    ["JAN", "feb", "MON", "sun", "7", "31", "030", "99", "", "L", "W"]
)
_cron_item = st.one_of(
    st.sampled_from(["*", "?", "*/2", "*/1", "?/1", "*/0", "1-5/2", "29", "2", "30", "31"]),
    _cron_number,
    st.tuples(_cron_number, _cron_number).map("-".join),
    st.tuples(_cron_number, _cron_number, digits).map(lambda it: f"{it[0]}-{it[1]}/{it[2]}"),
)
_cron_field = st.lists(_cron_item, min_size=1, max_size=4).map(",".join)
_five = st.lists(_cron_field, min_size=4, max_size=6).map(" ".join) | st.lists(_cron_field, min_size=5, max_size=5).map(
    " ".join
)
_zone = st.sampled_from(
    ["", "", "CRON_TZ=Europe/Berlin ", "TZ=America/New_York ", "CRON_TZ=Pacific/Apia\t", "CRON_TZ=UTC", "TZ= ",
     "CRON_TZ=../etc/passwd ", "CRON_TZ=Australia/Lord_Howe ", "CRON_TZ=Africa/Casablanca "]
)  # fmt: skip
crons = st.tuples(
    _zone,
    _five | st.sampled_from(["@daily", "@every 1s", "@yearly", "@", "0 0 30 2 *", "0 0 29 2 1-7/2", "30 2 29 2 *"]),
    st.just("") | odd,
).map("".join)

_leaf = (
    st.sampled_from(["retried", "0", "1", "2.5", "1e3", ".5", "3.", "1e308", "1e-320", "Retried", "1..2", "x"]) | digits
)
_calls = [f"{name}(%s)" for name in ("sqrt", "abs", "exp", "floor", "ceil", "round", "eval", "")]
_calls += ["pow(%s, %s)", "min(%s,%s)", "max(%s , %s)", "%s + %s", "%s-%s", "%s*%s", "%s / %s", "-%s", "+ %s", "%s %s"]
expressions = st.recursive(
    _leaf,
    lambda inner: st.tuples(st.sampled_from(_calls), inner, inner).map(
        lambda it: it[0] % it[1 : 1 + it[0].count("%s")]
    ),
    max_leaves=40,
) | st.tuples(st.sampled_from(["(", "-", "sqrt(", "pow(1,"]), st.integers(1, 90), _leaf).map(
    lambda it: it[0] * it[1] + it[2] + ")" * it[1]
)

flows = (
    st.lists(
        st.tuples(st.sampled_from(["parallelism", "rate", "period", " Rate ", "rates", ""]),
                  st.sampled_from(["=", "=", "=", " = ", "==", ""]), digits | durations | odd).map("".join),
        max_size=4,
    ).map(", ".join)
    | any_text
)  # fmt: skip
_redacted = st.sampled_from(
    ["body", "header", "headers", "header[A]", "headers[x-y]", "header[]", "header[", "Body", "[a]"]
)
redactions = st.lists(_redacted | odd, max_size=6).map(",".join) | st.lists(_redacted, max_size=6).map(" , ".join)

_host = st.sampled_from(
    ["example.com", "127.0.0.1", "127.1", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "a..b", "a.",
     "-", "xn--e1afmkfd.xn--p1ai", "2130706433", "0177.0.0.1", "localhost", "x" * 64, "é.com", "[", "[]", "a_b.c"]
)  # fmt: skip
urls = st.tuples(
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "http:/", "//", "", "http:\\\\"]),
    st.sampled_from(["", "", "", "user@", "u:p@", "%40@"]),
    _host | any_text,
    st.just("") | digits.map(":{}".format) | st.sampled_from([":", ":0", ":65536", ":٣"]),
    st.sampled_from(["", "/", "/a//b/../c", "?q=1", "#f", "/%2F%00", "\\a", "/\u00e9", "/a b"]) | any_text,
).map("".join)

_values = st.one_of(
    digits, durations, crons, expressions, flows, redactions, urls, odd, any_text,
    st.sampled_from(["true", "False", "1", "POST", "put", "http://x/", "https://a.test/b", "5s", "3", "k", "a,b"]),
)  # fmt: skip


def fields(names: Sequence[str]) -> st.SearchStrategy[str]:
    """Lines of header fields: options, callbacks of several generations, forwarded and foreign ones."""
    prefix = st.sampled_from(["", "", "", "callback-", "failure-callback-", "callback-callback-", "callback-" * 40])
    name = st.one_of(
        st.tuples(prefix, st.sampled_from(names)).map(lambda it: it[1].replace("upstash-", f"upstash-{it[0]}", 1)),
        st.sampled_from(["upstash-forward-x", "upstash-forward-host", "upstash-forward-", "content-type",
                         "x-own", "cookie",                     "upstash-callback", "upstash-callback-", "upstash-",
                         "upstash-forward-content-type"]),
        any_text,
    )  # fmt: skip
    value = st.sampled_from(["http://x/", "true", "3", "5s", "k", "rate=1"]) | _values
    return st.lists(st.tuples(name, value).map(": ".join), max_size=8).map("\n".join)


_base58 = st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=20, max_size=24)
names = st.one_of(
    any_text,
    st.text("abzAZ019._-", max_size=300),
    st.tuples(st.sampled_from(["msg_", "msg", "MSG_"]), _base58).map("".join),
)
cursors = st.one_of(
    digits,
    st.tuples(digits, _base58, digits).map("-".join),
    st.tuples(digits, st.text("abcXYZ123_", min_size=28, max_size=28)).map(lambda it: f"{it[0]}-blk_{it[1]}"),
    st.tuples(digits, digits).map("-".join),
    any_text,
)
_parameter = st.sampled_from(
    ["messageIds", "url", "host", "path", "label", "topicName", "urlGroup", "queueName", "scheduleId", "flowControlKey",
     "callerIp", "callerIP", "api", "fromDate", "toDate", "count", "async", "surprise", "qstash_token"]
)  # fmt: skip
queries = st.lists(
    st.tuples(_parameter, digits | urls | any_text | st.sampled_from(["true", "", "1,2,,3"])).map("=".join), max_size=6
).map("&".join)
retry_afters = st.one_of(
    digits,
    go_durations,
    st.tuples(
        st.sampled_from(["Mon, ", "Wed, ", "", "Xyz, "]),
        st.integers(0, 40).map(str),
        st.sampled_from([" Oct ", " Feb ", " oct ", " "]),
        st.integers(0, 10**5).map("{:04}".format),
        st.sampled_from([" 07:28:00 GMT", " 24:60:61 UTC", " 7:28:00", ""]),
    ).map("".join),
    any_text,
)
_address = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map(lambda address: f"{address}:80"),
    st.ip_addresses(v=6).map(lambda address: f"[{address}%eth0]:8"),
    st.sampled_from(["", "unknown", "127.1", "[", "::ffff:1.2.3.4", "1.2.3.4:٣", "fe80::1%" + "z" * 99]),
    odd,
)
addresses = st.lists(_address, max_size=6).map(", ".join)
request_targets = st.tuples(
    st.sampled_from(["/v2/", "//v2//", "/V2/", "/", "v2/", "/v2"]),
    st.sampled_from(["publish", "Enqueue", "schedules", "batch", "Queues", "flowcontrol", "topics", "", "keys"]),
    st.sampled_from(["/", "//", ""]),
    urls | any_text | st.sampled_from(["q/PAUSE", "a/b/resetrate", "x/endpoints/"]),
    st.just("") | queries.map("?{}".format) | st.tuples(odd, odd).map(lambda it: f"?Upstash-{it[0]}={it[1]}"),
).map("".join)
_line = st.sampled_from(
    ["POST / HTTP/1.1", "GET /v2/x?y=z HTTP/1.1", "POST /v2/publish/http://x/ HTTP/1.0", "DELETE * HTTP/1.1",
     "x / HTTP/1.1", "CONNECT a:1 HTTP/1.1", "OPTIONS * HTTP/1.1", "GET http://h/p HTTP/1.1",
     "PRI * HTTP/2.0", "GET  / HTTP/1.1", ""]
)  # fmt: skip
_header = st.sampled_from(
    ["Host: x", "Content-Length: 3", "Content-Length: 0", "Content-Length: +3", "Content-Length: 3, 3",
     "Expect: 100-continue", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
     "Transfer-Encoding: x", "Connection: close", "Connection: Upgrade", "Upgrade: h2c",
     "Upgrade: websocket", "Trailing: x", " folded", "X:", ":x", "X : y", "X: \x00", "X: \xe9"]
)  # fmt: skip
_content = st.sampled_from(
    ["", "abc", "3\r\nabc\r\n0\r\n\r\n", "3;x=y\r\nabc\r\n0\r\nTrailing: 1\r\n\r\n", "0\r\n\r\n",
     "fffffffffffffffff\r\n", "-1\r\n", "3\nabc\n0\n\n", "\r\n", "\n"]
)  # fmt: skip
connections = st.lists(
    st.tuples(_line, st.lists(_header, max_size=5), _content | any_text).map(
        lambda it: "\r\n".join([it[0], *it[1], "", it[2]])
    ),
    max_size=4,
).map("".join)
accesses = st.one_of(
    st.binary(min_size=33, max_size=33).map(lambda value: urlsafe_b64encode(b"\x01" + value[1:]).decode()),
    st.text("AQgBc-_+/=\n", min_size=43, max_size=45),
    any_text,
)
_said = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | odd,
    st.sampled_from(["30s", "8d", "-1", "", 40, 100.1, 1e308, [], {"a": [1]}, "x" * 1_001]),
)
reports = (
    st.dictionaries(
        st.sampled_from(["progress", "note", "log", "result", "ack", "nack", "retry", "delay", "heartbeat", "else"]),
        _said,
        max_size=5,
    ).map(json.dumps)
    | any_text
)
jsons = st.one_of(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | odd,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
        max_leaves=30,
    ).map(json.dumps),
    st.lists(
        st.sampled_from(["[", "]", "{", "}", ",", ":", '"', "\\", "1", "null", " ", '"a"', '"\\u00e9"']), max_size=40
    ).map("".join),
    st.tuples(st.sampled_from(["[", '{"a":', "[[],"]), st.integers(1, 1500), st.sampled_from(["]", "}", ""])).map(
        lambda it: it[0] * it[1] + "1" + it[2] * it[1]
    ),
)
