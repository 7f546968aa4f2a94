"""From a host name to addresses that the policy allows, and that are then dialled as they are."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf

from postroad.domain.destination import Url
from postroad.domain.network import OF_TENANT, Policy, parse_policy
from postroad.errors import InvalidValue
from postroad.own_places import OwnPlaces

LOOKUPS_AT_A_TIME = 16
"""Of names that had an answer before, and as many of all others."""

MAX_ADDRESSES = 128
"""Of one name. Each is vetted for each port and policy, so thousands of them would hold up everybody."""

MAX_CACHED = 10_000
MAX_VERDICTS = 20
"""Ports and policies for which the verdict on one host is remembered."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Allowed addresses in the order to try them, as (family, numeric address)."""

    items: tuple[tuple[socket.AddressFamily, str], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The policy forbids an address of this host, and with it the host. The reason is one sentence."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The name has no address, or, if `temporary`, nobody could say."""

    reason: str
    temporary: bool


Resolution = Addresses | Refusal | Unresolved

Answer = Addresses | Unresolved
"""Of a name server: not vetted yet."""

LookUp = Callable[[str], Sequence[str]]
"""All addresses of a host name as numeric text; blocks. Raises socket.gaierror."""


def look_up(host: str) -> Sequence[str]:
    """All A and AAAA records of the name, in the order of the operating system's preference (RFC 6724)."""
    # As bytes, so that Python's own IDNA rules have no say in names that are ASCII already.
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


Case = int | tuple[int, str]
"""A port under the node's policy, or under that of a tenant."""


@dataclass(slots=True)
class _Known:
    """What was found for a host, until when that holds, and what it means in each case."""

    until: float
    answer: Answer
    resolutions: dict[Case, Resolution] = field(default_factory=dict)


class Resolver:
    """Cached look-ups, shared by all tenants, and their verdicts under each one's policy. Belongs to one event loop."""

    def __init__(
        self,
        policy: Policy,
        *,
        own_places: OwnPlaces | None = None,
        ttl: float = 30.0,
        negative_ttl: float = 2.0,
        timeout: float = 5.0,
        look_up: LookUp = look_up,
    ) -> None:
        self._policy = policy
        self._own_places = own_places or OwnPlaces()
        self._ttl, self._negative_ttl, self._timeout = ttl, negative_ttl, timeout
        self._look_up = look_up
        # Threads of our own: a name server that does not answer must not hold up the default executor's other users.
        # Nor names that had an answer when they were looked up last: anybody can make up names that take for ever.
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_A_TIME, thread_name_prefix="resolver")
        self._threads_of_proven = ThreadPoolExecutor(LOOKUPS_AT_A_TIME, thread_name_prefix="resolver-proven")
        self._known: dict[str, _Known] = {}
        self._under_way: dict[str, asyncio.Future[Answer]] = {}

    def known(self, url: Url, policy: str | None = None) -> Resolution | None:
        """The answer if it needs no waiting: the host is an address, or was looked up a moment ago.

        `policy` is the text of the tenant's own, which counts in the place of the node's.
        """
        found = self._known.get(url.host)
        if found is None and _is_address(url.host):
            found = self._remember(url.host, _addresses([url.host]), inf)
        if found is None or (found.until != inf and found.until <= asyncio.get_running_loop().time()):
            return None
        return self._resolution(url, policy, found.answer, found.resolutions)

    async def resolve(self, url: Url, policy: str | None = None) -> Resolution:
        """The answer, looked up if need be. Requests for one name at a time share one look-up."""
        if self._own_places.may_be_on(url.port):
            await self._own_places.refresh()
        resolution = self.known(url, policy)
        if resolution is not None:
            return resolution
        under_way = self._under_way.get(url.host) or self._start(url.host)
        # A waiter that is cancelled must not take the look-up from the others.
        return self._resolution(url, policy, await asyncio.shield(under_way), {})

    def _start(self, host: str) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        before = self._known.get(host)
        proven = before is not None and not isinstance(before.answer, Unresolved)
        threads = self._threads_of_proven if proven else self._threads
        looking = loop.run_in_executor(threads, self._look_up, host)

        def end(answer: Answer) -> None:
            timer.cancel()
            if not answered.done():
                del self._under_way[host]
                ttl = self._negative_ttl if isinstance(answer, Unresolved) else self._ttl
                self._remember(host, answer, loop.time() + ttl)
                answered.set_result(answer)

        def expire() -> None:
            looking.cancel()  # which spares it a thread if it has none yet
            end(_unresolved(host, f"timed out after {self._timeout:g} s", temporary=True))

        timer = loop.call_later(self._timeout, expire)
        looking.add_done_callback(lambda looking: None if looking.cancelled() else end(_answer(host, looking)))
        self._under_way[host] = answered
        return answered

    def _remember(self, host: str, answer: Answer, until: float) -> _Known:
        self._known.pop(host, None)  # so that its place is that of its last look-up
        if len(self._known) >= MAX_CACHED:
            # Dropping the oldest half now and then is simpler than an order of use, and as good for names in use.
            for old in list(self._known)[: MAX_CACHED // 2]:
                del self._known[old]
        found = self._known[host] = _Known(until, answer)
        return found

    def _resolution(
        self, url: Url, policy: str | None, answer: Answer, resolutions: dict[Case, Resolution]
    ) -> Resolution:
        case = url.port if policy is None else (url.port, policy)
        resolution = resolutions.get(case)
        if resolution is None:
            resolution = answer if isinstance(answer, Unresolved) else self._vetted(url, policy, answer)
            if self._own_places.may_be_on(url.port) and _is_address(url.host):
                return resolution  # for now: this machine's own addresses change, and an address is known for ever
            if len(resolutions) >= MAX_VERDICTS:
                resolutions.clear()
            resolutions[case] = resolution
        return resolution

    def _vetted(self, url: Url, policy: str | None, addresses: Addresses) -> Addresses | Refusal:
        """The addresses if every one of them is allowed: a name must not hide a forbidden address among others."""
        try:
            rules = self._policy if policy is None else parse_policy(policy, OF_TENANT)
        except InvalidValue:
            return Refusal(f"the list of destinations of this tenant cannot be read ({OF_TENANT} sets it)")
        for _, text in addresses.items:
            address = ip_address(text)
            reason = rules.refusal(url.host, url.port, address)
            if reason is None and self._own_places.hold(url.host, url.port, address):
                reason = f"endpoint is this server itself: {address}"
            if reason is not None:
                return Refusal(reason)
        return addresses


def _answer(host: str, looking: asyncio.Future[Sequence[str]]) -> Answer:
    match looking.exception():
        case None:
            found = looking.result()
            if len(found) > MAX_ADDRESSES:
                return _unresolved(host, f"more than {MAX_ADDRESSES} addresses", temporary=False)
            return _addresses(found) if found else _unresolved(host, "no such host", temporary=False)
        case socket.gaierror(errno=socket.EAI_NONAME | socket.EAI_NODATA):
            return _unresolved(host, "no such host", temporary=False)
        case error:
            # EAI_AGAIN and its like, and whatever else comes out of the C library's depths.
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return _unresolved(host, why, temporary=True)


def _addresses(texts: Sequence[str]) -> Addresses:
    return Addresses(tuple([(socket.AF_INET6 if ":" in text else socket.AF_INET, text) for text in texts]))


def _unresolved(host: str, why: str, *, temporary: bool) -> Unresolved:
    return Unresolved(f"unable to resolve host: lookup {host}: {why}", temporary)


def _is_address(host: str) -> bool:
    # `Url.host` is canonical: only an IPv6 address holds a colon, only an IPv4 address ends in a number.
    return ":" in host or host.rpartition(".")[2].isdigit()
