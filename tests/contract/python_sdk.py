"""The official Python client, `qstash` 3.4, unmodified, in both of its forms."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from qstash import AsyncQStash, QStash
from qstash import Receiver as SignatureReceiver

from tests.contract.accounts import Account
from tests.contract.introspection import arguments_of, given, methods_of
from tests.contract.methods import Methods
from tests.receiver import Received

METHODS = Methods(f"qstash {version('qstash').rpartition('.')[0]}")
FORMS: dict[str, Callable[..., Any]] = {"QStash": QStash, "AsyncQStash": AsyncQStash}
VERIFY = "Receiver.verify"


def _all_methods() -> dict[str, Callable[..., Any]]:
    found = {f"{form}.{name}": method for form, make in FORMS.items() for name, method in methods_of(make("token"))}
    return found | {VERIFY: SignatureReceiver("current", "next").verify}


for _name, _method in _all_methods().items():
    METHODS.exist([_name], [f"{_name}({argument})" for argument in arguments_of(_method)])


class Sdk:
    """A client whose methods are called by name, in a thread if they would block the server's event loop."""

    def __init__(self, form: str, client: Any) -> None:
        self.form = form
        self._client = client

    async def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        method = attrgetter(name)(self._client)
        if inspect.iscoroutinefunction(method):
            answer = await method(*args, **kwargs)
        else:
            answer = await asyncio.to_thread(method, *args, **kwargs)
        METHODS.called(f"{self.form}.{name}", given(method, args, kwargs))
        return answer

    async def publish(self, way: str, /, **message: Any) -> Any:
        """Send one message, by whichever method does; a batch is a list of one."""
        if way.startswith("message.batch"):
            [answer] = await self(way, [message])
            return answer
        return await self(way, **message)


@pytest_asyncio.fixture(params=list(FORMS), loop_scope="module")
async def sdk(request: pytest.FixtureRequest, server: Account, tmp_path: Path) -> AsyncIterator[Sdk]:
    """The client as a user makes it: with a token and the server's address."""
    with pytest.MonkeyPatch.context() as environment:
        # Nothing here speaks TLS, and to read all the world's certificates takes longer than most of the tests.
        environment.delenv("SSL_CERT_FILE", raising=False)
        environment.setenv("SSL_CERT_DIR", str(tmp_path))
        client = FORMS[request.param](server.token, retry=False, base_url=server.url)
    yield Sdk(request.param, client)
    if isinstance(client, QStash):
        client.http._client.close()
    else:
        await client.http._client.aclose()


def verify(request: Received, url: str | None, current: str, following: str, *, body: str | None = None) -> None:
    """As an application verifies what it has got; raises `SignatureError`."""
    of_request = {
        "signature": request.header("Upstash-Signature") or "",
        "body": request.body.decode() if body is None else body,
        "url": url,
        "clock_tolerance": 0,
    }
    method = SignatureReceiver(current, following).verify
    method(**of_request)  # type: ignore[arg-type]  # the types of the arguments differ
    METHODS.called(VERIFY, given(method, (), of_request))
