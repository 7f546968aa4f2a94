"""A message as it was published: written once, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from postroad.domain.flow_control import FlowControl
from postroad.domain.ids import MessageId
from postroad.domain.reply import Headers
from postroad.domain.tenant import TenantId
from postroad.errors import PostroadError

METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE")
"""Stored as their place in this tuple, so new ones go to the end."""


@dataclass(frozen=True, slots=True)
class Immediately:
    """Due as soon as it is stored."""


@dataclass(frozen=True, slots=True)
class After:
    """Due a while after it is stored."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class NotBefore:
    """Due at an instant, in Unix seconds, which may lie in the past."""

    unix_seconds: int


When = Immediately | After | NotBefore

IMMEDIATELY = Immediately()


@dataclass(frozen=True, slots=True)
class Options:
    """How a message is to be delivered: everything the publisher's headers say beside destination and body."""

    method: str = "POST"
    headers: Headers = ()
    when: When = IMMEDIATELY
    retries: int = 3
    retry_delay: str | None = None
    timeout: timedelta | None = None
    labels: tuple[str, ...] = ()
    redact: str | None = None
    queue: str | None = None
    flow_control: FlowControl | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None


@dataclass(frozen=True, slots=True)
class Callback:
    """Where to report, and how: a callback has the same options as a message, a callback of its own included."""

    url: str
    options: Options


@dataclass(frozen=True, slots=True)
class Origin:
    """What stood between the publish and the message: the URL group and its endpoint, the schedule, `llm` for api/llm.

    By name, as it was then; any of them may be gone by now.
    """

    url_group: str | None = None
    endpoint: str | None = None
    schedule_id: str | None = None
    api: str | None = None


DIRECT = Origin()


@dataclass(frozen=True, slots=True)
class Message:
    """What was published, by whom, and where it goes.

    `body` is None where the message was claimed without its body because that is large; `body_bytes` is its size.
    `source_id` is the message that this one is a callback of. One with `unopened`, which says why, could not be read as
    it was published: it can be shown, but must not be delivered.
    """

    id: MessageId
    tenant_id: TenantId
    url: str
    options: Options
    body: bytes | None
    body_bytes: int
    caller_ip: str | None = None
    source_id: MessageId | None = None
    origin: Origin = DIRECT
    unopened: PostroadError | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with the instant at which the database stored it."""

    message: Message
    created_at: datetime

    @property
    def not_before(self) -> datetime:
        """The instant from which it may be delivered; its creation when no delay was asked for."""
        match self.message.options.when:
            case Immediately():
                return self.created_at
            case After(delay):
                return self.created_at + delay
            case NotBefore(unix_seconds):
                return max(self.created_at, datetime.fromtimestamp(unix_seconds, UTC))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A delivery that this process holds, made only by a claim or a hand-over.

    `lease` is the fence: a settlement takes effect only while the delivery still has it. `is_gated` says that the
    delivery is in a queue or under a flow-control key, so that its end may let others go.
    """

    stored: StoredMessage
    lease: int
    retried: int
    destination: int
    is_gated: bool = False

    @property
    def message(self) -> Message:
        """What is to be delivered."""
        return self.stored.message

    @property
    def is_last(self) -> bool:
        """No retry is left after this one."""
        return self.retried >= self.stored.message.options.retries
