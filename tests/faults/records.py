"""What a run writes down. The checker knows nothing else.

Every instant is in seconds of the machine's monotonic clock, which all processes share; what the database dated is
converted when it is collected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Intent:
    """A publisher is about to ask for one message, which it calls `op`; a batch or a URL group has one for each.

    `deduplication` is the id that was sent, if any. `parallelism` and `rate` with `period` are what the message brings
    for its flow-control key. `delay` and `retries` are what was asked for, the defaults included.
    """

    op: int
    at: float
    queue: str | None = None
    flow_key: str | None = None
    parallelism: int | None = None
    rate: int | None = None
    period: float | None = None
    deduplication: str | None = None
    delay: float = 0.0
    retries: int = 3
    callback: bool = False


class Verdict(StrEnum):
    """How a request ended for the one who asked."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """A status from 400 to 499: nothing may have been stored."""
    UNKNOWN = "unknown"
    """No answer, or a status from 500 on: it may have been stored or not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an intent ended; `at` is when the answer was complete. A repeated request has an outcome each time."""

    op: int
    at: float
    verdict: Verdict
    message_id: str | None = None
    status: int | None = None
    deduplicated: bool = False


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Somebody asked for a message to be cancelled, and was answered (or not) at `answered_at`."""

    message_id: str
    asked_at: float
    answered_at: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that fires every minute; those minutes count whose start lies between the two wall-clock instants.

    Both are Unix seconds of the database: of the answer that made the schedule, and of the end of the run.
    """

    id: str
    made_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """A request that reached the receiver.

    `op` is from its body, None when there is none. `node` is the dispatcher process that sent it. `status` is what was
    answered, None when the receiver hung up or the sender went away before the answer was written out. `callback_of` is
    set for callbacks, and `failed` in them tells failure callbacks.
    """

    message_id: str
    op: int | None
    retried: int
    node: str
    began: float
    ended: float
    status: int | None
    body_is_right: bool = True
    signature_is_right: bool = True
    schedule_id: str | None = None
    callback_of: int | None = None
    failed: bool = False

    @property
    def succeeded(self) -> bool:
        """The receiver has answered with a 2xx, as far as it knows."""
        return self.status is not None and 200 <= self.status < 300


class FaultKind(StrEnum):
    """What was done to the system."""

    KILL = "kill"
    """SIGKILL of a node's process."""
    PAUSE = "pause"
    """SIGSTOP of a node's process, from `began` to `ended`."""
    STOP = "stop"
    """SIGTERM of a node's process, until its exit: explains nothing."""
    DATABASE = "database"
    """Anything that took the database away from one node or all."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, from its first moment until it was undone. `node` is None when it hit all of them."""

    kind: FaultKind
    began: float
    ended: float
    node: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """From the audit of the database: a lease was given to a node's process."""

    message_id: str
    lease: int
    node: str
    at: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """From the audit of the database: an attempt was ended by a node's process, which may be the one that rescues.

    `outcome` is that of the log: 0 delivered, 1 retry, 2 failed, 3 lost. `rescued` tells what rescue wrote.
    """

    message_id: str
    lease: int
    node: str
    at: float
    outcome: int
    rescued: bool = False


class State(StrEnum):
    """Where a message stands by what the API says."""

    WAITING = "waiting"
    ACTIVE = "active"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Final:
    """What the API says of a message when nothing moves any more.

    `created_at` is in Unix seconds of the database; `dead_letters` counts its entries in the DLQ.
    """

    message_id: str
    state: State
    created_at: float
    dead_letters: int = 0
    schedule_id: str | None = None


@dataclass(slots=True)
class History:
    """All that was written down in a run. `queues` gives the parallelism of queues that have not 1."""

    seed: int
    intents: list[Intent] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    cancellations: list[Cancellation] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    queues: dict[str, int] = field(default_factory=dict)
