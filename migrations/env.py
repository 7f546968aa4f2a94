"""Runs the migrations on one connection: the one that is handed in, else one to POSTROAD_DATABASE_URL."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

from postroad.store.connecting import sqlalchemy_engine
from postroad.store.tables_of_console import metadata


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_configured() -> None:
    engine = sqlalchemy_engine(os.environ["POSTROAD_DATABASE_URL"])
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    asyncio.run(migrate_configured())
