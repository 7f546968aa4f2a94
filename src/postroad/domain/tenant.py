"""Who may act: tenants, their tokens and their signing keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NewType

TenantId = NewType("TenantId", int)


class Access(StrEnum):
    """What a token may do."""

    FULL = "full"
    READ_ONLY = "read-only"
    PUBLISH_ONLY = "publish-only"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who owns messages, tokens and signing keys, and what an operator has set for it.

    `failure_callback` is the URL where failures are reported of messages that do not say where; `parallelism` is how
    many of its deliveries are under way at a time, None for any number.
    """

    id: TenantId
    name: str
    failure_callback: str | None
    parallelism: int | None


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant on whose behalf a request acts, and how far its token reaches."""

    tenant_id: TenantId
    access: Access


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The pair that receivers hold: `current` signs, `next` is what it will be after a rotation."""

    current: str
    next: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What every attempt of a tenant goes by; `failure_callback` as in `Tenant`."""

    keys: SigningKeys
    failure_callback: str | None = None


def token_hash(token: str) -> bytes:
    """What is stored of a token. Tokens have 256 random bits, so one round of SHA-256 is enough."""
    return sha256(token.encode()).digest()
