"""The messages that the steps are measured with: 1 KB of JSON, published as QStash's own SDK does it."""

from __future__ import annotations

import time
from datetime import timedelta

from postroad import dev
from postroad.clock import Clock
from postroad.domain.limits import Limits
from postroad.domain.network import parse_policy
from postroad.domain.publication import Publication, parse_options
from postroad.publish import Publisher
from postroad.resolver import Resolver

TOKEN = dev.DEV_USERS[0].token
KEY = dev.DEV_USERS[0].keys.current
URL = "http://127.0.0.1:9100/hooks/orders?shop=17"

# What the SDK for Python sends with a JSON body and one forwarded header, as uvicorn gives it.
HEADERS = [
    (b"host", b"127.0.0.1:8080"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"authorization", b"Bearer " + TOKEN.encode()),
    (b"content-type", b"application/json"),
    (b"upstash-method", b"POST"),
    (b"upstash-retries", b"3"),
    (b"upstash-forward-x-trace-id", b"4bf92f3577b34da6a3ce929d0e0e4736"),
    (b"content-length", b"1024"),
]
TELLING = [(n.decode(), v.decode()) for n, v in HEADERS if n[:8] == b"upstash-" or n == b"content-type"]


def publisher() -> Publisher:
    """As a node makes it."""
    resolver = Resolver(parse_policy("any"))
    return Publisher(clock=Clock(), resolver=resolver, limits=Limits(), deduplication_window=timedelta(minutes=10))


def publications(count: int) -> list[Publication]:
    """`count` publishes with bodies of 1 KB, which share their options as those of one publisher do."""
    options, _ = parse_options(TELLING, limits=Limits(), now_s=time.time())
    bodies = (b'{"n":%08d,"pad":"%s"}' % (n, b"x" * 1000) for n in range(count))
    return [Publication(URL, body, options, caller_ip="127.0.0.1") for body in bodies]
