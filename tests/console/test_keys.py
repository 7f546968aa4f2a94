"""The page of signing keys."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from postroad.store import audits
from postroad.store.engine import Connection
from tests.builders import TENANT
from tests.conftest import KEYS, Running, Serve
from tests.console.conftest import said

FORMS = {"/console/keys/reveal": {}, "/console/keys/roll": {"force": "1"}}


@pytest.fixture
async def server(serve: Serve) -> Running:
    """A server that does not let keys be rolled twice within the hour."""
    return await serve(max_calls_per_second=0, key_rotation_guard=timedelta(hours=1))


async def noted(connection: Connection) -> list[str]:
    """The audit log of the tenant, the oldest entry first."""
    entries = await audits.page(connection, TENANT, before=None, limit=10)
    return [f"{one.actor}: {one.action}: {one.target}: {one.outcome}" for one in reversed(entries)]


async def keys(server: Running) -> dict[str, str]:
    return dict((await server.http.get("/v2/keys")).json())


async def test_keys_are_shown_when_asked_for_and_that_is_noted(
    visitor: httpx.AsyncClient, connection: Connection
) -> None:
    page = (await visitor.get("/console/keys")).text
    assert KEYS.current not in page
    assert KEYS.next not in page
    assert f"••••{KEYS.current[-4:]}" in page

    shown = await visitor.post("/console/keys/reveal")
    lines = f"QSTASH_CURRENT_SIGNING_KEY=&#34;{KEYS.current}&#34;\nQSTASH_NEXT_SIGNING_KEY=&#34;{KEYS.next}&#34;\n"
    assert (shown.status_code, lines in shown.text) == (200, True)
    assert shown.headers["cache-control"] == "no-store"
    [entry] = await noted(connection)
    assert "reveal the signing keys" in entry
    assert KEYS.current not in (await visitor.get("/console/keys")).text


async def test_keys_are_rolled_and_soon_again_by_force_only(
    visitor: httpx.AsyncClient, server: Running, connection: Connection
) -> None:
    page = await said(visitor, await visitor.post("/console/keys/roll"))
    assert "Rolled: the next key signs now." in page
    rolled = await keys(server)
    assert (rolled["current"], rolled["next"] != KEYS.next) == (KEYS.next, True)

    again = await visitor.post("/console/keys/roll")
    assert (again.status_code, "it is possible by force" in again.text) == (409, True)
    assert 'name="force"' in again.text
    assert "1h is refused unless it is forced" in page
    assert await keys(server) == rolled

    await visitor.post("/console/keys/roll", data={"force": "1"})
    assert (await keys(server))["current"] == rolled["next"]
    first, refused, forced = await noted(connection)
    assert ("roll the signing keys:" in first, first.endswith("done")) == (True, True)
    assert "refused: the signing keys were rotated" in refused
    assert ("by force" in forced, forced.endswith("done")) == (True, True)
    assert not any(key in first + refused + forced for key in (*rolled.values(), KEYS.current))


async def test_who_may_not_see_keys_is_refused(
    reader: httpx.AsyncClient, counter: httpx.AsyncClient, server: Running
) -> None:
    for client in (reader, counter):
        page = (await client.get("/console/keys")).text
        assert "may not see the keys" in page
        assert KEYS.current[-4:] not in page
        for path, data in FORMS.items():
            text = await said(client, await client.post(path, data=data))
            assert "may not do this" in text
            assert KEYS.current not in text
    assert (await keys(server))["current"] == KEYS.current
