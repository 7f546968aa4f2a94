"""Sums of what goes on: whatever is counted, nothing of it gets into the way of deliveries."""

from __future__ import annotations

from datetime import timedelta

import pytest

from postroad.activity import MOST_CHARACTERS, MOST_HOSTS, NO_HOST, OTHERS, Activity, host_of
from postroad.domain.outcome import DELIVERED
from postroad.domain.tenant import TenantId
from postroad.store.engine import Connection, Database

TENANT = TenantId(1)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com/a/b?c=d", "api.example.com"),
        ("http://user:word@localhost:3000?x=//y", "localhost:3000"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://x", "x"),
        ("http://" + "x" * 5000, "x" * MOST_CHARACTERS),
        *((odd, NO_HOST) for odd in ("", "x", "http:/x", "://", "http:///x", "mailto:somebody", "/path")),
    ],
)
def test_every_text_has_a_host_or_none(url: str, host: str) -> None:
    assert host_of(url) == host


async def test_hosts_are_bounded_and_the_sums_are_whole(database: Database, connection: Connection) -> None:
    activity = Activity(database)
    for number in range(MOST_HOSTS + 100):
        activity.ended(TENANT, f"http://h{number}/x", DELIVERED, SECOND, None)
    activity.accepted(TENANT, 7)
    await activity.flush()
    await activity.flush()

    rows = {row["host"]: row for row in await connection.fetch("select * from activity")}
    assert len(rows) == MOST_HOSTS + 2
    assert rows[OTHERS]["delivered"] == 100
    assert (rows[""]["delivered"], rows[""]["accepted"], rows[""]["took_ms"]) == (
        MOST_HOSTS + 100,
        7,
        1000 * (MOST_HOSTS + 100),
    )
