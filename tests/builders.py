"""Things that tests need, made with as few words as the test has to say about them."""

from __future__ import annotations

import time
from typing import Any

from postroad.domain.destination import destination_key, parse_url
from postroad.domain.ids import IdMint
from postroad.domain.message import Message, Options
from postroad.domain.publication import Publication
from postroad.domain.tenant import TenantId
from postroad.store.messages import NewMessage

_mint = IdMint()

TENANT = TenantId(1)


def a_publication(destination: str = "http://127.0.0.1:9/x", body: bytes = b"body", **options: Any) -> Publication:
    """A publish of the default tenant's."""
    return Publication(destination, body, Options(**options))


def a_message(url: str = "http://127.0.0.1:9/x", body: bytes = b"body", **options: Any) -> Message:
    """A message with an id of now."""
    return Message(
        id=_mint.message_id(int(time.time() * 1000)),
        tenant_id=TENANT,
        url=url,
        options=Options(**options),
        body=body,
        body_bytes=len(body),
    )


def a_new_message(
    url: str = "http://127.0.0.1:9/x", *, mine: bool = False, key: bytes | None = None, **options: Any
) -> NewMessage:
    """A message on its way into the store."""
    return NewMessage(a_message(url, **options), destination_key(TENANT, parse_url(url)), key, mine)
