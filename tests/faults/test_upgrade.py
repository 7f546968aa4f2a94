"""A node of one version beside a node of the next one, on either's schema, while messages come and go.

The next version is made here: this one, with a migration on top as docs/decisions/0008-upgrades.md wants them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import httpx

from postroad.store import migrations
from tests.conftest import TOKEN, eventually
from tests.faults.builds import Change, build
from tests.faults.cluster import POSTROAD, Cluster, environment
from tests.receiver import Receiver

NEXT = f"{int(migrations.newest()) + 1:04}"
MIGRATION = f'''
"""What a next version may need: it adds, and takes nothing away."""

from alembic import op

revision = "{NEXT}"
down_revision = "{migrations.newest()}"


def upgrade() -> None:
    op.execute("alter table deliveries add column priority smallint not null default 0")
    op.execute("alter table messages add column note text")
    op.execute("create index deliveries_by_priority on deliveries (priority, due_at) where state = 1")
    op.execute("create table notes (id bigint generated always as identity primary key, text text not null)")


def downgrade() -> None:
    raise NotImplementedError
'''


def next_version(directory: Path) -> dict[str, str]:
    """A build of it; gives what has to be in the environment of its processes."""
    oldest = f'OLDEST_SCHEMA = "{migrations.OLDEST_SCHEMA}"'
    variables = build(
        directory,
        [Change("store/migrations.py", oldest, f'OLDEST_SCHEMA = "{migrations.newest()}"')],
    )
    (directory / "migrations" / "versions" / f"{NEXT}_next.py").write_text(MIGRATION)
    return variables


async def migrate(settings: dict[str, str]) -> str:
    """`postroad migrate`; gives what it says."""
    process = await asyncio.create_subprocess_exec(
        str(POSTROAD), "migrate", env=environment(**settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


@asynccontextmanager
async def traffic(urls: list[str], receiver: Receiver, answers: Counter[int], ids: list[str]) -> AsyncIterator[None]:
    """Publishes all the time, through whichever node takes the connection."""

    async def publish() -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        kinds = ("publish", "enqueue/upgrades")
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            n = 0
            while True:
                n += 1
                for url in urls[n % len(urls) :] + urls[: n % len(urls)]:
                    try:
                        answer = await client.post(f"{url}/v2/{kinds[n % 5 == 0]}/{receiver.url()}", content=str(n))
                    except httpx.ConnectError:
                        continue
                    answers[answer.status_code] += 1
                    if answer.is_success:
                        ids.append(answer.json()["messageId"])
                    break
                await asyncio.sleep(0.02)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task  # which says why it ended, if it did so by itself


async def test_both_versions_work_on_both_schemas_under_traffic(
    database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    settings = {"POSTROAD_DATABASE_URL": database_url, "POSTROAD_TOKEN": TOKEN, "POSTROAD_DESTINATIONS": "any"}
    settings |= {"POSTROAD_ALLOW_DEV_CREDENTIALS": "true"}
    newer = settings | next_version(tmp_path / "next")
    old = Cluster(tmp_path / "old-nodes", nodes=1, seed=1, settings=settings)
    new = Cluster(tmp_path / "new-nodes", nodes=1, seed=1, settings=newer)
    answers: Counter[int] = Counter()
    ids: list[str] = []

    async def more(count: int = 25) -> None:
        enough = len(ids) + count
        await eventually(lambda: asyncio.sleep(0, len(ids)), lambda got: got >= enough, within=60)

    try:
        await old.start()
        async with traffic(old.urls + new.urls, receiver, answers, ids):
            await more()
            await new.start()  # the next version on the schema of this one
            await more()
            assert NEXT in await migrate(newer)
            await more()
            await old.nodes[0].stop()
            await old.nodes[0].start()  # this version on the schema of the next one
            await more()
            assert NEXT in await migrate(settings)  # this version's migrate leaves it as it is
            await new.nodes[0].stop()
            await more()
        await eventually(lambda: asyncio.sleep(0, len(receiver.requests())), lambda got: got >= len(ids), within=60)
        await old.stop()
    finally:
        await old.destroy()
        await new.destroy()

    assert set(answers) <= {200, 201}, answers
    assert Counter(request.header("Upstash-Message-Id") for request in receiver.requests()) == Counter(ids)
    assert old.troubles + new.troubles == []
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("select version_num from alembic_version") == NEXT
    await connection.close()


async def test_a_schema_that_has_left_this_version_behind_is_refused(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("update alembic_version set version_num = '9999'")
    await connection.execute("update schema_compatibility set oldest_program = '9998'")

    reason = await migrations.misfit(connection)

    assert reason is not None
    assert "run a newer version of postroad" in reason
    await connection.execute("update schema_compatibility set oldest_program = $1", migrations.newest())
    assert await migrations.misfit(connection) is None
    await connection.close()
