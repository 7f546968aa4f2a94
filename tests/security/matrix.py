"""Every route of the API, called with every kind of id and name that may be somebody else's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Things:
    """What a tenant has, by the ids and names that others may learn."""

    message: str
    dead_message: str
    finished: str
    dlq: str
    action: str
    queue: str
    group: str
    schedule: str
    key: str
    label: str
    deduplication: str
    caller_ip: str
    url: str
    host: str
    path: str
    endpoint: str
    log_cursor: str
    action_cursor: str
    tenant: str
    token_id: str

    def masked(self, text: str) -> str:
        """The text with every one of these as a placeholder, and what is new in every answer as well."""
        for name, value in sorted(self.values().items(), key=lambda item: -len(item[1])):
            text = text.replace(value, f"<{name}>")
        return _FRESH.sub("<fresh>", text)

    def values(self) -> dict[str, str]:
        """All of them that can be told from any other text."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "token_id"}


_FRESH = re.compile(r"(?:msg|blk|scd|sig)_\w{20,}|\b\d{13,16}\b|\b\d{13}-\d+\b")
"""Ids that were just made, and times."""


@dataclass(frozen=True)
class Call:
    """A request but for its method and token."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: str | None = None


Probe = Callable[[Things], Call]

LATER = {"Upstash-Delay": "300d"}


def _filtered(path: str, *, but: Sequence[str] = (), **more: str) -> list[Probe]:
    """A call for each filter, and one with all of them."""

    def values(things: Things) -> dict[str, str]:
        every = {
            "messageIds": things.message,
            "url": things.url,
            "host": things.host,
            "path": things.path,
            "label": things.label,
            "topicName": things.group,
            "queueName": things.queue,
            "scheduleId": things.schedule,
            "flowControlKey": things.key,
            "callerIp": things.caller_ip,
        }
        return {name: value for name, value in every.items() if name not in but}

    def one(name: str) -> Probe:
        return lambda things: Call(path, params={name: values(things)[name], **more})

    names = values(Things(*[""] * len(fields(Things))))
    return [*(one(name) for name in names), lambda things: Call(path, params={**values(things), **more})]


def _log(path: str) -> list[Probe]:
    return [
        lambda _: Call(path),
        *_filtered(path),
        *_filtered(path, groupBy="messageId"),
        lambda t: Call(path, params={"messageId": t.dead_message}),
        lambda t: Call(path, params={"messageIds": f"{t.message},{t.finished}", "order": "earliestFirst"}),
        lambda t: Call(path, params={"label": t.label, "state": "FAILED,CANCELED"}),
        lambda t: Call(path, params={"cursor": t.log_cursor}),
        lambda t: Call(path, params={"cursor": t.log_cursor, "order": "earliestFirst", "label": t.label}),
    ]


NOT_THERE = ("host", "path")

MATRIX: dict[str, Sequence[Probe]] = {
    # What reads, before anything is changed.
    "GET /v2/messages/{message_id}": [
        lambda t: Call(f"/v2/messages/{t.message}"),
        lambda t: Call(f"/v2/messages/{t.dead_message}"),
        lambda t: Call(f"/v2/messages/{t.finished}"),
    ],
    "GET /v2/messages": [lambda _: Call("/v2/messages"), *_filtered("/v2/messages")],
    "GET /v2/status/{message_id}": [
        lambda t: Call(f"/v2/status/{t.message}"),
        lambda t: Call(f"/v2/status/{t.dead_message}"),
        lambda t: Call(f"/v2/status/{t.finished}"),
    ],
    "GET /v2/status/{message_id}/log": [
        lambda t: Call(f"/v2/status/{t.message}/log"),
        lambda t: Call(f"/v2/status/{t.dead_message}/log"),
        lambda t: Call(f"/v2/status/{t.finished}/log"),
    ],
    "GET /v2/status/{message_id}/stream": [
        lambda t: Call(f"/v2/status/{t.dead_message}/stream"),
        lambda t: Call(f"/v2/status/{t.finished}/stream"),
    ],
    "GET /v2/logs": _log("/v2/logs"),
    "GET /v2/events": _log("/v2/events"),
    # It never ends; whose events it shows is tested with it.
    "GET /v2/events/stream": [],
    "GET /v2/dlq": [
        lambda _: Call("/v2/dlq"),
        *_filtered("/v2/dlq", but=NOT_THERE),
        lambda t: Call("/v2/dlq", params={"dlqIds": t.dlq}),
        lambda t: Call("/v2/dlq", params={"messageId": t.dead_message}),
        lambda t: Call("/v2/dlq", params={"cursor": t.dlq}),
        lambda t: Call("/v2/dlq", params={"label": t.label, "responseStatus": "500"}),
    ],
    "GET /v2/dlq/{dlq_id}": [lambda t: Call(f"/v2/dlq/{t.dlq}")],
    "GET /v2/queues": [lambda _: Call("/v2/queues")],
    "GET /v2/queues/{name}": [lambda t: Call(f"/v2/queues/{t.queue}")],
    "GET /v2/topics": [lambda _: Call("/v2/topics")],
    "GET /v2/topics/{name}": [lambda t: Call(f"/v2/topics/{t.group}")],
    "GET /v2/schedules": [lambda _: Call("/v2/schedules")],
    "GET /v2/schedules/{schedule_id}": [lambda t: Call(f"/v2/schedules/{t.schedule}")],
    "GET /v2/flowControl": [
        lambda _: Call("/v2/flowControl"),
        lambda t: Call("/v2/flowControl", params={"search": t.key}),
    ],
    "GET /v2/flowControl/{key}": [lambda t: Call(f"/v2/flowControl/{t.key}")],
    "GET /v2/globalParallelism": [lambda _: Call("/v2/globalParallelism")],
    "GET /v2/bulkActions": [
        lambda _: Call("/v2/bulkActions"),
        lambda t: Call("/v2/bulkActions", params={"cursor": t.action_cursor}),
        lambda t: Call("/v2/bulkActions", params={"cursor": t.action_cursor, "state": "FINISHED", "count": "1"}),
    ],
    "GET /v2/bulkActions/{action_id}": [lambda t: Call(f"/v2/bulkActions/{t.action}")],
    "GET /v2/keys": [lambda _: Call("/v2/keys")],
    "GET /v2/readiness": [],
    "GET /v2/liveness": [],
    # What takes things away.
    "DELETE /v2/messages/{message_id}": [
        lambda t: Call(f"/v2/messages/{t.message}"),
        lambda t: Call(f"/v2/messages/{t.dead_message}"),
        lambda t: Call(f"/v2/messages/{t.finished}"),
    ],
    "DELETE /v2/messages": [
        *_filtered("/v2/messages"),
        *_filtered("/v2/messages", **{"async": "true"}),
        lambda t: Call("/v2/messages", json={"messageIds": [t.message, t.finished]}),
        lambda t: Call("/v2/messages", json={"queueName": t.queue}),
        lambda t: Call("/v2/messages", params={"label": t.label, "count": "1"}),
    ],
    "DELETE /v2/dlq/{dlq_id}": [lambda t: Call(f"/v2/dlq/{t.dlq}")],
    "DELETE /v2/dlq": [
        *_filtered("/v2/dlq", but=NOT_THERE),
        lambda t: Call("/v2/dlq", params={"dlqIds": t.dlq}),
        lambda t: Call("/v2/dlq", json={"dlqIds": [t.dlq]}),
        lambda t: Call("/v2/dlq", params={"cursor": t.dlq, "label": t.label}),
    ],
    "DELETE /v2/queues/{name}": [lambda t: Call(f"/v2/queues/{t.queue}")],
    "DELETE /v2/schedules/{schedule_id}": [lambda t: Call(f"/v2/schedules/{t.schedule}")],
    "DELETE /v2/topics/{name}/endpoints": [
        lambda t: Call(f"/v2/topics/{t.group}/endpoints", json={"endpoints": [{"url": t.url}]}),
        lambda t: Call(f"/v2/topics/{t.group}/endpoints", json={"endpoints": [{"name": t.endpoint}]}),
    ],
    "DELETE /v2/topics/{name}": [lambda t: Call(f"/v2/topics/{t.group}")],
    # What changes them.
    "POST /v2/messages/{message_id}/retry": [
        lambda t: Call(f"/v2/messages/{t.message}/retry"),
        lambda t: Call(f"/v2/messages/{t.finished}/retry"),
    ],
    "PATCH /v2/messages/{message_id}": [
        lambda t: Call(f"/v2/messages/{t.message}", json={"body": "changed"}),
        lambda t: Call(f"/v2/messages/{t.finished}", json={"delay": "1h"}),
    ],
    "POST /v2/status/{message_id}": [
        lambda t: Call(f"/v2/status/{t.message}", json={"progress": 1}),
        lambda t: Call(f"/v2/status/{t.dead_message}", json={"progress": 1}),
        lambda t: Call(f"/v2/status/{t.finished}", json={"progress": 1}),
    ],
    "POST /v2/status/{message_id}/url": [
        lambda t: Call(f"/v2/status/{t.message}/url"),
        lambda t: Call(f"/v2/status/{t.dead_message}/url"),
        lambda t: Call(f"/v2/status/{t.finished}/url"),
    ],
    "POST /v2/dlq/retry/{dlq_id}": [lambda t: Call(f"/v2/dlq/retry/{t.dlq}")],
    "POST /v2/dlq/retry": [
        *_filtered("/v2/dlq/retry", but=NOT_THERE),
        lambda t: Call("/v2/dlq/retry", params={"dlqIds": t.dlq}),
        lambda t: Call("/v2/dlq/retry", json={"dlqIds": [t.dlq]}),
        lambda t: Call("/v2/dlq/retry", params={"cursor": t.dlq, "label": t.label}),
    ],
    "POST /v2/queues/{name}/pause": [lambda t: Call(f"/v2/queues/{t.queue}/pause")],
    "POST /v2/queues/{name}/resume": [lambda t: Call(f"/v2/queues/{t.queue}/resume")],
    "POST /v2/schedules/{schedule_id}/pause": [lambda t: Call(f"/v2/schedules/{t.schedule}/pause")],
    "PATCH /v2/schedules/{schedule_id}/pause": [lambda t: Call(f"/v2/schedules/{t.schedule}/pause")],
    "POST /v2/schedules/{schedule_id}/resume": [lambda t: Call(f"/v2/schedules/{t.schedule}/resume")],
    "PATCH /v2/schedules/{schedule_id}/resume": [lambda t: Call(f"/v2/schedules/{t.schedule}/resume")],
    "PATCH /v2/schedules/{schedule_id}": [
        lambda t: Call(f"/v2/schedules/{t.schedule}", json={"cron": "0 0 2 1 *"}),
        lambda t: Call(f"/v2/schedules/{t.schedule}", json={"destination": t.group}),
    ],
    "POST /v2/schedules/{schedule_id}/run": [lambda t: Call(f"/v2/schedules/{t.schedule}/run")],
    "PATCH /v2/topics/{name}": [
        lambda t: Call(f"/v2/topics/{t.group}", json={"headers": {"Upstash-Retries": ["1"]}}),
    ],
    "POST /v2/flowControl/{key}/resume": [lambda t: Call(f"/v2/flowControl/{t.key}/resume")],
    "POST /v2/flowControl/{key}/unpin": [
        lambda t: Call(f"/v2/flowControl/{t.key}/unpin", params={"parallelism": "true", "rate": "true"}),
    ],
    "POST /v2/flowControl/{key}/resetRate": [lambda t: Call(f"/v2/flowControl/{t.key}/resetRate")],
    # What makes a thing of the caller's own by the same name.
    "POST /v2/publish/{destination}": [
        lambda t: Call(f"/v2/publish/{t.group}", content="x"),
        lambda t: Call(f"/v2/publish/{t.url}", headers={"Upstash-Deduplication-Id": t.deduplication, **LATER}),
        lambda t: Call(f"/v2/publish/{t.url}", headers={"Upstash-Queue-Name": t.queue, **LATER}),
        lambda t: Call(f"/v2/publish/{t.url}", headers={"Upstash-Label": t.label, **LATER}),
        lambda t: Call(
            f"/v2/publish/{t.url}",
            headers={"Upstash-Flow-Control-Key": t.key, "Upstash-Flow-Control-Value": "parallelism=9", **LATER},
        ),
        lambda t: Call(f"/v2/publish/{t.url}", headers={"Upstash-Message-Id": t.message, **LATER}),
    ],
    "POST /v2/enqueue/{queueName}/{destination}": [
        lambda t: Call(f"/v2/enqueue/{t.queue}/{t.url}"),
        lambda t: Call(f"/v2/enqueue/{t.queue}/{t.group}"),
    ],
    "POST /v2/batch": [
        lambda t: Call("/v2/batch", json=[{"destination": t.url, "queue": t.queue}]),
        lambda t: Call("/v2/batch", json=[{"destination": t.group}]),
        lambda t: Call(
            "/v2/batch",
            json=[{"destination": t.url, "headers": {"Upstash-Deduplication-Id": f"{t.deduplication}-2", **LATER}}],
        ),
    ],
    "POST /v2/schedules/{destination}": [
        lambda t: Call(
            f"/v2/schedules/{t.url}", headers={"Upstash-Cron": "0 0 1 1 *", "Upstash-Schedule-Id": t.schedule}
        ),
        lambda t: Call(f"/v2/schedules/{t.group}", headers={"Upstash-Cron": "0 0 1 1 *"}),
    ],
    "POST /v2/queues": [
        lambda t: Call("/v2/queues", json={"queueName": t.queue, "parallelism": 7, "paused": False}),
    ],
    "POST /v2/topics/{name}/endpoints": [
        lambda t: Call(f"/v2/topics/{t.group}/endpoints", json={"endpoints": [{"url": t.url, "name": t.endpoint}]}),
    ],
    "POST /v2/flowControl/{key}/pause": [lambda t: Call(f"/v2/flowControl/{t.key}/pause")],
    "POST /v2/flowControl/{key}/pin": [
        lambda t: Call(f"/v2/flowControl/{t.key}/pin", params={"parallelism": "9", "rate": "9"}),
    ],
    # Rotates the caller's own keys, and takes no id.
    "POST /v2/keys/rotate": [],
}
"""By method and path of /openapi.json; in this order. Without a call where a route takes no id."""


def probes(route: str) -> Sequence[Probe] | None:
    """The calls of a route; None for one that nobody has thought of. Administration has one of each, which refuses."""
    _, _, path = route.partition(" ")
    if not path.startswith("/admin/"):
        return MATRIX.get(route)
    return [lambda t: Call(path.replace("{name}", t.tenant).replace("{token_id}", t.token_id), json={"name": t.tenant})]
