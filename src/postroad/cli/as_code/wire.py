"""Resources as calls of the API: what is read, and what is sent to bring one about, change it or delete it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import assert_never

import httpx

from postroad.cli.as_code.resource import FlowKey, Group, Kind, Limits, Queue, Resource, Schedule
from postroad.cli.remote import Rejected, Remote, Unreachable, segment
from postroad.errors import PostroadError

FIELDS = {
    "Upstash-Retry-Delay": "retryDelay",
    "Upstash-Timeout": "timeout",
    "Upstash-Label": "labels",
    "Upstash-Flow-Control-Key": "flowControl",
    "Upstash-Flow-Control-Value": "flowControl",
    "Upstash-Callback": "callback",
    "Upstash-Failure-Callback": "failureCallback",
    "Upstash-Queue-Name": "queue",
}
"""Headers of a publish, and the fields of a schedule in a file that they come from."""


class NotUnderstood(PostroadError):
    """A server answered, but not as QStash or Postroad does."""

    def __init__(self, url: str, error: Exception) -> None:
        super().__init__(
            f"what {url} answers is not what a QStash answers ({type(error).__name__}: {error}); is the address right?"
        )


def present(remote: Remote, kinds: Collection[Kind], *, keys: Sequence[str] = ()) -> dict[Kind, dict[str, Resource]]:
    """What a server has of these kinds, by name. Flow-control keys of these names are found however many there are.

    Raises `NotUnderstood` for an answer that no QStash gives.
    """
    try:
        return _present(remote, kinds, keys)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # what is missing, or of another type
        raise NotUnderstood(remote.url, error) from error


def check_sight(remote: Remote) -> None:
    """Raise `Rejected` for a token that sees no payloads: all headers and bodies would seem to be empty."""
    try:
        remote.call("GET", "/v2/keys")
    except Rejected as error:
        if error.status == httpx.codes.FORBIDDEN and "metadata" in str(error):
            reason = f"the token for {remote.url} is for metadata and sees no headers and bodies: take one that does"
            raise Rejected(error.status, reason) from None
    except Unreachable:
        return  # what is read next tells


def bring_about(remote: Remote, wanted: Resource, before: Resource | None) -> None:
    """Make a resource, or change what is there into it."""
    match wanted:
        case Queue(name, parallelism, paused):
            remote.call("POST", "/v2/queues", json={"queueName": name, "parallelism": parallelism, "paused": paused})
        case Group():
            _bring_about_group(remote, wanted, before if isinstance(before, Group) else None)
        case FlowKey():
            _bring_about_flow_key(remote, wanted, before if isinstance(before, FlowKey) else FlowKey(wanted.name))
        case Schedule():
            _bring_about_schedule(remote, wanted, before if isinstance(before, Schedule) else None)
        case _:
            assert_never(wanted)


def remove(remote: Remote, resource: Resource) -> None:
    """Delete a resource. A flow-control key stays, with nothing pinned or paused."""
    match resource:
        case Queue():
            remote.call("DELETE", f"/v2/queues/{segment(resource.name)}")
        case Group():
            remote.call("DELETE", f"/v2/topics/{segment(resource.name)}")
        case FlowKey():
            _bring_about_flow_key(remote, FlowKey(resource.name), resource)
        case Schedule():
            remote.call("DELETE", f"/v2/schedules/{segment(resource.name)}")
        case _:
            assert_never(resource)


def publish_fields(schedule: Schedule) -> list[tuple[str, str]]:
    """The header fields of the call that makes a schedule, the id and the expression aside."""
    given = {
        "Upstash-Method": schedule.method,
        "Upstash-Retries": str(schedule.retries),
        "Upstash-Retry-Delay": schedule.retry_delay,
        "Upstash-Delay": _seconds(schedule.delay),
        "Upstash-Timeout": _seconds(schedule.timeout),
        "Upstash-Queue-Name": schedule.queue,
        "Upstash-Flow-Control-Key": schedule.flow.key if schedule.flow else None,
        "Upstash-Flow-Control-Value": _limits(schedule.flow) if schedule.flow else None,
        "Upstash-Label": ",".join(schedule.labels) or None,
        "Upstash-Redact-Fields": schedule.redact,
    }
    fields = [(name, value) for name, value in given.items() if value is not None]
    fields += [(f"Upstash-Forward-{name}", value) for name, value in schedule.headers.items()]
    for prefix, callback in (("Callback", schedule.callback), ("Failure-Callback", schedule.failure_callback)):
        if callback is not None:
            fields.append((f"Upstash-{prefix}", callback.url))
            fields += [(f"Upstash-{prefix}-Forward-{name}", value) for name, value in callback.headers.items()]
    return fields


def as_sent(destination: str) -> str:
    """A destination as it goes over the wire in the path of a call."""
    before = "/v2/schedules/"
    return httpx.URL(f"http://localhost{before}{destination}").raw_path.decode().removeprefix(before)


def _present(remote: Remote, kinds: Collection[Kind], keys: Sequence[str]) -> dict[Kind, dict[str, Resource]]:
    found: dict[Kind, list[Resource]] = {}
    if "queue" in kinds:
        found["queue"] = [Queue.of_view(view) for view in remote.call("GET", "/v2/queues") or []]
    if "group" in kinds:
        found["group"] = [Group.of_view(view) for view in remote.call("GET", "/v2/topics") or []]
    if "flow key" in kinds:
        listed = [FlowKey.of_view(view) for view in remote.call("GET", "/v2/flowControl") or []]
        known = {one.name for one in listed}
        listed += [one for key in keys if key not in known and (one := _flow_key(remote, key)) is not None]
        found["flow key"] = [*listed]
    if "schedule" in kinds:
        found["schedule"] = [Schedule.of_view(view) for view in remote.call("GET", "/v2/schedules") or []]
    return {kind: {one.name: one for one in resources} for kind, resources in found.items()}


def _flow_key(remote: Remote, key: str) -> FlowKey | None:
    try:
        return FlowKey.of_view(remote.call("GET", f"/v2/flowControl/{segment(key)}"))
    except Rejected as error:
        if error.status == 404:
            return None
        raise


def _bring_about_group(remote: Remote, wanted: Group, before: Group | None) -> None:
    endpoints = before.endpoints if before is not None else {}
    path = f"/v2/topics/{segment(wanted.name)}"
    if wanted.endpoints != endpoints:
        remote.call("POST", f"{path}/endpoints", json={"endpoints": _endpoints(wanted, wanted.endpoints)})
        # A known URL keeps its name where none is given, so what is to lose its name is taken out and added again.
        unnamed = [url for url, name in wanted.endpoints.items() if name is None and endpoints.get(url) is not None]
        gone = [{"url": url} for url in endpoints if url not in wanted.endpoints] + [{"url": url} for url in unnamed]
        if gone:
            remote.call("DELETE", f"{path}/endpoints", json={"endpoints": gone})
        if unnamed:
            remote.call("POST", f"{path}/endpoints", json={"endpoints": _endpoints(wanted, unnamed)})
    # A group that lost its last endpoint on the way has lost its headers with it.
    if wanted.headers or (before is not None and before.headers):
        remote.call("PATCH", path, json={"headers": dict(wanted.headers)})


def _endpoints(group: Group, urls: Collection[str]) -> list[dict[str, str]]:
    return [{"url": url, **({"name": name} if (name := group.endpoints[url]) else {})} for url in urls]


def _bring_about_flow_key(remote: Remote, wanted: FlowKey, before: FlowKey) -> None:
    path = f"/v2/flowControl/{segment(wanted.name)}"
    limits = {
        name: value
        for name in ("parallelism", "rate", "period")
        if (value := getattr(wanted, name)) is not None and value != getattr(before, name)
    }
    if limits:
        remote.call("POST", f"{path}/pin", query=limits)
    loose = {
        name: "true"
        for name, is_loose in (
            ("parallelism", wanted.parallelism is None and before.parallelism is not None),
            ("rate", wanted.rate is None and (before.rate is not None or before.period is not None)),
        )
        if is_loose
    }
    if loose:
        remote.call("POST", f"{path}/unpin", query=loose)
    if wanted.paused != before.paused:
        remote.call("POST", f"{path}/{'pause' if wanted.paused else 'resume'}")


def _bring_about_schedule(remote: Remote, wanted: Schedule, before: Schedule | None) -> None:
    path = f"/v2/schedules/{segment(wanted.name)}"
    facts = {**wanted.facts(), "paused": None}
    if before is None or {**before.facts(), "paused": None} != facts:
        fields = [("Upstash-Cron", wanted.cron), ("Upstash-Schedule-Id", wanted.name), *publish_fields(wanted)]
        remote.call("POST", f"/v2/schedules/{wanted.destination}", headers=dict(fields), body=wanted.body)
        is_paused = False
    else:
        is_paused = before.paused
    if wanted.paused != is_paused:
        remote.call("POST", f"{path}/{'pause' if wanted.paused else 'resume'}")


def _limits(limits: Limits) -> str:
    given = {"parallelism": limits.parallelism, "rate": limits.rate, "period": limits.period}
    return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)


def _seconds(value: int | None) -> str | None:
    return None if value is None else f"{value}s"
