"""Every parser of text that strangers send, with texts to try on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from postroad.domain.publication import OPTION_NAMES
from tests.fuzz import grammar, readers
from tests.fuzz.wire import connections

Read = Callable[[str], object]


@dataclass(frozen=True)
class Target:
    """A parser: `seeds` are texts to begin with, `texts` makes others by its grammar."""

    name: str
    read: Read
    seeds: tuple[str, ...]
    texts: st.SearchStrategy[str]


FIELD_NAMES = tuple(f"upstash-{name.lower()}" for name in OPTION_NAMES)

TARGETS = {
    target.name: target
    for target in (
        Target("duration", readers.duration, ("1d10h30m", "50s", "007s", "90", "36500d"), grammar.durations),
        Target("go-duration", readers.go_duration, ("1h15m30.918273645s", "5µs", ".5s", "0"), grammar.go_durations),
        Target(
            "cron",
            readers.cron,
            ("CRON_TZ=Europe/Berlin 0 9 * * MON-FRI", "*/15 2,3 29 2 *", "@daily", "0 0 31 1-11/2 ?", "5 4 * * sun"),
            grammar.crons,
        ),
        Target(
            "retry-expression",
            readers.retry_expression,
            ("pow(2, retried) * 1000", "max(1000, -sqrt(abs(retried)) / .5e-3)", "min(1e3, exp(retried)) - +1"),
            grammar.expressions,
        ),
        Target(
            "flow-control",
            readers.flow_control,
            ("parallelism=5, rate=10, period=1m", "rate=1", "key/a b"),
            grammar.flows,
        ),
        Target(
            "redaction",
            readers.redaction,
            ("body, header[Authorization]", "headers", "headers[a],body"),
            grammar.redactions,
        ),
        Target(
            "destination",
            readers.destination,
            ("https://example.com:8443/a/b?c=d&e=%20#f", "http://[2001:db8::1]:80", "http://127.0.0.1/", "api/llm"),
            grammar.urls,
        ),
        Target(
            "publish-headers",
            readers.publish_headers,
            (
                "upstash-callback: http://x/\nupstash-callback-retries: 3\nupstash-delay: 5s",
                "upstash-header-forward: true\nupstash-forward-a: b\nx-own: 1\ncontent-type: text/plain",
                "upstash-flow-control-key: k\nupstash-flow-control-value: rate=1\nupstash-label: a,b",
            ),
            grammar.fields(FIELD_NAMES),
        ),
        Target(
            "default-headers",
            readers.default_headers,
            ("Upstash-Retries: 3\nContent-Type: a/b", "Upstash-Failure-Callback: http://x/"),
            grammar.fields(FIELD_NAMES),
        ),
        Target("headers", readers.headers, ("X-Forwarded-For", "a b\tc", "caf\u00e9"), grammar.any_text),
        Target("names", readers.names, ("queue-1", "msg_1CfGis961y3hFzzegmL66Z", "_q."), grammar.names),
        Target(
            "cursors",
            readers.cursors,
            (
                "1725323658779-0",
                "1725323658779123-1CfGis961xFBwhdKG88xHG-3",
                "99999999999999999-blk_7FZ1XG5Zc1Yk4nzy2WTNvD123456",
                "1725323658779",
            ),
            grammar.cursors,
        ),
        Target(
            "query",
            readers.query,
            ("messageIds=a,b&count=5&async=true", "fromDate=1725323658779&toDate=253402300799000", "url=http://x/,y"),
            grammar.queries,
        ),
        Target(
            "retry-after",
            readers.retry_after,
            ("120", "Wed, 21 Oct 2026 07:28:00 GMT", "6m5s", "1.5s"),
            grammar.retry_afters,
        ),
        Target(
            "addresses",
            readers.addresses,
            ("1.2.3.4, [::1]:80", "::ffff:1.2.3.4", "10.0.0.1:99, 8.8.8.8"),
            grammar.addresses,
        ),
        Target(
            "request-targets",
            readers.targets_of_requests,
            ("/v2/publish/http:/a//b?upstash-delay=5s&a=%20", "//V2/Queues/q/PAUSE/", "/v2/enqueue/q/x?qstash_token=a"),
            grammar.request_targets,
        ),
        Target(
            "connection",
            connections,
            (
                "POST /v2/publish/http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n0\r\nTrailing: 1\r\n\r\nGET /",
                "POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nabGET /",
            ),
            grammar.connections,
        ),
        Target(
            "status-access",
            readers.status_access,
            (
                "AgAAAAEAAAAAAAAAAWoSAAAAAAAAAAAAAAAAAAAAAAAA",
                "AQAAAAEAAAAAAAAAAGoSAAD_____________________",
            ),
            grammar.accesses,
        ),
        Target(
            "report",
            readers.report,
            (
                '{"progress":40.5,"note":"reading","log":"row 1\\nrow 2","result":{"rows":[1,null]}}',
                '{"ack":true,"result":7}',
                '{"nack":"no","retry":false,"delay":"30s"}',
                '{"heartbeat":"2h"}',
            ),
            grammar.reports,
        ),
        Target("json", readers.json_texts, ('[{"a":[1,"\\u00e9\\""]},-0.5e3]', "[]", '[1,[{}],"]"]'), grammar.jsons),
    )
}
