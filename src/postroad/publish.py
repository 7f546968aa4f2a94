"""The way in: every message, whoever asks for it, becomes one here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from postroad.clock import Clock
from postroad.domain.destination import Url, destination_key, parse_url
from postroad.domain.ids import IdMint, MessageId
from postroad.domain.message import Message, Options
from postroad.domain.publication import Publication, deduplication_key
from postroad.domain.tenant import TenantId
from postroad.errors import EmptyDestination, InvalidDestination, NotFound
from postroad.resolver import Refusal, Resolver, Unresolved
from postroad.store.engine import Connection
from postroad.store.messages import NewMessage, Stored, insert

LOOK_UP_S = 2.0
"""How long a publisher waits for the name server at most."""

_GROUP_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(slots=True)
class Published:
    """The answer to a publish: the message's id, or that of the message which it duplicates."""

    id: MessageId
    url: str
    deduplicated: bool


class Publisher:
    """Turns publications into messages and stores them, in the caller's transaction."""

    def __init__(self, *, clock: Clock, resolver: Resolver, deduplication_window: timedelta) -> None:
        self._clock = clock
        self._resolver = resolver
        self._window = deduplication_window
        self._mint = IdMint()

    def unknown_urls(self, publication: Publication) -> list[Url]:
        """The URLs of a publication whose names have to be looked up first. Raises as `message` does."""
        urls = [_url(publication.destination), *_callback_urls(publication.options)]
        return [url for url in urls if self._resolver.known(url) is None]

    async def look_up(self, urls: Sequence[Url]) -> None:
        """Look up names, for a moment at most.

        A name that does not exist is then refused by `message`; when nobody can say, the attempt will find out.
        """
        for url in urls:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_UP_S):
                    await self._resolver.resolve(url)

    def message(self, tenant_id: TenantId, publication: Publication) -> NewMessage:
        """The message that a publication becomes.

        What an attempt would refuse is refused here already, while the publisher listens; the attempt vets again what
        it dials. Raises `EmptyDestination`, `InvalidDestination` or `NotFound`.
        """
        url = _url(publication.destination)
        self._vet(url, "destination url")
        for callback in _callback_urls(publication.options):
            self._vet(callback, "callback url")
        return self._new(tenant_id, url, publication, None)

    def report(self, tenant_id: TenantId, publication: Publication, *, source_id: MessageId) -> NewMessage:
        """The message that carries a callback; its URL was vetted when the source was published."""
        return self._new(tenant_id, parse_url(publication.destination), publication, source_id)

    async def store(
        self, connection: Connection, group: Sequence[NewMessage], *, dispatcher_id: int | None = None
    ) -> list[Stored]:
        """Store messages of any tenants; see `store.messages.insert`."""
        return await insert(connection, group, dispatcher_id=dispatcher_id, window=self._window)

    def _new(self, tenant_id: TenantId, url: Url, publication: Publication, source_id: MessageId | None) -> NewMessage:
        message = Message(
            id=self._mint.message_id(self._clock.now_ms()),
            tenant_id=tenant_id,
            url=url.text,
            options=publication.options,
            body=publication.body,
            body_bytes=len(publication.body),
            caller_ip=publication.caller_ip,
            source_id=source_id,
        )
        return NewMessage(message, destination_key(tenant_id, url), deduplication_key(publication, url.text))

    def _vet(self, url: Url, field: str) -> None:
        match self._resolver.known(url):
            case Refusal(reason) | Unresolved(reason, temporary=False):
                raise InvalidDestination(reason, field=field)


def _callback_urls(options: Options) -> Sequence[Url]:
    if options.callback is None and options.failure_callback is None:
        return ()
    return [parse_url(report.url) for report in (options.callback, options.failure_callback) if report is not None]


def _url(destination: str) -> Url:
    if not destination:
        raise EmptyDestination
    if "://" not in destination and _GROUP_NAME.fullmatch(destination):
        raise NotFound("topic", destination)
    return parse_url(destination)
