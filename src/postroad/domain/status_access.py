"""Who may see the status of one message, or report on it, without a token: whoever has a URL that we have signed.

The proof binds message, tenant, attempt, purpose and end. It is made with the tenant's signing key, so that every node
can check it and a rotation ends it; its prefix keeps it apart from all else that is signed with that key.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NoBase64
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from postroad.domain.ids import MessageId
from postroad.domain.tenant import TenantId

PARAMETER = "access"
LIFETIME_S = 7 * 24 * 3600
"""How long a handler may report after its attempt began, in seconds."""

_LAYOUT = struct.Struct(">BIQI")
_PROOF_BYTES = 16


class Purpose(IntEnum):
    """What a URL is for."""

    READ = 1
    REPORT = 2


@dataclass(frozen=True, slots=True)
class Access:
    """What a URL claims. `lease` is that of the attempt which may report, 0 in a URL to read."""

    purpose: Purpose
    tenant_id: TenantId
    lease: int
    until_s: int
    proof: bytes

    def is_proven(self, keys: Iterable[str], message_id: MessageId, now_s: float) -> bool:
        """Whether one of these keys has signed it for this message, and its time is not over."""
        claims = _LAYOUT.pack(self.purpose, self.tenant_id, self.lease, self.until_s)
        proofs = [_proof(key, claims, message_id) for key in keys]
        return now_s <= self.until_s and any(hmac.compare_digest(self.proof, proof) for proof in proofs)


def grant(
    key: str, message_id: MessageId, tenant_id: TenantId, *, purpose: Purpose, until_s: int, lease: int = 0
) -> str:
    """The value of the parameter that proves it. `until_s` is in Unix seconds."""
    claims = _LAYOUT.pack(purpose, tenant_id, lease, until_s)
    return _text(claims + _proof(key, claims, message_id))


def parse_access(text: str) -> Access | None:
    """What such a value claims; None for a text that none of ours looks like.

    Of all that base64 can be read from, only what `grant` writes: one value has one text.
    """
    try:
        value = urlsafe_b64decode(text.encode("ascii"))
        if _text(value) != text:
            return None
        purpose, tenant_id, lease, until_s = _LAYOUT.unpack(value[:-_PROOF_BYTES])
        return Access(Purpose(purpose), TenantId(tenant_id), lease, until_s, value[-_PROOF_BYTES:])
    except (ValueError, NoBase64, struct.error):
        return None


def _text(value: bytes) -> str:
    """Without padding, because 33 bytes need none."""
    return urlsafe_b64encode(value).decode()


def _proof(key: str, claims: bytes, message_id: MessageId) -> bytes:
    return hmac.digest(key.encode(), b"postroad status\n" + message_id.bytes + claims, "sha256")[:_PROOF_BYTES]
