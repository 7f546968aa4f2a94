"""What the routes work with, wired by `app`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from fastapi.responses import Response
from orjson import dumps

from postroad.api.auth import CallLimit
from postroad.api.bulk_worker import BulkWorker
from postroad.api.strangers import Strangers
from postroad.api.veil import veiled
from postroad.clock import Clock
from postroad.domain.ids import MessageId
from postroad.domain.limits import Limits
from postroad.domain.network import Network
from postroad.domain.tenant import TenantId
from postroad.event_feed import EventFeed
from postroad.intake import Intake
from postroad.publish import Publisher
from postroad.reporting import Reporting
from postroad.store.engine import Database
from postroad.store.retention import Retention
from postroad.tenancy import Tenancy
from postroad.watching import StatusWatch


class HandlersOfAttempts(Protocol):
    """What the API needs of whoever ends attempts that stay open; False or None is for one that does not any more."""

    async def acknowledge(
        self, tenant_id: TenantId, message_id: MessageId, lease: int | None, result: bytes | None
    ) -> bool: ...

    async def give_up(
        self,
        tenant_id: TenantId,
        message_id: MessageId,
        lease: int | None,
        reason: str,
        *,
        retry: bool,
        delay: timedelta | None,
    ) -> bool: ...

    async def prolong(
        self, tenant_id: TenantId, message_id: MessageId, lease: int | None, span: timedelta | None
    ) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """`expect` tells the local dispatcher that something falls due; `unready` lists why no traffic should come here.

    `call_limit` counts the calls that are no publishes; `strangers` finds the callers of tokens that are not at hand.
    `handlers` ends the attempts that handlers were left with; `public_url` is where they find this server.
    `settings` are variables with their values and meanings, to be shown to the operator; what is secret is masked.
    `dev` says that this is `postroad dev`, where time may be moved.
    """

    database: Database
    intake: Intake
    publisher: Publisher
    tenancy: Tenancy
    clock: Clock
    limits: Limits
    call_limit: CallLimit
    strangers: Strangers
    bulk_worker: BulkWorker
    trusted_proxies: tuple[Network, ...]
    message_linger: timedelta
    key_rotation_guard: timedelta
    expect: Callable[[timedelta], None]
    handlers: HandlersOfAttempts
    reporting: Reporting
    watch: StatusWatch
    feed: EventFeed
    public_url: str | None
    retention: Retention
    unready: Callable[[], Awaitable[list[str]]]
    settings: Sequence[tuple[str, str, str]] = ()
    dev: bool = False

    def wake(self) -> None:
        """Something may be due now."""
        self.expect(timedelta(0))


def json(content: Any, status: int = 200) -> Response:
    """A JSON answer, with what the caller may see."""
    return Response(dumps(veiled(content)), status, media_type="application/json")
