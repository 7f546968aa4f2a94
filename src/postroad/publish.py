"""The way in: every message, whoever asks for it, becomes one here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from postroad.clock import Clock
from postroad.domain.destination import Url, destination_key, parse_url
from postroad.domain.ids import IdMint, MessageId
from postroad.domain.limits import Limits
from postroad.domain.message import Message, Options, Origin
from postroad.domain.publication import Publication, Request, deduplication_key, parse_options
from postroad.domain.tenant import TenantId
from postroad.domain.url_group import UrlGroup, is_group_name
from postroad.errors import EmptyDestination, InvalidDestination, NotFound
from postroad.resolver import Refusal, Resolver, Unresolved
from postroad.store import url_groups
from postroad.store.deliveries import Place
from postroad.store.engine import Connection
from postroad.store.messages import NewMessage, Stored, insert

LOOK_UP_S = 2.0
"""How long a publisher waits for the name server at most."""

LLM = "api/llm"


@dataclass(slots=True)
class Published:
    """The answer to a publish: the message's id, or that of the message which it duplicates."""

    id: MessageId
    url: str
    deduplicated: bool


class Publisher:
    """Turns requests into publications and those into messages, and stores them in the caller's transaction."""

    def __init__(
        self,
        *,
        clock: Clock,
        resolver: Resolver,
        limits: Limits,
        deduplication_window: timedelta,
        llm_url: str | None = None,
    ) -> None:
        self._clock = clock
        self._resolver = resolver
        self._limits = limits
        self._window = deduplication_window
        self._llm_url = llm_url
        self._mint = IdMint()

    async def groups(
        self, connection: Connection, tenant_id: TenantId, destinations: Iterable[str]
    ) -> dict[str, UrlGroup]:
        """The URL groups among destinations, by name. Raises `NotFound` for a name that is none."""
        names = {name for name in destinations if is_group_name(name)}
        if not names:
            return {}
        found = await url_groups.find(connection, tenant_id, sorted(names))
        for name in names - found.keys():
            raise NotFound("topic", name)
        return found

    def read(self, request: Request, groups: dict[str, UrlGroup]) -> list[Publication]:
        """What a request asks for: a publication, or one for each endpoint of a URL group.

        Headers of the request count more than the default headers of the group. Raises what `parse_options` raises, and
        `EmptyDestination` or `InvalidDestination`.
        """
        group = groups.get(request.destination)
        fields = request.fields
        if group is not None and group.fields:
            given = {name for name, _ in fields}
            fields = (*(pair for pair in group.fields if pair[0] not in given), *fields)
        options, deduplication = parse_options(fields, limits=self._limits, now_s=self._clock.now_s())

        def publication(url: str, origin: Origin) -> Publication:
            return Publication(url, request.body, options, deduplication, request.caller_ip, origin)

        if group is not None:
            return [publication(one.url, Origin(group.name, one.name, request.schedule_id)) for one in group.endpoints]
        if request.destination == LLM:
            if self._llm_url is None:
                raise InvalidDestination("api/llm leads nowhere, POSTROAD_LLM_URL is not set")
            return [publication(self._llm_url, Origin(schedule_id=request.schedule_id, api="llm"))]
        if request.schedule_id is not None:
            return [publication(request.destination, Origin(schedule_id=request.schedule_id))]
        return [Publication(request.destination, request.body, options, deduplication, request.caller_ip)]

    def unknown_urls(self, publication: Publication) -> list[Url]:
        """The URLs of a publication whose names have to be looked up first. Raises as `message` does."""
        return [url for url in self._urls_to_vet(publication) if self._resolver.known(url) is None]

    async def look_up(self, urls: Sequence[Url]) -> None:
        """Look up names, for a moment at most.

        A name that does not exist is then refused by `message`; when nobody can say, the attempt will find out.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_UP_S):
                await asyncio.gather(*(self._resolver.resolve(url) for url in urls))

    async def vet_url(self, text: str, *, field: str, policy: str | None) -> None:
        """Refuse a URL that an attempt under this policy would refuse. Raises `InvalidDestination`."""
        try:
            url = parse_url(text)
        except InvalidDestination as error:
            raise InvalidDestination(error.reason, field=field) from None
        if self._resolver.known(url) is None:
            await self.look_up([url])
        self._vet(url, field, policy)

    def message(
        self,
        tenant_id: TenantId,
        publication: Publication,
        *,
        policy: str | None,
        source_id: MessageId | None = None,
    ) -> NewMessage:
        """The message that a publication becomes; a callback that is published anew has the `source_id` that it had.

        What an attempt would refuse is refused here already, while the publisher listens; the attempt vets again what
        it dials. Endpoints of URL groups were vetted when they were added: one that has gone bad must not keep the
        message from the others. Raises `EmptyDestination` or `InvalidDestination`.
        """
        url = _url(publication.url)
        if publication.origin.url_group is None:
            self._vet(url, "destination url", policy)
        for callback in _callback_urls(publication.options):
            self._vet(callback, "callback url", policy)
        return self._new(tenant_id, url, publication, source_id)

    def unvetted(
        self,
        tenant_id: TenantId,
        publication: Publication,
        *,
        source_id: MessageId | None = None,
        place: Place | None = None,
    ) -> NewMessage:
        """The message of a callback or a schedule: its URLs were vetted when they were given to us."""
        return self._new(tenant_id, _url(publication.url), publication, source_id, place)

    async def store(
        self, connection: Connection, group: Sequence[NewMessage], *, dispatcher_id: int | None = None
    ) -> list[Stored]:
        """Store messages of any tenants; see `store.messages.insert`."""
        return await insert(connection, group, dispatcher_id=dispatcher_id, window=self._window)

    def _new(
        self,
        tenant_id: TenantId,
        url: Url,
        publication: Publication,
        source_id: MessageId | None = None,
        place: Place | None = None,
    ) -> NewMessage:
        message = Message(
            id=self._mint.message_id(self._clock.now_ms()),
            tenant_id=tenant_id,
            url=url.text,
            options=publication.options,
            body=publication.body,
            body_bytes=len(publication.body),
            caller_ip=publication.caller_ip,
            source_id=source_id,
            origin=publication.origin,
        )
        return NewMessage(message, destination_key(tenant_id, url), deduplication_key(publication), place=place)

    def _urls_to_vet(self, publication: Publication) -> list[Url]:
        own = [_url(publication.url)] if publication.origin.url_group is None else []
        return [*own, *_callback_urls(publication.options)]

    def _vet(self, url: Url, field: str, policy: str | None) -> None:
        match self._resolver.known(url, policy):
            case Refusal(reason) | Unresolved(reason, temporary=False):
                raise InvalidDestination(reason, field=field)


def callback_urls(options: Options, prefix: str = "Upstash-") -> Iterator[tuple[str, str]]:
    """The URLs of a message's callbacks, of their callbacks and so on, each with the header that names it."""
    for name, report in (("Callback", options.callback), ("Failure-Callback", options.failure_callback)):
        if report is not None:
            yield report.url, prefix + name
            yield from callback_urls(report.options, f"{prefix}{name}-")


def _callback_urls(options: Options) -> Sequence[Url]:
    if options.callback is None and options.failure_callback is None:
        return ()
    return [parse_url(url) for url, _ in callback_urls(options)]


def _url(destination: str) -> Url:
    if not destination:
        raise EmptyDestination
    return parse_url(destination)
