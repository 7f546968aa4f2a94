"""Everything that a user, an operator or the database can make go wrong, as one tree.

    PostroadError
    ├── Refused                    the caller's doing: nothing was stored
    │   ├── InvalidValue           a parser's verdict, not yet tied to a field
    │   ├── InvalidField           ... tied to the header, parameter or field it came in
    │   ├── DelayedEnqueue
    │   ├── UnknownParameter
    │   ├── InvalidDestination
    │   ├── EmptyDestination
    │   ├── LimitExceeded
    │   ├── QuotaExceeded          ... of what a tenant may have of a thing
    │   ├── BodyTooLarge
    │   ├── UnsupportedCoding
    │   ├── RateExceeded           enough for now, with when it begins anew
    │   │   ├── TooManyCalls       ... in this second
    │   │   └── TooManyMessages    ... today
    │   ├── Unauthenticated
    │   ├── TooManyGuesses
    │   ├── Forbidden
    │   ├── OnlyInDevelopment
    │   ├── AlreadyExists
    │   ├── RotatedRecently
    │   ├── Over                   what was to be changed has gone on, or ended, meanwhile
    │   └── NotFound
    ├── Unavailable                ours: try again later
    │   ├── IntakeFull
    │   ├── TooManyWaiting         ... for changes of messages
    │   ├── StillRunning           what was asked for is not finished yet, and goes on
    │   ├── OutcomeUnknown         the rows may or may not have been stored
    │   ├── KeyMissing             what is stored is sealed, and this process has not the key
    │   └── DatabaseUnavailable
    ├── Unopenable                 what is stored is sealed, and has been changed since
    └── Misconfigured              the operator's doing: the process does not start

What a destination does is a value (`domain.attempt.Reply`), never an exception.
"""

from datetime import datetime


class PostroadError(Exception):
    """The root; every leaf carries the data its reader needs."""


class Refused(PostroadError):
    """The request cannot be accepted as it is; nothing was stored."""


class InvalidValue(Refused):
    """A text that a parser refuses. Whoever knows where it came from turns it into an `InvalidField`."""

    def __init__(self, value: str, expected: str) -> None:
        self.value, self.expected = value, expected
        super().__init__(f"{shown(value)}: expected {expected}")


class InvalidField(Refused):
    """A header, query parameter or body field with a value that is not allowed."""

    def __init__(self, field: str, value: str, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"invalid {field}: got {shown(value)}, expected {expected}")


class DelayedEnqueue(Refused):
    """A delay for a message that is enqueued, in QStash's words."""

    def __init__(self) -> None:
        super().__init__("Upstash-Not-Before/Upstash-Delay can not be used with enqueue")


class UnknownParameter(Refused):
    """A query parameter, or a field of a body, that means nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"unknown parameter {shown(name)}")


class InvalidDestination(Refused):
    """A destination that no request can be sent to. The wording of the reasons is QStash's where it is known."""

    def __init__(self, reason: str, *, field: str = "destination url") -> None:
        self.field, self.reason = field, reason
        super().__init__(f"invalid {field}: {reason}")


class EmptyDestination(Refused):
    """No destination at all."""

    def __init__(self) -> None:
        super().__init__("a non-empty destination must be provided")


class LimitExceeded(Refused):
    """A value above a limit of this server, in QStash's wording."""

    def __init__(self, quota: str, limit: int, *, field: str) -> None:
        self.quota, self.limit, self.field = quota, limit, field
        super().__init__(f"quota {quota} exceeded, current limit: {limit} (field: {field})")


class QuotaExceeded(Refused):
    """One more than a tenant may have, in QStash's wording."""

    def __init__(self, quota: str, limit: int) -> None:
        self.quota, self.limit = quota, limit
        super().__init__(f"quota {quota} exceeded, current limit: {limit}")


class BodyTooLarge(Refused):
    """A request body above the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"quota maxMessageSize exceeded, current limit: {limit_bytes} bytes (field: body)")


class UnsupportedCoding(Refused):
    """A compressed body where nobody would decompress it."""

    def __init__(self, coding: str, advice: str = "") -> None:
        self.coding = coding
        super().__init__(f"a body with Content-Encoding {shown(coding)} is not supported here{advice}")


class RateExceeded(Refused):
    """Of the `limit`, `remaining` are left until `resets_at_s`, in Unix seconds; that is not enough."""

    def __init__(self, text: str, limit: int, remaining: int, resets_at_s: int) -> None:
        self.limit, self.remaining, self.resets_at_s = limit, remaining, resets_at_s
        super().__init__(text)


class TooManyCalls(RateExceeded):
    """More calls of a tenant in this second than one process answers, publishes aside. The words are QStash's."""

    def __init__(self, limit: int, resets_at_s: int) -> None:
        super().__init__("rate limit exceeded", limit, 0, resets_at_s)


class TooManyMessages(RateExceeded):
    """More messages of a tenant than may be published in a day."""

    def __init__(self, limit: int, remaining: int, resets_at_s: int) -> None:
        super().__init__(f"quota maxMessagesPerDay exceeded, current limit: {limit}", limit, remaining, resets_at_s)


class Unauthenticated(Refused):
    """No token, or one that this server does not know."""

    def __init__(self) -> None:
        super().__init__("unable to authenticate: invalid token")


class TooManyGuesses(Refused):
    """An unknown token from where so many others came that nobody looks any more, for so many seconds."""

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__("too many unknown tokens came from this address, try again later")


class Forbidden(Refused):
    """A known token that may not do this."""

    def __init__(self, access: str) -> None:
        self.access = access
        super().__init__(f"this token is {access} and may not do this")


class OnlyInDevelopment(Refused):
    """What only a server that nobody depends on may do."""

    def __init__(self) -> None:
        super().__init__("the clock can be moved only under postroad dev")


class AlreadyExists(Refused):
    """Something by this name is there already."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"{kind} {shown(name, quote='')} exists already")


class RotatedRecently(Refused):
    """Another rotation of signing keys, so soon that receivers may not have the pair of the last one yet."""

    def __init__(self, rotated_at: datetime, again_at: datetime) -> None:
        self.rotated_at, self.again_at = rotated_at, again_at
        super().__init__(
            f"the signing keys were rotated at {rotated_at:%Y-%m-%dT%H:%M:%SZ} already, and another rotation would "
            "lock out receivers that have not got the new pair yet: it is possible by force, or from "
            f"{again_at:%Y-%m-%dT%H:%M:%SZ} on"
        )


class Over(Refused):
    """What was to be changed has gone on, or ended, meanwhile: the text says what."""


class NotFound(Refused):
    """No such thing for this tenant; another tenant's thing answers the same."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"{kind} {shown(name, quote='')} not found")


class Unavailable(PostroadError):
    """This server cannot take the request now."""

    retry_after_seconds = 1


class IntakeFull(Unavailable):
    """Too many publishes wait for their commit already."""

    def __init__(self) -> None:
        super().__init__("the server is at capacity, try again later")


class TooManyWaiting(Unavailable):
    """As many as one process lets wait for changes of messages do so already."""

    def __init__(self) -> None:
        super().__init__("too many wait for changes of messages here, ask without waiting or try again later")


class StillRunning(Unavailable):
    """A bulk action that takes longer than its request may wait for it."""

    def __init__(self, action_id: str) -> None:
        self.action_id = action_id
        super().__init__(
            f"bulk action {action_id} goes on in the background, GET /v2/bulkActions/{action_id} says how far it is"
        )


class OutcomeUnknown(Unavailable):
    """The database did not say whether the commit took place. What was stored, if anything, will be delivered."""

    def __init__(self) -> None:
        super().__init__(
            "the outcome of storing the message is unknown, publish again with a deduplication id to be safe"
        )


class KeyMissing(Unavailable):
    """A data key that no master key of this process opens, while others may have one that does."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"data key {number} is missing: POSTROAD_ENCRYPTION_KEY of this node does not open it")


class Unopenable(PostroadError):
    """A sealed value that is damaged, or that was sealed for another place."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"what was sealed with data key {number} cannot be opened: it is damaged, or out of its place")


class Damaged(PostroadError):
    """A row that says what no version of ours has written, or only a newer one."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"what is stored of the message cannot be read: {type(error).__name__}")


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached or refuses to work."""

    def __init__(self) -> None:
        super().__init__("the database is unavailable, try again later")


class Misconfigured(PostroadError):
    """A setting, or the database, is not fit for service. The sentence says what to change."""


def shown(value: str, quote: str = "'") -> str:
    """The value for an error text: cut at 100 characters, control characters made visible."""
    text = value if len(value) <= 100 else f"{value[:100]}…"
    return f"{quote}{''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)}{quote}"
