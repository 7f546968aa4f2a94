"""URL groups: one row each, changed under its lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import insert

from postroad.domain.limits import Limits
from postroad.domain.reply import Headers
from postroad.domain.tenant import TenantId
from postroad.domain.url_group import Endpoint, Reference, UrlGroup, remaining, upserted
from postroad.errors import NotFound, QuotaExceeded
from postroad.store.engine import Connection, Row, run, vault_of
from postroad.store.sealing import open_json, seal_json
from postroad.store.tables import tenants, url_groups
from postroad.vault import Vault, place

_group = url_groups.c
_COLUMNS = (
    _group.tenant_id,
    _group.name,
    _group.endpoints,
    _group.headers,
    _group.created_at,
    _group.updated_at,
    _group.sealed,
)


_FIND = """
select tenant_id, name, endpoints, headers, created_at, updated_at, sealed from url_groups
where tenant_id = $1 and name = any($2::text[])
"""


async def find(connection: Connection, tenant_id: TenantId, names: Sequence[str]) -> dict[str, UrlGroup]:
    """The groups among these names that there are."""
    rows = await connection.fetch(_FIND, tenant_id, names)
    return {row["name"]: _url_group(row, vault_of(connection)) for row in rows}


async def list_(connection: Connection, tenant_id: TenantId) -> list[UrlGroup]:
    """All groups of a tenant, the oldest first."""
    query = select(*_COLUMNS).where(_group.tenant_id == tenant_id).order_by(_group.id)
    return [_url_group(row, vault_of(connection)) for row in await run(connection, query)]


async def upsert(
    connection: Connection, tenant_id: TenantId, name: str, given: Sequence[Endpoint], *, limits: Limits
) -> None:
    """Give endpoints to a group, which is made when there is none; it stays locked until the transaction ends.

    What is at its limit already can still be changed. Raises `QuotaExceeded`.
    """
    group = await _locked(connection, tenant_id, name) or await _made(connection, tenant_id, name, limits)
    endpoints = upserted(group.endpoints, given)
    if len(endpoints) > max(limits.max_endpoints, len(group.endpoints)):
        raise QuotaExceeded("maxEndpoints", limits.max_endpoints)
    if endpoints != group.endpoints:
        await _save(connection, tenant_id, name, endpoints)


async def remove(connection: Connection, tenant_id: TenantId, name: str, removed: Iterable[Reference]) -> None:
    """Take endpoints out of a group, and the group away with its last one. Raises `NotFound`."""
    group = await _locked(connection, tenant_id, name)
    if group is None:
        raise NotFound("topic", name)
    endpoints = remaining(group.endpoints, removed)
    if not endpoints:
        await delete(connection, tenant_id, name)
    elif endpoints != group.endpoints:
        await _save(connection, tenant_id, name, endpoints)


async def set_fields(connection: Connection, tenant_id: TenantId, name: str, fields: Headers) -> bool:
    """Replace the default headers of a group; whether there is one."""
    vault = vault_of(connection)
    is_sealed = bool(fields) and vault.number is not None
    query = (
        url_groups.update()
        .where(*_is(tenant_id, name))
        .values(
            headers=vault.seal_text(orjson.dumps(fields).decode(), _headers_place(tenant_id, name))
            if is_sealed
            else [list(pair) for pair in fields],
            sealed=vault.number if is_sealed else None,
            updated_at=func.clock_timestamp(),
        )
        .returning(_group.id)
    )
    return bool(await run(connection, query))


async def delete(connection: Connection, tenant_id: TenantId, name: str) -> None:
    """Delete a group, if there is one."""
    await run(connection, url_groups.delete().where(*_is(tenant_id, name)))


async def _locked(connection: Connection, tenant_id: TenantId, name: str) -> UrlGroup | None:
    rows = await run(connection, select(*_COLUMNS).where(*_is(tenant_id, name)).with_for_update())
    return _url_group(rows[0], vault_of(connection)) if rows else None


async def _made(connection: Connection, tenant_id: TenantId, name: str, limits: Limits) -> UrlGroup:
    """A new group without endpoints, locked; or the one that somebody else made since it was looked for."""
    # One group at a time is made for a tenant, so that all of them together keep to the limit.
    await run(connection, select(tenants.c.id).where(tenants.c.id == tenant_id).with_for_update(key_share=True))
    new = insert(url_groups).values(tenant_id=tenant_id, name=name)
    # An update that changes nothing locks the row of others, and returns it as it is then.
    new = new.on_conflict_do_update(constraint="url_groups_name", set_={"name": new.excluded.name})
    group = _url_group((await run(connection, new.returning(*_COLUMNS)))[0], vault_of(connection))
    if not group.endpoints:
        counted = await run(connection, select(func.count().label("n")).where(_group.tenant_id == tenant_id))
        if counted[0]["n"] > limits.max_url_groups:
            raise QuotaExceeded("maxUrlGroups", limits.max_url_groups)
    return group


async def _save(connection: Connection, tenant_id: TenantId, name: str, endpoints: Sequence[Endpoint]) -> None:
    query = (
        url_groups.update()
        .where(*_is(tenant_id, name))
        .values(
            endpoints=[_stored(one) for one in endpoints],
            # Not now(), which is before the lock was waited for.
            updated_at=func.clock_timestamp(),
        )
    )
    await run(connection, query)


def _is(tenant_id: TenantId, name: str) -> list[ColumnElement[bool]]:
    return [_group.tenant_id == tenant_id, _group.name == name]


def seal_stored(vault: Vault, row: Row) -> str | None:
    """The default headers in a row that has them plain, for their column."""
    return seal_json(vault, row["headers"], _headers_place(row["tenant_id"], row["name"]))


def _headers_place(tenant_id: TenantId, name: str) -> bytes:
    return place("url_groups.headers", tenant_id, name.encode())


def _stored(endpoint: Endpoint) -> dict[str, str]:
    return {"url": endpoint.url} if endpoint.name is None else {"url": endpoint.url, "name": endpoint.name}


def _url_group(row: Row, vault: Vault) -> UrlGroup:
    endpoints: list[dict[str, Any]] = orjson.loads(row["endpoints"])
    headers = open_json(vault, row["headers"], row["sealed"], _headers_place(row["tenant_id"], row["name"]))
    return UrlGroup(
        name=row["name"],
        endpoints=tuple(Endpoint(one["url"], one.get("name")) for one in endpoints),
        fields=tuple((name, value) for name, value in orjson.loads(headers or "[]")),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
