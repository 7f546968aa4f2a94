"""A wire between a server and its PostgreSQL that a test can cut at the worst moment."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit


class DatabaseProxy:
    """Listens on a unix socket of its own and forwards to PostgreSQL's."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        where = parse_qs(self._parts.query)
        self._socket = f"{where['host'][0]}/.s.PGSQL.{where['port'][0]}"
        self._directory = tempfile.TemporaryDirectory(prefix="proxy-")
        self._marker: bytes | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.lost = asyncio.Event()
        self.refusing = False

    @property
    def url(self) -> str:
        """Where the database is to be found through this proxy."""
        query = urlencode({"host": self._directory.name, "port": 5432})
        return urlunsplit(self._parts._replace(query=query))

    def lose_answer_to(self, marker: bytes) -> None:
        """Let the next request that holds these bytes take effect, swallow its answer and cut the connection."""
        self._marker = marker
        self.lost.clear()

    def cut(self) -> None:
        """Cut every connection."""
        for task in self._connections:
            task.cancel()

    async def __aenter__(self) -> Self:
        path = Path(self._directory.name) / ".s.PGSQL.5432"
        self._server = await asyncio.start_unix_server(self._connected, str(path))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._directory.cleanup()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            back, there = await asyncio.open_unix_connection(self._socket)
            swallowing = asyncio.Event()
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._forward_requests(reader, there, swallowing))
                ways.create_task(self._forward_answers(back, writer, swallowing))
        except* (OSError, _CutError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.close()

    async def _forward_requests(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, swallowing: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 20):
            if self._marker is not None and self._marker in data:
                self._marker = None
                swallowing.set()
            there.write(data)
            await there.drain()
        raise _CutError

    async def _forward_answers(
        self, back: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowing: asyncio.Event
    ) -> None:
        while data := await back.read(1 << 20):
            if swallowing.is_set():
                self.lost.set()
                raise _CutError
            writer.write(data)
            await writer.drain()
        raise _CutError


class _CutError(Exception):
    """One side is gone, so the other goes too."""
