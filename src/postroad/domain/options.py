"""Options as JSON: how they are stored, and how they are read back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from postroad.domain.flow_control import FlowControl
from postroad.domain.message import IMMEDIATELY, After, Callback, Immediately, NotBefore, Options

DEFAULT_RETRIES = Options().retries


def to_json(options: Options, *, columns: bool = True) -> dict[str, Any]:
    """The options that differ from their default.

    With `columns`, what has a column of its own (method, headers, labels, queue) is left out; nested options have none.
    """
    stored: dict[str, Any] = {"retries": options.retries}
    match options.when:
        case Immediately():
            pass
        case After(delay):
            stored["delay"] = int(delay.total_seconds())
        case NotBefore(unix_seconds):
            stored["not_before"] = unix_seconds
    if options.retry_delay is not None:
        stored["retry_delay"] = options.retry_delay
    if options.timeout is not None:
        stored["timeout"] = int(options.timeout.total_seconds())
    if options.redact is not None:
        stored["redact"] = options.redact
    if (flow := options.flow_control) is not None:
        limits = {"parallelism": flow.parallelism, "rate": flow.rate, "period": int(flow.period.total_seconds())}
        stored["flow_control"] = {"key": flow.key, **{k: v for k, v in limits.items() if v is not None}}
    for name, callback in (("callback", options.callback), ("failure_callback", options.failure_callback)):
        if callback is not None:
            stored[name] = {"url": callback.url, **to_json(callback.options, columns=False)}
    if not columns:
        stored["method"] = options.method
        stored["headers"] = [list(pair) for pair in options.headers]
        stored["labels"] = list(options.labels)
    return stored


def from_json(
    stored: dict[str, Any], *, method: str, headers: list[list[str]], labels: list[str], queue: str | None = None
) -> Options:
    """The inverse of `to_json` with what the columns hold. Unknown keys, of a newer version, are left alone."""
    return Options(
        method=method,
        headers=tuple((name, value) for name, value in headers),
        when=_when(stored),
        retries=stored.get("retries", DEFAULT_RETRIES),
        retry_delay=stored.get("retry_delay"),
        timeout=timedelta(seconds=stored["timeout"]) if "timeout" in stored else None,
        labels=tuple(labels),
        redact=stored.get("redact"),
        queue=queue,
        flow_control=_flow_control(stored.get("flow_control")),
        callback=_callback(stored.get("callback")),
        failure_callback=_callback(stored.get("failure_callback")),
    )


def _when(stored: dict[str, Any]) -> Immediately | After | NotBefore:
    if "not_before" in stored:
        return NotBefore(stored["not_before"])
    if "delay" in stored:
        return After(timedelta(seconds=stored["delay"]))
    return IMMEDIATELY


def _flow_control(stored: dict[str, Any] | None) -> FlowControl | None:
    if stored is None:
        return None
    period = timedelta(seconds=stored["period"])
    return FlowControl(stored["key"], stored.get("parallelism"), stored.get("rate"), period)


def _callback(stored: dict[str, Any] | None) -> Callback | None:
    if stored is None:
        return None
    options = from_json(stored, method=stored["method"], headers=stored["headers"], labels=stored["labels"])
    return Callback(stored["url"], options)
