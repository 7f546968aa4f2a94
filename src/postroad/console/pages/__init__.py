"""The pages of the console: which there are, and who makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.responses import Response

from postroad.console.pages import (
    audit,
    dead_letters,
    flow,
    groups,
    keys,
    messages,
    overview,
    queues,
    schedules,
    send,
    settings,
    tenants,
    tokens,
    verify,
)


@dataclass(frozen=True, slots=True)
class Page:
    """What answers a method and a path, for somebody who is signed in."""

    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]


Routes = Sequence[tuple[str, str, Callable[..., Awaitable[Response]]]]

_ROUTES: Sequence[Routes] = (
    overview.ROUTES,
    messages.ROUTES,
    dead_letters.ROUTES,
    schedules.ROUTES,
    queues.ROUTES,
    flow.ROUTES,
    groups.ROUTES,
    send.ROUTES,
    verify.ROUTES,
    keys.ROUTES,
    tokens.ROUTES,
    tenants.ROUTES,
    audit.ROUTES,
    settings.ROUTES,
)
PAGES = tuple(Page(*one) for routes in _ROUTES for one in routes)
