"""The dead letter queue: looked at, retried, deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from postroad.api.auth import Authentication
from postroad.api.context import Context, json
from postroad.api.documents import errors, found, parameters
from postroad.api.documents import page as page_of
from postroad.api.query import FILTERS, Query
from postroad.api.schemas import DEAD_LETTER
from postroad.api.wire import dead_letter_view
from postroad.domain.dead_letter import DeadLetter, dead_letter_number
from postroad.domain.ids import MessageId, message_text
from postroad.domain.publication import Publication, parse_overrides
from postroad.domain.tenant import Caller, TenantId
from postroad.errors import InvalidDestination, InvalidField, NotFound
from postroad.store import dead_letters, wall
from postroad.store.engine import Connection
from postroad.store.filters import Filters

MOST = 100
MOST_IDS = 1_000

_NOT_HERE = frozenset({"host", "path"})

_PUBLISHED = {"type": "object", "properties": {"messageId": {"type": "string"}}, "required": ["messageId"]}
_RETRIED = page_of(responses=_PUBLISHED)
_DELETED = {
    "type": "object",
    "properties": {"cursor": {"type": "string"}, "deleted": {"type": "integer"}},
    "required": ["deleted"],
}
_SELECTION = {
    "dlqIds": "ids, repeated or in a comma list; all other filters are passed over then",
    **{name: f"filter: {text}" for name, text in FILTERS.items() if name not in _NOT_HERE},
    "responseStatus": "filter: status of the last response, 0 for none",
    "source": "workflow, which matches nothing here",
    "cursor": "where the page before ended",
    "count": "at most so many, up to 100",
    "order": "latestFirst or earliestFirst",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters a bulk call is about, and how many of them at a time."""

    filters: Filters
    numbers: tuple[int, ...] | None
    statuses: tuple[int, ...] | None
    before: int | None
    count: int
    oldest_first: bool

    async def page(self, connection: Connection, tenant_id: TenantId) -> tuple[list[DeadLetter], str | None]:
        """The letters and the cursor of the page after them."""
        letters = await dead_letters.page(
            connection,
            tenant_id,
            self.filters,
            numbers=self.numbers,
            statuses=self.statuses,
            before=self.before,
            limit=self.count + 1,
            oldest_first=self.oldest_first,
        )
        more = len(letters) > self.count
        letters = letters[: self.count]
        return letters, letters[-1].id if more else None


def router(context: Context, auth: Authentication) -> APIRouter:
    """The routes under /v2/dlq."""
    routes = APIRouter(prefix="/v2/dlq", tags=["DLQ"])
    database = context.database

    @routes.get(
        "",
        summary="List dead letters",
        responses={**found(page_of(messages=DEAD_LETTER)), **errors(400, 401, 403, 503)},
        openapi_extra=parameters(**_SELECTION),
    )
    async def list_(request: Request, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """Dead letters, the newest first. `cursor` is absent on the last page."""
        selection = await _selection(Query.of(request))
        async with database.reading(caller.tenant_id) as connection:
            letters, cursor = await selection.page(connection, caller.tenant_id)
        return json(_page({"messages": [dead_letter_view(letter) for letter in letters]}, cursor))

    @routes.delete(
        "",
        summary="Delete dead letters",
        responses={**found(_DELETED), **errors(400, 401, 403, 413, 503)},
        openapi_extra=parameters(**_SELECTION),
    )
    async def delete_all(request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Delete by ids or filters, from the query or from the JSON body of older clients."""
        query = await Query.with_body(request)
        query.refuse_empty_id(request)
        selection = await _selection(query)
        delete_page = partial(_delete_page, tenant_id=caller.tenant_id, selection=selection)
        deleted, cursor = await database.repeated(delete_page, tenant_id=caller.tenant_id)
        return json(_page({"deleted": deleted}, cursor))

    @routes.post(
        "/retry",
        summary="Retry dead letters",
        status_code=201,
        responses={**found(_RETRIED, 201), **errors(400, 401, 403, 404, 412, 413, 503)},
        openapi_extra=parameters(**_SELECTION),
    )
    async def retry_all(request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Publish matching dead letters anew and remove them."""
        selection, fields = await _selection(await Query.with_body(request)), _fields(request)
        terms = _Terms(caller.tenant_id, fields, caller.destinations)
        retry_page = partial(_retry_page, context=context, terms=terms, selection=selection)
        retried = await database.repeated(retry_page, tenant_id=caller.tenant_id)
        if retried is None:
            raise NotFound("DLQ message", str(request.query_params.get("dlqIds", "")))
        ids, cursor = retried
        context.wake()
        responses = [{"messageId": message_text(identity)} for identity in ids]
        return json({"cursor": cursor or "", "responses": responses}, 201)

    @routes.post(
        "/retry/{dlq_id}",
        summary="Retry a dead letter",
        status_code=201,
        responses={**found(_PUBLISHED, 201), **errors(400, 401, 403, 404, 412, 503)},
    )
    async def retry(dlq_id: str, request: Request, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Publish a dead letter anew, under a new id, and remove it. `Upstash-*` headers override its options."""
        numbers, fields = [_number(dlq_id)], _fields(request)
        terms = _Terms(caller.tenant_id, fields, caller.destinations)
        retry_one = partial(_retry, context=context, terms=terms, numbers=numbers)
        ids = await database.repeated(retry_one, tenant_id=caller.tenant_id)
        if not ids:
            raise NotFound("DLQ message", dlq_id)
        context.wake()
        return json({"messageId": message_text(ids[0])}, 201)

    @routes.get(
        "/{dlq_id}", summary="Get a dead letter", responses={**found(DEAD_LETTER), **errors(401, 403, 404, 503)}
    )
    async def get(dlq_id: str, caller: Annotated[Caller, Depends(auth.reader)]) -> Response:
        """One dead letter."""
        selection = Selection(Filters(), (_number(dlq_id),), None, None, 1, oldest_first=False)
        async with database.reading(caller.tenant_id) as connection:
            letters, _ = await selection.page(connection, caller.tenant_id)
        if not letters:
            raise NotFound("DLQ message", dlq_id)
        return json(dead_letter_view(letters[0]))

    @routes.delete(
        "/{dlq_id}", summary="Delete a dead letter", response_class=Response, responses=errors(401, 403, 404, 503)
    )
    async def delete(dlq_id: str, caller: Annotated[Caller, Depends(auth.changer)]) -> Response:
        """Delete one dead letter."""
        delete_one = partial(dead_letters.delete, tenant_id=caller.tenant_id, numbers=[_number(dlq_id)])
        if not await database.repeated(delete_one, tenant_id=caller.tenant_id):
            raise NotFound("DLQ message", dlq_id)
        return Response(status_code=200)

    return routes


@dataclass(frozen=True, slots=True)
class _Terms:
    """On which a tenant's dead letters are retried: header fields that override theirs, and where messages may go."""

    tenant_id: TenantId
    fields: Sequence[tuple[str, str]]
    policy: str | None


async def _delete_page(connection: Connection, tenant_id: TenantId, selection: Selection) -> tuple[int, str | None]:
    letters, cursor = await selection.page(connection, tenant_id)
    return await dead_letters.delete(connection, tenant_id, [letter.number for letter in letters]), cursor


async def _retry_page(
    connection: Connection, context: Context, terms: _Terms, selection: Selection
) -> tuple[list[MessageId], str | None] | None:
    """The ids of the new messages, and the cursor; None when letters were named and there is none of them."""
    letters, cursor = await selection.page(connection, terms.tenant_id)
    if selection.numbers is not None and not letters:
        return None
    numbers = [letter.number for letter in letters]
    return await _retry(connection, context, terms, numbers, skip_refused=True), cursor


async def _retry(
    connection: Connection,
    context: Context,
    terms: _Terms,
    numbers: Sequence[int],
    *,
    skip_refused: bool = False,
) -> list[MessageId]:
    """Publish and remove in the caller's transaction, so that a letter is never both or neither.

    A letter whose destination is refused today, or that cannot be opened, stays where it is when there are others.
    """
    tenant_id = terms.tenant_id
    letters = await dead_letters.lock(connection, tenant_id, numbers)
    group, retried = [], []
    for letter in letters:
        message = letter.stored.message
        if message.unopened is not None:
            if not skip_refused:
                raise message.unopened
            continue
        options = parse_overrides(terms.fields, message.options, limits=context.limits, now_s=context.clock.now_s())
        publication = Publication(
            message.url, message.body or b"", options, caller_ip=message.caller_ip, origin=message.origin
        )
        try:
            new = context.publisher.message(tenant_id, publication, policy=terms.policy, source_id=message.source_id)
        except InvalidDestination:
            if not skip_refused:
                raise
        else:
            group.append(new)
            retried.append(letter.number)
    if group:
        await dead_letters.delete(connection, tenant_id, retried)
        # New messages are stored as those of all tenants are, with the tenant that each has in it.
        await wall.leave(connection)
        await context.publisher.store(connection, group)
    return [new.message.id for new in group]


def _fields(request: Request) -> list[tuple[str, str]]:
    return list(request.headers.items())


async def _selection(query: Query) -> Selection:
    texts = query.take_all("dlqIds")
    if texts is not None and len(texts) > MOST_IDS:
        raise InvalidField("dlqIds", f"{len(texts)} ids", f"at most {MOST_IDS} ids")
    statuses = query.take_all("responseStatus")
    source = query.take("source")
    if source not in (None, "workflow"):
        raise InvalidField("source", source, "workflow")
    cursor = query.take("cursor")
    order = query.take("order") or "latestFirst"
    if order not in ("latestFirst", "earliestFirst"):
        raise InvalidField("order", order, "latestFirst or earliestFirst")
    filters = await query.take_filters(but=_NOT_HERE)
    count = query.take_int("count", default=MOST, least=1, most=MOST)
    selection = Selection(
        # Where ids are given they count alone, all of them.
        filters=filters if texts is None else Filters(),
        numbers=None if texts is None else tuple(n for text in texts if (n := dead_letter_number(text)) is not None),
        # There are no workflows, and so no dead letters of theirs.
        statuses=() if source else None if statuses is None else tuple(_status(text) for text in statuses),
        before=_cursor(cursor) if cursor else None,
        count=count if texts is None else max(count, len(texts)),
        oldest_first=order == "earliestFirst",
    )
    query.ignore("trimBody")
    query.end()
    return selection


def _status(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 3:
        raise InvalidField("responseStatus", text, "an HTTP status")
    return int(text)


def _cursor(text: str) -> int:
    number = dead_letter_number(text)
    if number is None:
        raise InvalidField("cursor", text, "a cursor that an earlier page gave")
    return number


def _number(dlq_id: str) -> int:
    number = dead_letter_number(dlq_id)
    if number is None:
        raise NotFound("DLQ message", dlq_id)
    return number


def _page(content: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    return content if cursor is None else {"cursor": cursor, **content}
