"""Who may act: tenants, their tokens and their signing keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import NewType

from postroad.errors import InvalidValue

TenantId = NewType("TenantId", int)

NO_TENANT = TenantId(0)
"""Whom an admin token acts for: nothing belongs to it."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class Access(StrEnum):
    """What a token may do. Admin ones manage tenants and belong to none of them.

    One for metadata reads as a read-only one does, but never sees bodies, headers, results and notes.
    """

    FULL = "full"
    READ_ONLY = "read-only"
    METADATA = "metadata"
    PUBLISH_ONLY = "publish-only"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who owns messages, tokens and signing keys, and what an operator has set for it.

    `failure_callback` is the URL where failures are reported of messages that do not say where; `parallelism` is how
    many of its deliveries are under way at a time, None for any number. `destinations` is where its messages may go;
    None in it and in the other limits leaves that to the settings of the server, 0 is no limit.
    """

    id: TenantId
    name: str
    created_at: datetime
    failure_callback: str | None = None
    parallelism: int | None = None
    destinations: str | None = None
    max_calls_per_second: int | None = None
    max_messages_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token. The token itself is not: only its hash and its last four characters are kept.

    `used_at` is at most a minute behind, None for one that nobody has used.
    """

    id: int
    tenant: str | None
    name: str
    access: Access
    last_four: str
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant on whose behalf a request acts, how far its token reaches, and what is set for it as in `Tenant`."""

    tenant_id: TenantId
    access: Access
    max_calls_per_second: int | None = None
    max_messages_per_day: int | None = None
    destinations: str | None = None


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The pair that receivers hold: `current` signs, `next` is what it will be after a rotation."""

    current: str
    next: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What every attempt of a tenant goes by; `failure_callback` and `destinations` as in `Tenant`."""

    keys: SigningKeys
    failure_callback: str | None = None
    destinations: str | None = None


def parse_tenant_name(text: str) -> str:
    """The name of a tenant that is about to be made. Raises `InvalidValue`."""
    if not _NAME.fullmatch(text):
        raise InvalidValue(text, "1 to 100 letters, digits, '-', '_' and '.'")
    return text


def token_hash(token: str) -> bytes:
    """What is stored of a token. Tokens have 256 random bits, so one round of SHA-256 is enough."""
    return sha256(token.encode()).digest()
