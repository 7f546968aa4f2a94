"""How secrets stand in rows: sealed by the vault of the connection that they come over, or as they are.

In a row that names a data key, `bytea` columns hold a sealed value, `jsonb` ones a JSON string with it in base64, and
text the base64. What is empty is not sealed. Whatever a statement has to look into stays as it is: of a message's
options only the callbacks, which hold headers, are sealed.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import orjson

from postroad.domain.reply import Headers
from postroad.domain.tenant import SigningKeys, TenantId
from postroad.store.connecting import Row
from postroad.vault import OVERHEAD, Vault, place

_CALLBACKS = ("callback", "failure_callback")
_SEALED = "sealed"


def seal_json(vault: Vault, text: str | None, where: bytes) -> str | None:
    """A JSON text for a `jsonb` column."""
    return None if text is None else f'"{vault.seal_text(text, where)}"'


def open_json(vault: Vault, text: str | None, number: int | None, where: bytes) -> str | None:
    """The inverse. Raises as `Vault.open` does, like all that open here."""
    if text is None or number is None or not text.startswith('"'):
        return text
    return vault.open_text(text[1:-1], number, where)


def seal_bytes(vault: Vault, value: bytes | None, where: bytes) -> bytes | None:
    """A value for a `bytea` column."""
    return vault.seal(value, where) if value else value


def open_bytes(vault: Vault, value: bytes | None, number: int | None, where: bytes) -> bytes | None:
    """The inverse."""
    return value if not value or number is None else vault.open(value, number, where)


def plain_size(size: int, number: int | None) -> int:
    """How long a value is that takes so much in its column."""
    return size if number is None else max(0, size - OVERHEAD)


# Messages.


class Places(NamedTuple):
    """Where the secrets of a message stand. The URL is a part of it: they cannot be had sent elsewhere."""

    header: bytes
    body: bytes
    callbacks: bytes


def places(tenant_id: TenantId, message_id: UUID, url: str) -> Places:
    """The places of a message."""
    row = place("", tenant_id, message_id.bytes + url.encode())
    return Places(b"messages.header" + row, b"messages.body" + row, b"messages.callbacks" + row)


def seal_options(vault: Vault, text: str, where: bytes) -> str:
    """The options of a message, with the callbacks sealed."""
    if "callback" not in text:
        return text
    stored: dict[str, Any] = orjson.loads(text)
    callbacks = {name: stored.pop(name) for name in _CALLBACKS if name in stored}
    if callbacks:
        stored[_SEALED] = vault.seal_text(orjson.dumps(callbacks).decode(), where)
    return orjson.dumps(stored).decode()


def open_options(vault: Vault, text: str | None, number: int, where: bytes) -> str | None:
    """The inverse."""
    if text is None or f'"{_SEALED}"' not in text:
        return text
    stored: dict[str, Any] = orjson.loads(text)
    if _SEALED not in stored:
        # A flow-control key or an endpoint may be called so.
        return text
    callbacks = vault.open_text(str(stored.pop(_SEALED)), number, where)
    return orjson.dumps(stored | orjson.loads(callbacks)).decode()


# Signing keys.


def seal_keys(vault: Vault, keys: SigningKeys, tenant_id: TenantId) -> tuple[str, str, int | None]:
    """A pair of signing keys as it is stored, and the data key."""
    if vault.number is None:
        return keys.current, keys.next, None
    current, following = _key_places(tenant_id)
    return vault.seal_text(keys.current, current), vault.seal_text(keys.next, following), vault.number


def open_keys(vault: Vault, row: Row, tenant_id: TenantId) -> SigningKeys:
    """The pair in a row of `signing_keys`."""
    number = row["sealed"]
    if number is None:
        return SigningKeys(row["current_key"], row["next_key"])
    current, following = _key_places(tenant_id)
    return SigningKeys(
        vault.open_text(row["current_key"], number, current), vault.open_text(row["next_key"], number, following)
    )


def _key_places(tenant_id: TenantId) -> tuple[bytes, bytes]:
    return place("signing_keys.current_key", tenant_id, b""), place("signing_keys.next_key", tenant_id, b"")


# What destinations have answered: the same in `attempts` and in `dead_letters`.


def seal_response(
    vault: Vault, header: str | None, body: bytes | None, tenant_id: TenantId | None, message_id: UUID
) -> tuple[str | None, bytes | None]:
    """Headers and body of a response as they are stored."""
    if header is None and not body:
        return header, body
    assert tenant_id is not None
    header_at, body_at = _response_places(tenant_id, message_id)
    return seal_json(vault, header, header_at), seal_bytes(vault, body, body_at)


def open_response(
    vault: Vault,
    header: str | None,
    body: bytes | None,
    number: int | None,
    tenant_id: TenantId,
    message_id: UUID,
) -> tuple[Headers, bytes | None]:
    """The inverse, with the headers read."""
    if number is not None:
        header_at, body_at = _response_places(tenant_id, message_id)
        header = open_json(vault, header, number, header_at)
        body = open_bytes(vault, body, number, body_at)
    return tuple((name, value) for name, value in orjson.loads(header)) if header else (), body


def _response_places(tenant_id: TenantId, message_id: UUID) -> tuple[bytes, bytes]:
    row = message_id.bytes
    return place("response.header", tenant_id, row), place("response.body", tenant_id, row)


def report_place(name: str, tenant_id: TenantId, message_id: UUID) -> bytes:
    """The place of a part of a handler's report."""
    return place(f"reports.{name}", tenant_id, message_id.bytes)
