"""One request of somebody who is signed in: what pages ask of the API, and how they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import orjson
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from postroad.api import admin
from postroad.api.context import Context
from postroad.console.gate import set_cookie
from postroad.console.inside import ApiRefusedError, Headers, Inside
from postroad.console.rendering import size
from postroad.console.runs import Runs
from postroad.domain.tenant import NO_TENANT, Access, Caller
from postroad.errors import PostroadError
from postroad.store import audits, tenants
from postroad.store.engine import Connection
from postroad.store.sessions import Session

SAID = "postroad_said"
"""The cookie that carries one sentence to the next page."""

THEMES = ("light", "dark")
_MOST_FORM_BYTES = 16 * 1024 * 1024
MOST_BYTES_OF_STRANGERS = 64 * 1024
"""What a form may be that anybody can send, signed in or not."""

_MOST_FIELDS = 10_000
_MOST_SAID_BYTES = 2_000
"""Browsers drop a cookie of more than 4 KB, and proxies refuse the answer that has one."""


@dataclass(slots=True)
class Form:
    """What was typed into a form: the last value of each name, and all of those that may be repeated."""

    pairs: Sequence[tuple[str, str]] = ()
    values: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.values = dict(self.pairs)

    def text(self, name: str, default: str = "") -> str:
        """A text without blanks around it."""
        return self.values.get(name, default).strip()

    def raw(self, name: str) -> str:
        """A text as it was typed, but for the line ends, which browsers change."""
        return self.values.get(name, "").replace("\r\n", "\n")

    def all(self, name: str) -> list[str]:
        """Every value of a name."""
        return [value for one, value in self.pairs if one == name]

    def has(self, name: str) -> bool:
        """Whether a box was ticked, or a button was the one that was pressed."""
        return name in self.values


class Visit:
    """Somebody who is signed in asks for a page, or presses a button on one."""

    def __init__(
        self,
        request: Request,
        session: Session,
        form: Form,
        *,
        inside: Inside,
        context: Context,
        runs: Runs,
        templates: Environment,
    ) -> None:
        self.request = request
        self.session = session
        self.form = form
        self.context = context
        self.runs = runs
        self._inside = inside
        self._templates = templates

    @property
    def may_change(self) -> bool:
        """Whether buttons are shown; the API refuses by itself."""
        return self.session.caller.access is Access.FULL

    @property
    def may_administer(self) -> bool:
        """Whether tenants and tokens may be managed: by an admin token, and by the operator."""
        return self.session.is_operator or self.session.caller.access is Access.ADMIN

    @property
    def sees_payloads(self) -> bool:
        """Whether there are bodies and headers to be shown."""
        return self.session.caller.access is not Access.METADATA

    def query(self, name: str, default: str = "") -> str:
        """A parameter of the URL."""
        return self.request.query_params.get(name, default)

    def offset(self) -> int:
        """How many rows of a list are passed over."""
        text = self.query("from")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        """A connection that sees the things of this tenant and can change nothing."""
        return self.context.database.reading(self.session.caller.tenant_id)

    async def get(self, path: str, /, **params: str | Sequence[str]) -> Any:
        """What the API shows. Raises `ApiRefusedError`."""
        return (await self._inside.ask(self._caller(path), "GET", path, params=params)).document

    async def find(self, path: str, /, **params: str | Sequence[str]) -> Any:
        """... None where there is no such thing."""
        try:
            return await self.get(path, **params)
        except ApiRefusedError as error:
            if error.status == 404:
                return None
            raise

    async def change(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | Sequence[str]] | None = None,
        document: Any = None,
        headers: Headers = (),
        content: bytes = b"",
        action: str | None = None,
        target: str = "",
        tenant: str | None = None,
    ) -> Any:
        """Have the API change something. With an `action` it is written into the audit log, refusals too.

        That is the log of the tenant that is looked at, or of the one that is named.
        """
        if document is not None:
            content, headers = orjson.dumps(document), (*headers, ("content-type", "application/json"))
        try:
            reply = await self._inside.ask(
                self._caller(path),
                method,
                path,
                params=params,
                headers=headers,
                content=content,
                address=self.request.client.host if self.request.client else None,
            )
        except ApiRefusedError as error:
            if action is not None:
                await self.note(action, target, f"refused: {error}", tenant=tenant)
            raise
        if action is not None:
            await self.note(action, target, "done", tenant=tenant)
        return reply.document

    async def note(self, action: str, target: str, outcome: str, *, tenant: str | None = None) -> None:
        """Write an entry into the audit log; into that of another tenant only for whoever manages tenants.

        For anybody else a name that a form brought would let them write there, and find out which tenants there are.
        """
        async with self.context.database.connection() as connection:
            named = tenant if self.may_administer else None
            tenant_id = None if named is None else await tenants.find(connection, named)
            await audits.add(
                connection,
                tenant_id or self.session.caller.tenant_id,
                actor=self.session.actor,
                action=action,
                target=target,
                outcome=outcome,
            )

    def _caller(self, path: str) -> Caller:
        """As whom the API is asked: the operator is an administrator as well, where only those may enter."""
        is_admin_api = path.startswith(f"{admin.PREFIX}/")
        return Caller(NO_TENANT, Access.ADMIN) if is_admin_api and self.session.is_operator else self.session.caller

    def page(self, template: str, *, http_status: int = 200, **values: Any) -> Response:
        """A page, or a piece of one."""
        said = said_in(self.request)
        html = self._templates.get_template(template).render(
            visit=self,
            session=self.session,
            path=self.request.url.path,
            theme=theme_of(self.request),
            said=said,
            is_dev=self.context.dev,
            **values,
        )
        answer = HTMLResponse(html, http_status)
        if said is not None:
            answer.delete_cookie(SAID, path="/console")
        return answer

    def go(self, path: str, said: str | None = None, *, failed: bool = False, **params: str) -> Response:
        """Show another page next, with a sentence about what was done."""
        answer = RedirectResponse(f"{path}?{urlencode(params)}" if params else path, 303)
        if said is not None:
            set_cookie(self.request, answer, SAID, _cut(("!" if failed else "+") + said), lasts=None)
        return answer


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence about what was done on the page before."""

    text: str
    failed: bool


def said_in(request: Request) -> Said | None:
    """What the page before has left to be said."""
    text = unquote(request.cookies.get(SAID, ""))
    return Said(text[1:], failed=text[0] == "!") if text else None


def theme_of(request: Request) -> str:
    """Light or dark where the visitor has chosen, else nothing."""
    theme = request.cookies.get("postroad_theme", "")
    return theme if theme in THEMES else ""


async def form_of(request: Request, *, most_bytes: int = _MOST_FORM_BYTES) -> Form:
    """What was typed. Raises `FormTooLargeError`."""
    gathered = bytearray()
    async for part in request.stream():
        gathered += part
        if len(gathered) > most_bytes:
            raise FormTooLargeError(size(most_bytes))
    text = gathered.decode("utf-8", "replace")
    if text.count("&") >= _MOST_FIELDS:
        # Taking a form apart that is nothing but fields would keep everybody waiting for seconds.
        raise FormTooLargeError(f"{_MOST_FIELDS:,} fields")
    return Form(parse_qsl(text, keep_blank_values=True))


def _cut(said: str) -> str:
    """A sentence as a cookie can hold it, cut between its characters if it is too long."""
    kept = said[: _MOST_SAID_BYTES + 1]
    if len(whole := quote(kept)) <= _MOST_SAID_BYTES:
        return whole
    while len(quoted := quote(f"{kept}…")) > _MOST_SAID_BYTES:
        # A character takes twelve bytes at most.
        kept = kept[: -max((len(quoted) - _MOST_SAID_BYTES) // 12, 1)]
    return quoted


class FormTooLargeError(PostroadError):
    """A form that nobody has typed."""

    def __init__(self, most: str) -> None:
        super().__init__(f"this form is too large: expected at most {most}")


class GoneError(PostroadError):
    """There is no such page, or nothing of this name any more."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was not found")
