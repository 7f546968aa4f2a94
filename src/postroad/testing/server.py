"""A server as a test sees it: where it is, what it delivers to, its clock, and what became of messages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from tempfile import TemporaryFile
from typing import Any, ParamSpec, TypeVar

import httpx

from postroad.testing.messages import ANYTHING, Sought, TestedMessage, listed, told
from postroad.testing.process import ServerProcess
from postroad.testing.receiver import Receiver
from postroad.testing.serving import served

P = ParamSpec("P")
T = TypeVar("T")

Url = str | re.Pattern[str] | None

_LOOK_EVERY_S = 0.02
_KERNEL_STEP_MS = 20
_MOST_HISTORIES, _MOST_UNFINISHED = 100, 1000


class NotDrained(AssertionError):
    """Messages were still due or under way when the time was over."""


class PostroadServer:
    """A real server with nothing in it. All calls block; `aio` has the same ones for asyncio."""

    def __init__(self, url: str, token: str, keys: Mapping[str, str], receiver: Receiver, http: httpx.Client) -> None:
        self.url, self.token = url, token
        self.current_signing_key, self.next_signing_key = keys["current"], keys["next"]
        self.receiver = receiver
        self.http = http
        """A client of the API with the token in its headers, for all that has no method here."""
        self.aio = AsyncPostroadServer(self)

    @classmethod
    @contextmanager
    def of(cls, process: ServerProcess) -> Iterator[PostroadServer]:
        """A tenant of a running server; what it leaves behind does nothing any more."""
        _, token = process.new_tenant()
        headers = {"Authorization": f"Bearer {token}"}
        with (
            Receiver() as receiver,
            httpx.Client(base_url=process.url, headers=headers, timeout=30, trust_env=False) as http,
        ):
            keys = http.get("/v2/keys").raise_for_status().json()
            server = cls(process.url, token, keys, receiver, http)
            yield server
            server._end()

    @property
    def env(self) -> dict[str, str]:
        """The four variables that QStash's SDKs read."""
        return {
            "QSTASH_URL": self.url,
            "QSTASH_TOKEN": self.token,
            "QSTASH_CURRENT_SIGNING_KEY": self.current_signing_key,
            "QSTASH_NEXT_SIGNING_KEY": self.next_signing_key,
        }

    def publish(self, url: str, body: Any = b"", *, headers: Mapping[str, str] | None = None) -> str:
        """Publish, and give the id of the message. A body that is neither text nor bytes is sent as JSON."""
        content, kind = (body, {}) if isinstance(body, str | bytes) else (json.dumps(body), _JSON)
        answer = self.http.post(f"/v2/publish/{url}", content=content, headers={**kind, **(headers or {})})
        assert answer.is_success, answer.text
        return str(answer.json()["messageId"])

    def serve(self, app: Any) -> AbstractContextManager[str]:
        """Run an ASGI app in a thread while the context lasts, so that messages can be delivered to it; its URL."""
        return served(app)

    def advance(self, by: str, *, drain_first: bool = True) -> None:
        """Let time pass, such as `90s` or `1d12h`: delays, retries and schedules that lie ahead come nearer.

        What is due is made first, so that the retries of that come nearer as well; not so without `drain_first`, for
        attempts that stay open meanwhile. It is not waited for what falls due by this: that is what `drain` is for.
        """
        __tracebackhide__ = True
        if drain_first:
            self.drain()
        answer = self.http.post("/dev/clock/advance", json={"by": by})
        assert answer.is_success, answer.text

    def drain(self, within: float = 10) -> None:
        """Wait until nothing is due or under way; what is paused, or waits for a later time, is left.

        Raises `NotDrained` with what is left after so many seconds.
        """
        __tracebackhide__ = True
        over = threading.Event()
        # A timer ends also where the test has frozen the time of its process.
        timer = threading.Timer(within, over.set)
        timer.daemon = True
        timer.start()
        try:
            # One look is enough: what a message or a tick becomes is stored with its end, and a page is one moment.
            while busy := self._busy():
                if over.is_set():
                    raise NotDrained("\n".join([f"still due or under way after {within} s:", *listed(busy)]))
                over.wait(_LOOK_EVERY_S)
        finally:
            timer.cancel()

    def messages(self) -> list[TestedMessage]:
        """All messages of this test, callbacks too, the oldest first."""
        histories = self._pages("/v2/logs", groupBy="messageId", count=_MOST_HISTORIES)
        return [TestedMessage.of(history) for history in reversed(histories)]

    def assert_delivered(
        self, url: Url = None, *, times: int | None = 1, body: Any = ANYTHING, within: float = 10
    ) -> list[TestedMessage]:
        """Drain, and hold that so many messages were delivered there, or with None at least one; gives them.

        `url` is the whole URL, or a pattern that is searched in it. A body that is neither text nor bytes is compared
        as JSON.
        """
        __tracebackhide__ = True
        return self._assert("delivered", ("DELIVERED",), Sought(url, body), times, within)

    def assert_failed(
        self, url: Url = None, *, times: int | None = 1, body: Any = ANYTHING, within: float = 10
    ) -> list[TestedMessage]:
        """Drain, and hold that so many messages were given up and are in the dead letter queue."""
        __tracebackhide__ = True
        return self._assert("failed", ("FAILED",), Sought(url, body), times, within)

    def assert_waiting(
        self, url: Url = None, *, times: int | None = 1, body: Any = ANYTHING, within: float = 10
    ) -> list[TestedMessage]:
        """Drain, and hold that so many messages wait for their time, a retry, or the end of a pause."""
        __tracebackhide__ = True
        return self._assert("waiting", _WAITING, Sought(url, body), times, within)

    def assert_nothing_delivered(self, url: Url = None, *, within: float = 10) -> None:
        """Drain, and hold that nothing was delivered there."""
        __tracebackhide__ = True
        self.assert_delivered(url, times=0, within=within)

    def _assert(
        self, word: str, states: Sequence[str], sought: Sought, times: int | None, within: float
    ) -> list[TestedMessage]:
        __tracebackhide__ = True
        self.drain(within)
        messages = self.messages()
        found = [one for one in messages if one.state in states and sought.covers(one)]
        if len(found) != times if times is not None else not found:
            expected = "at least one message" if times is None else _counted(times)
            raise AssertionError(
                f"expected {expected} {word}{sought.words()}, found {len(found)}.\n{told(messages)}{self._raised()}"
            )
        return found

    def _busy(self) -> list[str]:
        """What is due or under way, a line for each. Schedules first: a tick becomes a message."""
        now = _now_ms()
        busy = [
            f"schedule {one['scheduleId']} has a tick that is due"
            for one in self._got("/v2/schedules")
            if not one["isPaused"] and one.get("nextScheduleTime", now + 1) <= now
        ]
        unfinished = self._pages("/v2/messages", count=_MOST_UNFINISHED)
        later = {one["queueName"] for one in unfinished if "queueName" in one and one["dueAt"] > now}
        due = [
            one
            for one in unfinished
            # What is held behind a message that waits for its retry stays there until that has gone.
            if one["state"] == "active"
            or (one["dueAt"] <= now and (one["state"] == "waiting" or one["queueName"] not in later))
        ]
        if due:
            paused = self._paused()
            due = [one for one in due if one["state"] == "active" or not _gates(one) & paused]
        return busy + [f"{one['state']} {one['method']} {one['url']} waits for {one['waitsFor']}" for one in due]

    def _raised(self) -> str:
        errors = self.receiver.errors
        return "".join(["\nScripts of the receiver raised:", *(f"\n  {one!r}" for one in errors)]) if errors else ""

    def _paused(self) -> set[tuple[str, str]]:
        queues, keys = self._got("/v2/queues"), self._got("/v2/flowControl")
        return {("queue", one["name"]) for one in queues if one["paused"]} | {
            ("key", one["flowControlKey"]) for one in keys if one["isPaused"]
        }

    def _pages(self, path: str, **query: str | int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._got(path, **query)
            found += page["messages"]
            if not page.get("cursor"):
                return found
            query["cursor"] = page["cursor"]

    def _got(self, path: str, **query: str | int) -> Any:
        return self.http.get(path, params=query).raise_for_status().json()

    def _end(self) -> None:
        """Leave nothing behind that a clock which is moved by a later test would wake."""
        for one in self._got("/v2/schedules"):
            self.http.delete(f"/v2/schedules/{one['scheduleId']}").raise_for_status()
        self.http.delete("/v2/messages").raise_for_status()


class AsyncPostroadServer:
    """The calls of a `PostroadServer` for tests whose app runs in the test's own event loop, which must not block."""

    def __init__(self, server: PostroadServer) -> None:
        self.publish = _awaitable(server.publish)
        self.advance = _awaitable(server.advance)
        self.drain = _awaitable(server.drain)
        self.messages = _awaitable(server.messages)
        self.assert_delivered = _awaitable(server.assert_delivered)
        self.assert_failed = _awaitable(server.assert_failed)
        self.assert_waiting = _awaitable(server.assert_waiting)
        self.assert_nothing_delivered = _awaitable(server.assert_nothing_delivered)


def _awaitable(call: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The same call in a thread, for a loop that goes on meanwhile."""

    async def one(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        return await asyncio.to_thread(call, *args, **kwargs)

    return one


def _now_ms() -> int:
    """The time of this machine, which the server has as well; a test may have frozen or moved that of its own process.

    So it is taken from a file that is new. Those are dated by the last tick of the kernel, hence the step.
    """
    with TemporaryFile() as file:
        return os.fstat(file.fileno()).st_mtime_ns // 1_000_000 + _KERNEL_STEP_MS


def _gates(message: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The queue and the flow-control key that a message has to pass."""
    given = {("queue", message.get("queueName")), ("key", message.get("flowControlKey"))}
    return {(kind, name) for kind, name in given if name is not None}


def _counted(times: int) -> str:
    return "1 message" if times == 1 else f"{times} messages"


_JSON = {"Content-Type": "application/json"}
_WAITING = ("CREATED", "RETRY", "ERROR")
