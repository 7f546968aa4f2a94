"""A whole node under odd requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from time import monotonic

import httpx

from tests import endless
from tests.fuzz.requests import SQL, Sent, Texts, many_odd_texts, one_odd_text
from tests.security.own_node import own_node

AT_A_TIME = 8


@dataclass
class Answers:
    """How requests were answered, and those that should have been answered otherwise."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[tuple[Sent, str]] = field(default_factory=list)


async def answers(client: httpx.AsyncClient, requests: Iterable[Sent]) -> Answers:
    """Send them all, a few at a time."""
    found = Answers()
    waiting = iter(requests)

    async def send() -> None:
        for sent in waiting:
            try:
                request = sent.built(client)
            except (httpx.InvalidURL, ValueError):
                continue  # What no client sends.
            answer = await endless.send(client, request)
            found.statuses[answer.status_code] += 1
            if answer.status_code >= 500 or (answer.status_code >= 400 and not _says_why(answer)):
                found.wrong.append((sent, f"{answer.status_code} {answer.text[:200]}"))

    await asyncio.gather(*(send() for _ in range(AT_A_TIME)))
    return found


async def flood(seconds: float, seed: int) -> Answers:
    """Every text that databases know in every field of every endpoint, then odd texts until the time is over."""
    ends_at = monotonic() + seconds
    async with own_node(max_calls_per_second="0") as node:
        document = (await node.http.get("/openapi.json")).json()

        def requests() -> Iterator[Sent]:
            yield from one_odd_text(document, Texts(SQL, at_a_time=len(SQL)))
            random = Random(seed)
            while monotonic() < ends_at:
                yield many_odd_texts(document, random)

        return await answers(node.http, requests())


def _says_why(answer: httpx.Response) -> bool:
    try:
        return isinstance(answer.json()["error"], str)
    except (ValueError, KeyError, TypeError):
        return False
