"""Query parameters: filters, pages and the old JSON bodies, read strictly.

An unknown filter on a bulk call would match everything, so it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson
from fastapi import Request

from postroad.api.auth import TOKEN_PARAMETER
from postroad.api.json_text import parsed
from postroad.domain.ids import MessageId, parse_message_id
from postroad.errors import BodyTooLarge, InvalidField, UnknownParameter, UnsupportedCoding
from postroad.store.filters import MESSAGE_FIELDS, Filters
from postroad.turns import Turns

_ALIASES = {"callerIP": "callerIp", "urlGroup": "topicName"}
_MOST_BODY_BYTES = 4 * 1024 * 1024
_LATEST_MS = 253_402_300_799_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


FILTERS = {
    "messageIds": "ids of messages",
    "url": "whole URLs",
    "host": "hosts of URLs, at any port or, as in api.example.com:8443, at one",
    "path": "paths of URLs",
    "label": "labels",
    "topicName": "names of URL groups",
    "queueName": "names of queues",
    "scheduleId": "ids of schedules",
    "flowControlKey": "flow-control keys",
    "callerIp": "addresses of publishers",
    "api": "llm, for what was sent to api/llm",
    "fromDate": "from this time on, Unix milliseconds",
    "toDate": "up to this time, Unix milliseconds",
}
"""What most lists can be filtered by. Several values, repeated or in a comma list, mean any of them."""


@dataclass(slots=True)
class Query:
    """The parameters of a request by name, each with all of its values; taken out as they are understood."""

    values: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> Query:
        """The parameters of the URL, the token aside."""
        query, text = cls(), request.url.query
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise InvalidField("query", text, "percent-encoded UTF-8") from None
        for name, value in pairs:
            if name != TOKEN_PARAMETER:
                query.add(name, value)
        return query

    @classmethod
    async def with_body(cls, request: Request) -> Query:
        """... and those of the JSON body that older clients send. An empty body says nothing."""
        query = cls.of(request)
        for name, value in (await document_of(request) or {}).items():
            # An empty list, or null, names nothing; it must never mean everything.
            query.values.setdefault(_ALIASES.get(name) or name, [])
            for item in value if isinstance(value, list) else [value]:
                if item is not None:
                    query.add(name, item if isinstance(item, str) else orjson.dumps(item).decode())
        return query

    def add(self, name: str, value: str) -> None:
        """One more value of a parameter. None of them has control characters, which Postgres would refuse."""
        if not value.isprintable():
            raise InvalidField(name, value, "printable characters")
        self.values.setdefault(_ALIASES.get(name, name), []).append(value)

    def take(self, name: str) -> str | None:
        """The last value of a parameter that has one."""
        values = self.values.pop(name, None)
        return values[-1] if values else None

    def take_all(self, *names: str) -> tuple[str, ...] | None:
        """All values of parameters that may be repeated or hold a comma list; None when there are none."""
        if not any(name in self.values for name in names):
            return None
        values = (part.strip() for name in names for text in self.values.pop(name, ()) for part in _split(name, text))
        return tuple(dict.fromkeys(value for value in values if value))

    def take_int(self, name: str, *, default: int, least: int, most: int) -> int:
        """An integer; what is above the most counts as the most."""
        text = self.take(name)
        if text is None or not text:
            return default
        if not (text.isascii() and text.isdigit()) or int(text[:18]) < least:
            raise InvalidField(name, text, f"an integer from {least} to {most}")
        return min(int(text[:18]), most)

    def take_instant(self, name: str) -> datetime | None:
        """Unix milliseconds. One that is there without a value would bound nothing, so it is refused."""
        if name not in self.values:
            return None
        text = self.take(name) or ""
        if not (text.isascii() and text.isdigit()) or len(text) > 15 or int(text) > _LATEST_MS:
            raise InvalidField(name, text, "a Unix time in milliseconds")
        return instant_of(int(text))

    def take_flag(self, name: str) -> bool:
        """A boolean that is false when absent."""
        text = self.take(name)
        match (text or "").lower():
            case "" | "false" | "0":
                return False
            case "true" | "1":
                return True
        raise InvalidField(name, text or "", "true or false")

    def take_most(self, name: str) -> int | None:
        """How many at most; None when it is absent. One without a value would bound nothing, so it is refused."""
        if self.values.get(name, ["1"])[-1:] in ([], [""]):
            raise InvalidField(name, "", "an integer of 1 or more")
        return self.take_int(name, default=0, least=1, most=2**31) or None

    async def take_message_ids(self) -> tuple[MessageId, ...] | None:
        """`messageId` and `messageIds`; ids that cannot exist are left out, so they match nothing."""
        texts = self.take_all("messageId", "messageIds")
        return None if texts is None else await known_ids(texts)

    async def take_filters(self, *, but: frozenset[str] = frozenset()) -> Filters:
        """Every filter on messages that is given, `but` those that this endpoint does not know."""
        until = self.take_instant("toDate")
        return Filters(
            message_ids=await self.take_message_ids(),
            values={
                name: values for name in sorted(MESSAGE_FIELDS - but) if (values := self.take_all(name)) is not None
            },
            since=self.take_instant("fromDate"),
            # Inclusive to the millisecond that the API shows of an instant.
            until=None if until is None else until + timedelta(microseconds=999),
        )

    def refuse_empty_id(self, request: Request) -> None:
        """Refuse `DELETE /v2/things/` without any condition: a client that had no id must not delete everything."""
        if not self.values and unquote_to_bytes(request.scope["raw_path"]).endswith(b"/"):
            raise InvalidField("id", "", "an id; to mean everything, leave out the slash at the end")

    def ignore(self, *names: str) -> None:
        """Take parameters that older clients send and that mean nothing here."""
        for name in names:
            self.values.pop(name, None)

    def end(self) -> None:
        """Refuse whatever was not understood."""
        for name in self.values:
            raise UnknownParameter(name)


async def document_of(request: Request, *, most_bytes: int = _MOST_BODY_BYTES) -> dict[str, Any] | None:
    """The JSON object in the body of a request, None for an empty body. Raises `BodyTooLarge` or `InvalidField`."""
    coding = request.headers.get("content-encoding", "").strip()
    if coding.lower() not in ("", "identity"):
        raise UnsupportedCoding(coding)
    gathered = bytearray()
    async for part in request.stream():
        gathered += part
        if len(gathered) > most_bytes:
            raise BodyTooLarge(most_bytes)
    body = bytes(gathered)
    if not body.strip():
        return None
    document = parsed(body, "a JSON object")
    if not isinstance(document, dict):
        raise InvalidField("body", body[:50].decode("utf-8", "replace"), "a JSON object")
    return document


async def known_ids(texts: Sequence[str]) -> tuple[MessageId, ...]:
    """The ids among the texts that could be a message's."""
    turns, ids = Turns(), []
    for text in texts:
        if (found := parse_message_id(text)) is not None:
            ids.append(found)
        await turns.step()
    return tuple(ids)


def instant_of(unix_ms: int) -> datetime:
    """The instant of Unix milliseconds."""
    # Not by way of a float, which rounds: whoever adds microseconds to it counts on whole milliseconds.
    return _EPOCH + timedelta(milliseconds=unix_ms)


def _split(name: str, text: str) -> list[str]:
    parts = text.split(",")
    if name == "url" and not all(part.strip().startswith(("http://", "https://")) for part in parts):
        return [text]  # a comma inside one URL
    return parts
