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
class Caller:
    """The tenant on whose behalf a request acts, and how far its token reaches."""

    tenant_id: TenantId
    access: Access


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The pair that receivers hold: `current` signs, `next` is what it will be after a rotation."""

    current: str
    next: str


def token_hash(token: str) -> bytes:
    """What is stored of a token. Tokens have 256 random bits, so one round of SHA-256 is enough."""
    return sha256(token.encode()).digest()
