"""A node in a process of its own, with a database in memory, for programs that measure or flood it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from postroad.dev import DEV_USERS
from postroad.store import embedded
from tests.faults.postgres import run_directory

POSTROAD = Path(sys.executable).with_name("postroad")


@dataclass(frozen=True)
class OwnNode:
    """The node, a client that speaks to it, and its database."""

    http: httpx.AsyncClient
    process: psutil.Process
    database_url: str

    def resident_bytes(self) -> int:
        """What it holds in memory now."""
        size: int = self.process.memory_info().rss
        return size


@asynccontextmanager
async def own_node(**settings: str) -> AsyncIterator[OwnNode]:
    """`postroad dev` on a free port; settings are named without `POSTROAD_`."""
    with run_directory(memory=True) as directory:
        async with _running(directory, settings) as node:
            yield node


@asynccontextmanager
async def _running(directory: Path, settings: dict[str, str]) -> AsyncIterator[OwnNode]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("POSTROAD_")}
    given = {"port": "0", "data_dir": str(directory / "data"), "destinations": "any", "log_level": "error"} | settings
    process = await asyncio.create_subprocess_exec(
        str(POSTROAD),
        "dev",
        env=ours | {f"POSTROAD_{name.upper()}": value for name, value in given.items()},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        url = await _until_ready(process)
        database_url = embedded.url_in_use(directory / "data")
        assert database_url is not None
        headers = {"Authorization": f"Bearer {DEV_USERS[0].token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            yield OwnNode(client, psutil.Process(process.pid), database_url)
    finally:
        if process.returncode is None:
            process.terminate()
            process.terminate()  # the second one does not wait for deliveries
        await process.wait()


async def _until_ready(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if found := re.search(r"running at (http://\S+)", line):
            return found[1]
    raise RuntimeError("the node did not start")
