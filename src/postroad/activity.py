"""How much goes on: what was accepted and what came of attempts, added up here and stored every few seconds.

It is for people who look at a console. A process that is killed takes the last seconds of it along; the log is what
counts, and knows every attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta

from postroad.domain.outcome import Delivered, Failed, Outcome, Retry
from postroad.domain.tenant import TenantId
from postroad.errors import Unavailable
from postroad.store import activity
from postroad.store.activity import EVERYTHING, Tally
from postroad.store.engine import Database, TryAgain

FLUSH_EVERY_S = 2.0
MOST_HOSTS = 500
"""That are told apart between two flushes; the others of a tenant count as one."""

OTHERS, NO_HOST = "(others)", "(none)"
MOST_CHARACTERS = 255

_MS = timedelta(milliseconds=1)

_log = logging.getLogger(__name__)


class Activity:
    """Counts of this process since they were last stored, by tenant and host."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tallies: dict[tuple[TenantId, str], Tally] = {}

    def accepted(self, tenant_id: TenantId, messages: int) -> None:
        """So many messages were stored."""
        self._tally(tenant_id, EVERYTHING).accepted += messages

    def ended(
        self, tenant_id: TenantId, url: str, outcome: Outcome, duration: timedelta, late: timedelta | None
    ) -> None:
        """An attempt was settled; `late` is how long after its time it began, for the first one of a message."""
        tally = self._tally(tenant_id, host_of(url))
        match outcome:
            case Delivered():
                tally.delivered += 1
            case Retry():
                tally.retried += 1
            case Failed():
                tally.failed += 1
        took_ms = duration // _MS
        tally.took_ms += took_ms
        if took_ms > tally.longest_ms:
            tally.longest_ms = took_ms
        if late is not None and (late_ms := late // _MS) > tally.late_ms:
            tally.late_ms = late_ms

    async def run(self) -> None:
        """Store what was counted, again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self.flush()
            except (Unavailable, TryAgain):
                pass
            except Exception:  # noqa: BLE001  sums for people to look at must not take the deliveries down with them
                _log.exception("what goes on could not be stored")

    async def flush(self) -> None:
        """Store what was counted. If the database is away, the counts stay for the next time."""
        counted, self._tallies = self._tallies, {}
        if not counted:
            return
        try:
            async with self._database.single() as connection:
                await activity.add(connection, _with_sums(counted))
        except (Unavailable, TryAgain) as error:
            _log.debug("what goes on is stored later: %s", error)
            for key, tally in counted.items():
                self._tally(*key).add(tally)
            raise

    def _tally(self, tenant_id: TenantId, host: str) -> Tally:
        key = (tenant_id, host)
        tally = self._tallies.get(key)
        if tally is None:
            if host and len(self._tallies) >= MOST_HOSTS:
                key = (tenant_id, OTHERS)
            tally = self._tallies.setdefault(key, Tally())
        return tally


def _with_sums(counted: Mapping[tuple[TenantId, str], Tally]) -> dict[tuple[TenantId, str], Tally]:
    """The counts of hosts with those of whole tenants, which are what was accepted and all hosts together."""
    every: dict[tuple[TenantId, str], Tally] = {}
    for (tenant_id, host), tally in counted.items():
        every.setdefault((tenant_id, EVERYTHING), Tally()).add(tally)
        if host:
            every[tenant_id, host] = tally
    return every


def host_of(url: str) -> str:
    """The host of a URL, with its port if it has one. A text that is no URL, as an old row may have it, has none."""
    return url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2][:MOST_CHARACTERS] or NO_HOST
