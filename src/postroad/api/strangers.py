"""How many unknown tokens an address may try: whoever guesses has to wait, whoever is known does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from time import monotonic

from postroad.api.client_address import caller_ip
from postroad.domain.network import Network
from postroad.domain.tenant import Caller, Profile, TenantId, token_hash
from postroad.errors import TooManyGuesses, Unauthenticated
from postroad.tenancy import Tenancy

MOST_WRONG = 10
"""Different unknown tokens from one address in `PERIOD_S`; a process counts for itself."""

PERIOD_S = 60.0

_MOST_SOURCES = 10_000


@dataclass(slots=True)
class _Source:
    """What an address has tried since its first unknown token, and how many more it may try at once."""

    ends_at: float
    wrong: set[bytes] = field(default_factory=set)
    tries: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_WRONG))

    def refuse_if_locked(self) -> None:
        if len(self.wrong) >= MOST_WRONG and (left_s := self.ends_at - monotonic()) > 0:
            raise TooManyGuesses(ceil(left_s))


class Strangers:
    """Finds the callers of tokens that are not at hand.

    A token that was valid here before is looked up whatever else comes from its address, so that many can share one.
    All others are tried: after ten wrong ones nothing is looked up any more for the rest of the minute, not even a
    right one, or guessing would go on. The same wrong token again counts once: it is a mistake and no guess.
    """

    def __init__(self, tenancy: Tenancy, trusted_proxies: Sequence[Network]) -> None:
        self._tenancy = tenancy
        self._trusted_proxies = trusted_proxies
        self._sources: dict[str, _Source] = {}

    async def caller(
        self, token: str, client: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]
    ) -> Caller:
        """Who acts with this token. Raises `Unauthenticated` or `TooManyGuesses`."""
        if self._tenancy.has_seen(token):
            return await self._tenancy.caller(token)
        source = self._source(client, headers)
        source.refuse_if_locked()
        await source.tries.acquire()
        is_a_new_mistake = False
        try:
            source.refuse_if_locked()
            return await self._tenancy.caller(token)
        except Unauthenticated:
            digest = token_hash(token)
            is_a_new_mistake = digest not in source.wrong
            source.wrong.add(digest)
            raise
        finally:
            # A mistake keeps its place. With the last one all are given way, to be refused one after the other.
            if not is_a_new_mistake or len(source.wrong) >= MOST_WRONG:
                source.tries.release()

    def refuse_if_locked(self, client: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise `TooManyGuesses` for an address that has tried too much."""
        self._source(client, headers).refuse_if_locked()

    async def profile(
        self, tenant_id: TenantId, proof: str, client: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]
    ) -> Profile:
        """What a URL of ours says whose it is, with the keys that prove it. Raises as `caller` does.

        A tenant that there is not is a guess as a token is.
        """
        if (known := self._tenancy.known_profile(tenant_id)) is not None:
            return known
        source = self._source(client, headers)
        source.refuse_if_locked()
        try:
            return await self._tenancy.profile(tenant_id)
        except LookupError:
            source.wrong.add(token_hash(proof))
            raise Unauthenticated from None

    def _source(self, client: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]) -> _Source:
        name = _source_name(caller_ip(client[0] if client else None, headers, self._trusted_proxies))
        source = self._sources.get(name)
        now = monotonic()
        if source is None or source.ends_at <= now:
            # Anew at the end, so that the first one is always the oldest.
            self._sources.pop(name, None)
            if len(self._sources) >= _MOST_SOURCES:
                del self._sources[next(iter(self._sources))]
            source = self._sources[name] = _Source(now + PERIOD_S)
        return source


def _source_name(address: str | None) -> str:
    """The address, or of IPv6 the network of 64 bits: who has one of its addresses has all of them."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address or ""
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), 64), strict=False))
