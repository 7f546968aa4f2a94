"""`python -m tests.security.headers_on_the_wire --sets 5000`: header sets of every kind, by every way in, on the wire.

Each set is published by one of the ways that take headers. What a sink receives is read strictly, and compared with
what was asked for: every header of it, no other but ours, and the body byte for byte. A set that must be refused is
answered with a 4xx, and nothing of it arrives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from postroad.dev import DEV_USERS
from tests.security.own_node import own_node
from tests.security.strict_http import RawClient, Sink, Taken, sink

Pairs = list[tuple[str, str]]

_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VISIBLE = "".join(map(chr, (*range(0x21, 0x7F), *range(0xA1, 0x100))))
_USUAL = [
    "Accept", "Authorization", "Content-Type", "Content-Encoding", "Cookie", "If-None-Match", "Link", "Range",
    "Referer", "Set-Cookie", "User-Agent", "Via", "X-Forwarded-For", "X-Trace",
]  # fmt: skip
_OF_THE_CONNECTION = [
    "Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "HTTP2-Settings", "Keep-Alive",
    "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
]  # fmt: skip
_OURS = [
    "Upstash-Message-Id", "Upstash-Signature", "Upstash-X", "Upstash_Caller_Ip", "Content_Length", "Transfer_Encoding",
]  # fmt: skip
_NO_NAMES = ["", "X Y", "X:Y", "X\r\nEvil", "X: a\r\nEvil", "X\n", "X\0", "X-\xe9", "\u212aeep", "X\u010a", "a" * 257]
_NO_VALUES = [
    "a\r\nEvil: 1",
    "a\nEvil: 1",
    "a\rEvil: 1",
    "a\r\n\r\nPOST /evil HTTP/1.1\r\nHost: x\r\n\r\n",
    "a\r\n folded",
    "a\0b",
    "a\x0bb",
    "\x7f",
    "\u20ac",
    "\u010d\u010aEvil: 1",  # whose low bytes are CR and LF
    "\u560d\u560aEvil: 1",
    "x" * 8193,
]
_SINGLE = {"authorization", "content-type", "cookie", "range", "referer", "user-agent"}
_NOT_FOLLOWING = {"authorization", "cookie", "user-agent", "via", "x-forwarded-for"}
_ADDED = {
    "host", "accept-encoding", "content-length", "user-agent", "upstash-message-id", "upstash-retried",
    "upstash-signature", "upstash-caller-ip", "upstash-schedule-id", "upstash-topic-name", "upstash-hops",
}  # fmt: skip


@dataclass(frozen=True)
class HeaderSet:
    """What one publisher asks for, and by which way."""

    number: int
    way: str
    headers: Pairs
    body: bytes

    @property
    def text(self) -> str:
        """The body for a document that holds only text."""
        return self.body.decode("latin-1")

    @property
    def path(self) -> str:
        """Where it goes, so that what arrives there is known by it."""
        return f"/{'fail' if self.way == 'failure callback' else 'set'}/{self.number}?a=%2F"


@dataclass
class Verdict:
    """What became of all sets."""

    sets: int = 0
    refused: int = 0
    arrived: int = 0
    wrong: list[str] = field(default_factory=list)


def header_sets(count: int, seed: int) -> list[HeaderSet]:
    """So many sets, the ways in turn; the same for the same seed."""
    chance = random.Random(seed)
    ways = list(WAYS)
    return [_header_set(chance, number, ways[number % len(ways)]) for number in range(count)]


def _header_set(chance: random.Random, number: int, way: str) -> HeaderSet:
    size = chance.choice([0, 1, 1, 2, 3, 5, 8, 8, 20, 64, 65] if chance.random() < 0.5 else [1, 2, 3])
    evil = chance.random() < 0.4
    headers = [_header(chance, evil=evil and chance.random() < 2 / (size + 1)) for _ in range(size)]
    if chance.random() < 0.02:
        headers += [(f"X-Large-{n}", "y" * 8000) for n in range(5)]
    if way in _BY_HTTP:  # what HTTP itself cannot carry would be another request
        headers = [pair for pair in headers if _travels(pair, by_query=way == "query")]
    elif way in _BY_JSON:  # a name is once in an object
        headers = list({name.lower(): (name, value) for name, value in headers}.values())
    if way == "header forward":
        headers = [pair for pair in headers if pair[0].lower() not in _OF_THE_REQUEST]
        headers += [("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("X-Forwarded-For", "10.0.0.1")]
    return HeaderSet(number, way, headers, chance.randbytes(chance.choice([0, 1, 100, 5000, 70_000])))


def _header(chance: random.Random, *, evil: bool) -> tuple[str, str]:
    name = chance.choice([_a_name(chance), chance.choice(_USUAL), f"X-{chance.randrange(50)}"])
    name = chance.choice([name, name, name.upper(), name.lower()])
    value = _a_value(chance)
    if not evil:
        return name, value
    if chance.random() < 0.5:
        return name, chance.choice(_NO_VALUES)
    odd = chance.choice([*_OF_THE_CONNECTION, *_OURS, *_NO_NAMES])
    return chance.choice([odd, odd.upper(), odd.lower()]), chance.choice([value, "chunked", "0", "close, X-1"])


def _a_name(chance: random.Random) -> str:
    return "".join(chance.choices(_TOKEN, k=chance.randint(1, 24)))


def _a_value(chance: random.Random) -> str:
    text = "".join(chance.choices(_VISIBLE + " \t", k=chance.choice([0, 1, 5, 30, 300])))
    return chance.choice([text, f" {text}\t", chance.choice(["chunked", "5", "100-continue", "a, b", "\xff\x80"])])


def _travels(pair: tuple[str, str], *, by_query: bool) -> bool:
    name, value = pair
    if not name or any(c not in _TOKEN for c in name):
        return False
    return not any(c in "&#%" for c in name) if by_query else not _is_odd(value)


def _is_odd(value: str) -> bool:
    return any(c > "\xff" or c == "\x7f" or (c < " " and c != "\t") for c in value)


def must_be_refused(one: HeaderSet) -> bool:
    """Whether the set asks for what no request may hold."""
    headers = _following(one.headers) if one.way == "header forward" else one.headers
    if any(_is_no_name(name) for name, _ in headers):
        return True
    if any(_is_odd(value) or len(value.strip(" \t")) > 8192 for _, value in headers):
        return True
    kept = _asked_for(one)
    return len(kept) > 64 or sum(len(name) + len(value) for name, value in kept) > 32 * 1024


def _is_no_name(name: str) -> bool:
    # In lower case, because case means nothing; that of the Kelvin sign is a letter.
    return not name or len(name) > 256 or any(c not in _TOKEN for c in name.lower())


def _is_not_forwarded(name: str) -> bool:
    plain = name.lower().replace("_", "-")
    return plain.startswith(("upstash-", "proxy-")) or plain in {one.lower() for one in _OF_THE_CONNECTION}


def _following(headers: Pairs) -> Pairs:
    named = {"keep-alive", "x-hop"}
    return [
        (name, value)
        for name, value in headers
        if not _is_not_forwarded(name) and name.lower() not in _NOT_FOLLOWING | named
    ]


def _asked_for(one: HeaderSet) -> Pairs:
    """The headers that are to arrive, with lower-case names. What frames the request or is ours is passed over."""
    if one.way == "header forward":
        headers = _following(one.headers)
    else:
        headers = [pair for pair in one.headers if not _is_not_forwarded(pair[0])]
    plain = [(name.lower(), value.strip(" \t")) for name, value in headers]
    last = {name: place for place, (name, _) in enumerate(plain)}
    return [pair for place, pair in enumerate(plain) if pair[0] not in _SINGLE or last[pair[0]] == place]


def what_is_wrong(one: HeaderSet, taken: Taken) -> str | None:
    """How a request differs from what was asked for; None if it does not."""
    asked = Counter(_asked_for(one))
    came = Counter((name.decode().lower(), value.decode("latin-1")) for name, value in taken.head.headers)
    if missing := asked - came:
        return f"not there: {_short(missing)}"
    foreign = [name for name, _ in (came - asked) if name not in _ADDED]
    if "callback" in one.way and taken.head.value(b"content-type") == b"application/json" and "content-type" in foreign:
        foreign.remove("content-type")
    if foreign:
        return f"nobody asked for {foreign}"
    body = b64decode(json.loads(taken.body)["sourceBody"]) if "callback" in one.way else taken.body
    sent = one.text.encode() if one.way == "batch" else one.body
    return None if body == sent else "the body differs"


def _short(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}: {value[:40]!r}" for name, value in pairs][:5]


# The ways


def _prefixed(prefix: str, headers: Pairs) -> Pairs:
    return [(prefix + name, value) for name, value in headers]


async def _publish(api: RawClient, one: HeaderSet, place: Sink) -> int:
    headers = _prefixed("Upstash-Forward-", one.headers)
    return (await api.ask("POST", f"/v2/publish/{place.url(one.path)}", headers, one.body))[0]


async def _query(api: RawClient, one: HeaderSet, place: Sink) -> int:
    own = "".join(f"&upstash-forward-{name}={quote(value)}" for name, value in one.headers)
    return (await api.ask("POST", f"/v2/publish/{place.url(one.path)}{own}", (), one.body))[0]


async def _enqueue(api: RawClient, one: HeaderSet, place: Sink) -> int:
    headers = _prefixed("upstash-forward-", one.headers)
    return (await api.ask("POST", f"/v2/enqueue/q-{one.number % 7}/{place.url(one.path)}", headers, one.body))[0]


async def _header_forward(api: RawClient, one: HeaderSet, place: Sink) -> int:
    headers = [("Upstash-Header-Forward", "true"), *one.headers]
    return (await api.ask("POST", f"/v2/publish/{place.url(one.path)}", headers, one.body))[0]


async def _batch(api: RawClient, one: HeaderSet, place: Sink) -> int:
    headers = dict(_prefixed("Upstash-Forward-", one.headers))
    item = {"destination": place.url(one.path), "headers": headers, "body": one.text}
    return (await api.ask("POST", "/v2/batch", (), json.dumps([item]).encode()))[0]


async def _url_group(api: RawClient, one: HeaderSet, place: Sink) -> int:
    group = f"/v2/topics/g{one.number}"
    await api.ask("POST", f"{group}/endpoints", (), json.dumps({"endpoints": [{"url": place.url(one.path)}]}).encode())
    headers = {name: [value] for name, value in _prefixed("Upstash-Forward-", one.headers)}
    status, _ = await api.ask("PATCH", group, (), json.dumps({"headers": headers}).encode())
    if status >= 300:
        return status
    return (await api.ask("POST", f"/v2/publish/g{one.number}", (), one.body))[0]


async def _schedule(api: RawClient, one: HeaderSet, place: Sink) -> int:
    headers = [("Upstash-Cron", "0 0 1 1 *"), *_prefixed("Upstash-Forward-", one.headers)]
    return (await api.ask("POST", f"/v2/schedules/{place.url(one.path)}", headers, one.body))[0]


async def _callback(api: RawClient, one: HeaderSet, place: Sink) -> int:
    headers = [("Upstash-Callback", place.url(one.path)), *_prefixed("Upstash-Callback-Forward-", one.headers)]
    return (await api.ask("POST", f"/v2/publish/{place.url('/set/first')}", headers, one.body))[0]


async def _failure_callback(api: RawClient, one: HeaderSet, place: Sink) -> int:
    prefix = "Upstash-Failure-Callback"
    headers = [("Upstash-Retries", "0"), (prefix, place.url(one.path)), (f"{prefix}-Retries", "0")]
    headers += _prefixed(f"{prefix}-Forward-", one.headers)
    return (await api.ask("POST", f"/v2/publish/{place.url('/fail/first')}", headers, one.body))[0]


WAYS: dict[str, Callable[[RawClient, HeaderSet, Sink], Awaitable[int]]] = {
    "publish": _publish,
    "query": _query,
    "enqueue": _enqueue,
    "header forward": _header_forward,
    "batch": _batch,
    "url group": _url_group,
    "schedule": _schedule,
    "callback": _callback,
    "failure callback": _failure_callback,
}
_BY_JSON = ("batch", "url group")
_BY_HTTP = tuple(way for way in WAYS if way not in _BY_JSON)
_OF_THE_REQUEST = {
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "upgrade",
    "http2-settings",
    "host",
    "authorization",
}
"""Names that in a request of our own would be about that request, which has them already."""


async def judge(port: int, place: Sink, sets: Sequence[HeaderSet], ticks: Callable[[], Awaitable[None]]) -> Verdict:
    """Publish all sets and look at what arrives; `ticks` lets the schedules fire."""
    api = RawClient(port, DEV_USERS[0].token)
    statuses = await asyncio.gather(*(WAYS[one.way](api, one, place) for one in sets))
    await ticks()
    verdict = Verdict(sets=len(sets), refused=sum(status >= 400 for status in statuses))
    expected = {}
    for one, status in zip(sets, statuses, strict=True):
        if must_be_refused(one) != (400 <= status < 500) or status >= 500:
            verdict.wrong.append(f"{one.way} {one.number}: answered {status}: {_short(one.headers)}")
        elif status < 300:
            expected[one.number] = one
    await _all_arrive(place, expected)
    seen: set[int] = set()
    for taken in place.taken:
        number = taken.head.target.split(b"/")[2].partition(b"?")[0].decode()
        if number == "first":
            continue
        asked = expected.get(int(number))
        seen.add(int(number))
        reason = "it was refused" if asked is None else what_is_wrong(asked, taken)
        if reason is not None:
            verdict.wrong.append(f"{sets[int(number)].way} {number}: {reason}")
    verdict.arrived = len(seen)
    verdict.wrong += [f"{expected[number].way} {number}: never arrived" for number in expected.keys() - seen]
    return verdict


async def _all_arrive(place: Sink, expected: dict[int, HeaderSet]) -> None:
    missing = {one.path.encode() for one in expected.values()}
    looked_at = 0
    for _ in range(1500):
        missing -= {taken.head.target for taken in place.taken[looked_at:]}
        looked_at = len(place.taken)
        if not missing:
            return
        await asyncio.sleep(0.02)


async def _main(count: int, seed: int) -> int:
    async with own_node(max_calls_per_second="0") as node, sink() as place:

        async def ticks() -> None:
            answer = await node.http.post("/dev/clock/advance", json={"by": "366d"})
            answer.raise_for_status()

        port = node.http.base_url.port
        assert port is not None
        sets = header_sets(count, seed)
        verdict = await judge(port, place, sets, ticks)
    ways = ", ".join(f"{way} {n}" for way, n in Counter(one.way for one in sets).items())
    said = [
        f"{verdict.sets} header sets: {ways}",
        f"{verdict.refused} refused, {verdict.arrived} arrived in {len(place.taken)} requests",
        f"{len(place.ambiguous)} ambiguous, {len(verdict.wrong)} wrong",
        *place.ambiguous[:20],
        *verdict.wrong[:20],
    ]
    sys.stdout.write("\n".join(said) + "\n")
    return 1 if place.ambiguous or verdict.wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Gives the exit code, 1 if anything was ambiguous or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.headers_on_the_wire", description=__doc__)
    parser.add_argument("--sets", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    return asyncio.run(_main(chosen.sets, chosen.seed))


if __name__ == "__main__":
    sys.exit(main())
