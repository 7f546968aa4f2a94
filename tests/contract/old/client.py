"""An older major of the official Python client, driven by lines of JSON; it runs beside the tests, not in them.

{"form": "QStash", "token": "...", "method": "queue.get", "args": ["q"], "kwargs": {}}
is answered with {"value": ..., "given": ["queue"]}, or with {"error": {"name": ..., "text": ...}}.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import enum
import inspect
import json
import sys
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import qstash
from tests.contract.introspection import arguments_of, given, methods_of


def main(base_url: str) -> None:
    """Answer one line after the other."""

    @cache
    def client(form: str, token: str) -> Any:
        return getattr(qstash, form)(token, retry=False, base_url=base_url)

    with asyncio.Runner() as loop:
        for line in sys.stdin:
            call = json.loads(line)
            try:
                if call["method"] == "methods":
                    answer: dict[str, Any] = {"value": _methods()}
                else:
                    answer = _called(_method(client, call), call, loop)
            except Exception as error:  # noqa: BLE001  whatever the client throws is the answer
                answer = {"error": {"name": type(error).__name__, "text": str(error)}}
            sys.stdout.write(json.dumps(answer, default=_encoded) + "\n")
            sys.stdout.flush()


def _methods() -> dict[str, list[str]]:
    """All methods, with their arguments."""
    forms = {form: getattr(qstash, form)("token") for form in ("QStash", "AsyncQStash")}
    found = {f"{form}.{name}": method for form, client in forms.items() for name, method in methods_of(client)}
    found["Receiver.verify"] = qstash.Receiver("current", "next").verify
    return {name: list(arguments_of(method)) for name, method in found.items()}


def _method(client: Callable[[str, str], Any], call: dict[str, Any]) -> Callable[..., Any]:
    if call["form"] == "Receiver":
        return qstash.Receiver(**call["keys"]).verify
    method: Callable[..., Any] = attrgetter(call["method"])(client(call["form"], call["token"]))
    return method


def _called(method: Callable[..., Any], call: dict[str, Any], loop: asyncio.Runner) -> dict[str, Any]:
    args, kwargs = _decoded(call["args"]), _decoded(call["kwargs"])
    # What the call is given is noted before the client has a chance to change it.
    names = list(given(method, args, kwargs))
    value = method(*args, **kwargs)
    if inspect.isawaitable(value):
        value = loop.run(_awaited(value))
    if hasattr(value, "aread"):
        value = loop.run(value.aread()) if call["form"] == "AsyncQStash" else value.read()
    return {"value": value, "given": names}


async def _awaited(value: Any) -> Any:
    return await value


def _decoded(value: Any) -> Any:
    """What JSON has no word for stands in an object with one name: bytes, states, and who offers a model."""
    match value:
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$state": name}:
            from qstash.event import EventState  # type: ignore[import-not-found]  # newer majors have no such module

            return EventState(name)
        case {"$provider": [base_url, token]}:
            from qstash.chat import custom

            return custom(base_url, token)
        case {"$provider": "upstash"}:
            from qstash.chat import upstash  # type: ignore[attr-defined]  # newer majors have no such function

            return upstash()
        case dict():
            return {name: _decoded(one) for name, one in value.items()}
        case list():
            return [_decoded(one) for one in value]
    return value


def _encoded(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"cannot say {value!r} in JSON")


if __name__ == "__main__":
    main(sys.argv[1])
