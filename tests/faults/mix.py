"""What publishers ask for: a seeded mix of all kinds of messages.

An op is the number of one message. A publish to a URL group has an op for each endpoint, that of the first being in
the body; a batch has one for each item. Deduplication of a URL group is each endpoint's own, so in its intents the
number of the endpoint is appended to the id that was sent: `<id>#<number>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import orjson

from tests.faults import bodies
from tests.faults.records import Intent

ENDPOINTS = 3
BATCH = 5
STORM = 4
GROUPS = ("chaos-group-0", "chaos-group-1")
FIFO_QUEUES = tuple(f"fifo-{n:02}" for n in range(20))
WIDE_QUEUES = ("wide-0", "wide-1")
WIDTH = 3
RATE, PERIOD = 20, 1.0

_WEIGHTS: dict[str, Mapping[str, float]] = {
    "plain": {"plain": 100},
    "full": {
        "plain": 40, "queue": 15, "flow": 12, "delayed": 8, "batch": 5, "group": 3, "storm": 5, "callback": 5,
        "cancel": 4, "slow": 3,
    },
}  # fmt: skip
"""Shares of messages, in percent."""
PROFILES = tuple(_WEIGHTS)
_MESSAGES = {"batch": BATCH, "group": ENDPOINTS, "storm": STORM}
"""How many messages come of one draw, where it is not one."""
_DEDUPLICATED = 0.3
"""How many have a deduplication id of their own, where not all have."""


def parallelism_of_queues(profile: str) -> dict[str, int]:
    """The queues that have not a parallelism of 1."""
    return dict.fromkeys(WIDE_QUEUES, WIDTH) if profile == "full" else {}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the API and the messages that it is about, whose intents are dated when it is sent.

    `cancel_after` is how long after the answer its message is cancelled.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    intents: tuple[Intent, ...]
    cancel_after: float | None = None

    @property
    def can_be_repeated(self) -> bool:
        """A second copy would be recognized."""
        return all(intent.deduplication is not None for intent in self.intents)


class Mix:
    """Draws asks. The same seed gives the same ones, whatever becomes of them."""

    def __init__(
        self, seed: int, profile: str, *, sink_port: int, destinations: int, first_op: int, always_repeatable: bool
    ) -> None:
        self.run = seed
        self._random = Random(f"{seed}/{first_op}")
        self._port = sink_port
        self._destinations = destinations
        self._op = first_op
        self._deduplicated = 1.0 if always_repeatable else _DEDUPLICATED
        weights = _WEIGHTS[profile]
        self._kinds = list(weights)
        self._weights = [weight / _MESSAGES.get(kind, 1) for kind, weight in weights.items()]

    def draw(self) -> list[Ask]:
        """What is asked next, at once."""
        kind = self._random.choices(self._kinds, self._weights)[0]
        match kind:
            case "batch":
                return [self._batch()]
            case "group":
                return [self._group()]
            case "storm":
                shared = f"storm-{self.run}-{self._op}"
                return [self._one("plain", deduplication=shared) for _ in range(STORM)]
        return [self._one(kind)]

    def endpoints(self, group: str) -> list[str]:
        """The URLs of a URL group."""
        first = GROUPS.index(group) * ENDPOINTS
        return [
            self.url(f"{bodies.GROUP}/{number}", (first + number) % self._destinations) for number in range(ENDPOINTS)
        ]

    def url(self, path: str, destination: int | None = None) -> str:
        """A path at one of the destinations."""
        number = self._random.randrange(self._destinations) if destination is None else destination
        return f"http://127.0.1.{number + 1}:{self._port}/{path}"

    def _next_op(self) -> int:
        self._op += 1
        return self._op - 1

    def _one(self, kind: str, deduplication: str | None = None) -> Ask:
        op = self._next_op()
        intent, headers, cancel_after = self._options(op, kind, deduplication)
        way = "publish"
        if intent.queue is not None:
            way = f"enqueue/{intent.queue}"
        path = f"/v2/{way}/{self.url(f'{bodies.MESSAGE}/{op}')}"
        return Ask(path, headers, self._body(op, intent, kind), (intent,), cancel_after)

    def _group(self) -> Ask:
        first = self._next_op()
        self._op += ENDPOINTS - 1
        intent, headers, _ = self._options(first, "group", None)
        intents = tuple(
            replace(
                intent,
                op=first + n,
                deduplication=None if intent.deduplication is None else f"{intent.deduplication}#{n}",
            )
            for n in range(ENDPOINTS)
        )
        body = self._body(first, intent, "group")
        return Ask(f"/v2/publish/{self._random.choice(GROUPS)}", headers, body, intents)

    def _batch(self) -> Ask:
        items, intents = [], []
        for number in range(BATCH):
            op = self._next_op()
            intent, headers, _ = self._options(op, "queue" if number == 2 else "plain", None)
            body = self._body(op, intent, "batch")
            item = {"destination": self.url(f"{bodies.MESSAGE}/{op}"), "headers": headers, "body": body.decode()}
            if intent.queue is not None:
                item["queue"] = intent.queue
            items.append(item)
            intents.append(intent)
        return Ask("/v2/batch", {"Content-Type": "application/json"}, orjson.dumps(items), tuple(intents))

    def _options(self, op: int, kind: str, deduplication: str | None) -> tuple[Intent, dict[str, str], float | None]:
        """What is asked for, the headers that say so, and when it is to be cancelled."""
        draw = self._random
        retries = draw.randint(2, 5)
        intent = Intent(op=op, at=0.0, retries=retries)
        retry_delay = draw.choice(("100", "200", "100 * (1 + retried)"))
        headers = {"Upstash-Retries": str(retries), "Upstash-Retry-Delay": retry_delay}
        cancel_after = None
        if deduplication is None and draw.random() < self._deduplicated:
            deduplication = f"chaos-{self.run}-{op}"
        if deduplication is not None:
            headers["Upstash-Deduplication-Id"] = deduplication
            intent = replace(intent, deduplication=deduplication)
        if kind == "queue" or (kind == "callback" and draw.random() < 0.25):
            intent = replace(intent, queue=draw.choice(FIFO_QUEUES + WIDE_QUEUES))
        match kind:
            case "flow":
                intent = self._flow(intent)
                limit = (
                    f"parallelism={intent.parallelism}"
                    if intent.rate is None
                    else f"rate={RATE}, period={int(PERIOD)}s"
                )
                headers |= {"Upstash-Flow-Control-Key": str(intent.flow_key), "Upstash-Flow-Control-Value": limit}
            case "delayed" | "cancel":
                seconds = draw.randint(1, 5 if kind == "delayed" else 2)
                headers["Upstash-Delay"] = f"{seconds}s"
                intent = replace(intent, delay=float(seconds))
                cancel_after = seconds + draw.uniform(-0.5, 0.3) if kind == "cancel" else None
            case "callback":
                headers |= self._callbacks(op)
                intent = replace(intent, callback=True)
        return intent, headers, cancel_after

    def _flow(self, intent: Intent) -> Intent:
        parallelism = self._random.choice((1, 2, 3, 4, 5, 0, 0, 0, 0, 0))
        if parallelism:
            return replace(intent, flow_key=f"narrow-{parallelism}", parallelism=parallelism)
        return replace(intent, flow_key=f"paced-{self._random.randrange(2)}", rate=RATE, period=PERIOD)

    def _callbacks(self, op: int) -> dict[str, str]:
        found = {}
        for name, path in (("Callback", bodies.CALLBACK), ("Failure-Callback", bodies.FAILED)):
            found[f"Upstash-{name}"] = self.url(f"{path}/{op}")
            found[f"Upstash-{name}-Retries"] = "8"
            found[f"Upstash-{name}-Retry-Delay"] = "100"
        return found

    def _body(self, op: int, intent: Intent, kind: str) -> bytes:
        told = "queue" if intent.queue is not None else kind
        length = int(self._random.paretovariate(1.2) * 50) % 20_000
        return bodies.body(bodies.Content(self.run, op, told), "x" * length)
