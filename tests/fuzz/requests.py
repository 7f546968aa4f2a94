"""Requests to every endpoint of an OpenAPI document, with one odd text in one field, or odd texts in many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from random import Random
from typing import Any
from urllib.parse import quote

import httpx

from tests.fuzz.grammar import ODD, mutated

DESTINATION = "http://127.0.0.1:9/x"

SQL = (
    "'", "''", '"', "\\", "\\'", "';--", "' or '1'='1", "'; select pg_sleep(60); --",
    "1); drop table messages; --", "$1", "$$", "$a$b$a$", "%", "%s", "%(a)s", "_", ":name", "::jsonb",
    "E'\\x41'", "U&'\\0041'", "/*", "*/", "--", "||", "{}", "{1,2}", '{"a"', "[]", "null", "NULL", "0x41",
    "\x00", "\x00'", "\ufffd", "\u02bc", "\uff07", "\xbf'", "a\nb", "(select 1)", "'||'", "*", "ltree.*",
    "$.a", "?|", "@>", "\\x00", "\\u0000", "99999999999999999999", "-1", "1e309", "NaN", "infinity", "now()",
    "epoch",
)  # fmt: skip
"""What means something to PostgreSQL, its drivers or its types."""

HEADERS = (
    "Method", "Retries", "Retry-Delay", "Delay", "Not-Before", "Timeout", "Label", "Redact-Fields", "Deduplication-Id",
    "Content-Based-Deduplication", "Queue-Name", "Flow-Control-Key", "Flow-Control-Value", "Callback",
    "Failure-Callback", "Header-Forward", "Cron", "Schedule-Id", "Forward-X", "Callback-Forward-X", "Callback-Label",
)  # fmt: skip

SEEDS = (
    "5s", "3", "true", "POST", "http://127.0.0.1:9/y", "a,b", "pow(2, retried)", "parallelism=1, rate=2",
    "key", "* * * * *", "1725323658779-0", "msg_7FZ1XG5Zc1Yk4nzy2WTNvD", "body,header[A]", "1790000000",
    "/a/b", "127.0.0.1", "IN_PROGRESS",
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request; `path` has its fields in braces still, `fields` says what stands there."""

    method: str
    path: str
    fields: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None

    def built(self, client: httpx.AsyncClient) -> httpx.Request:
        """The request, whose texts a client would write so."""
        path = self.path
        for name, text in self.fields.items():
            path = path.replace(f"{{{name}}}", text if "://" in text else _quoted(text))
        headers = [
            (name.encode(), bytes(b for b in value.encode("latin-1", "replace") if b >= 32).strip())
            for name, value in self.headers.items()
        ]
        query = "&".join(f"{name}={_quoted(value)}" for name, value in self.parameters.items())
        url = client.base_url.copy_with(raw_path=f"{path}?{query}".encode("ascii", "replace").replace(b" ", b"%20"))
        if isinstance(self.body, str | bytes):
            return client.build_request(self.method, url, headers=headers, content=self.body)
        return client.build_request(self.method, url, headers=headers, json=self.body)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")


def endpoints(document: dict[str, Any]) -> Iterator[tuple[Sent, dict[str, Any]]]:
    """Every endpoint with fields that may exist, and what the document says about it."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
            fields = {name: DESTINATION if name == "destination" else "a" for name in names}
            yield Sent(method.upper(), path, fields), operation


class Texts:
    """Gives some texts at a time, and in the end all of them equally often."""

    def __init__(self, texts: tuple[str, ...], at_a_time: int) -> None:
        self._texts = cycle(texts)
        self._at_a_time = at_a_time

    def some(self) -> list[str]:
        """The next ones."""
        return list(islice(self._texts, self._at_a_time))


def one_odd_text(document: dict[str, Any], texts: Texts) -> Iterator[Sent]:
    """Some of the texts in each field of each endpoint: in the path, the query, a header, the body."""
    for plain, operation in endpoints(document):
        for name in plain.fields:
            yield from (replace(plain, fields=plain.fields | {name: text}) for text in texts.some())
        for one in operation.get("parameters", ()):
            if one["in"] == "query":
                yield from (replace(plain, parameters={one["name"]: text}) for text in texts.some())
        schema = _json_schema(operation)
        for body in _bodies(schema, texts) if schema is not None else ():
            yield replace(plain, body=body)
    for path in (f"/v2/publish/{DESTINATION}", f"/v2/enqueue/q/{DESTINATION}", f"/v2/schedules/{DESTINATION}"):
        for name in HEADERS:
            for text in texts.some():
                given = {"Upstash-Cron": "0 0 1 1 *"} if "schedules" in path else {}
                given |= {"Upstash-Callback": DESTINATION} if name.startswith("Callback-") else {}
                yield Sent("POST", path, headers=given | {f"Upstash-{name}": text}, body="x")
                yield Sent("POST", "/v2/batch", body=[_item(name, text, given)])


def many_odd_texts(document: dict[str, Any], random: Random) -> Sent:
    """A request with odd and nearly right texts wherever there may be one."""
    plain, operation = random.choice(list(endpoints(document)))
    names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    parameters = {name: _text(random) for name in random.sample(names, random.randint(0, min(4, len(names))))}
    headers = {f"Upstash-{name}": _text(random) for name in random.sample(HEADERS, random.randint(0, 4))}
    fields = {name: text if random.random() < 0.5 else _text(random) for name, text in plain.fields.items()}
    body = _value(random, _json_schema(operation) or {}) if random.random() < 0.8 else _text(random)
    return replace(plain, fields=fields, parameters=parameters, headers=headers, body=body)


def _item(name: str, text: str, given: dict[str, str]) -> dict[str, Any]:
    return {
        "destination": DESTINATION,
        "queue": text,
        "body": text,
        "headers": given | {f"Upstash-{name}": text, text: text},
    }


def _json_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] | None = content.get("application/json", {}).get("schema")
    return schema


def _bodies(schema: dict[str, Any], texts: Texts) -> Iterator[Any]:
    """Bodies of a schema, each with one of the texts in one place."""
    match schema.get("type"):
        case "object":
            for name, inner in schema.get("properties", {}).items():
                for body in _bodies(inner, texts):
                    yield _sample(schema) | {name: body}
            if schema.get("additionalProperties"):
                for text in texts.some():
                    yield {text: "a"}
                    yield {"Upstash-Label": text, "Upstash-Retries": [text]}
        case "array":
            for body in _bodies(schema.get("items", {}), texts):
                yield [body]
        case _:
            yield from texts.some()


def _sample(schema: dict[str, Any]) -> Any:
    match schema.get("type"):
        case "object":
            return {name: _sample(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [_sample(schema.get("items", {}))]
        case "integer":
            return 1
        case "boolean":
            return True
        case _:
            return DESTINATION if schema.get("format") == "uri" else "a"


def _value(random: Random, schema: dict[str, Any], depth: int = 0) -> Any:
    """A value of the schema, or of none."""
    if random.random() < 0.15 or depth > 4:
        return random.choice((None, True, 0, -1, 1.5, 2**31, 2**63, -(2**63), [], {}, [[]], {"": None}, _text(random)))
    match schema.get("type"):
        case "object":
            names = list(schema.get("properties", {}))
            chosen = {
                name: _value(random, schema["properties"][name], depth + 1) for name in names if random.random() < 0.7
            }
            return chosen | ({_text(random): _text(random)} if random.random() < 0.3 else {})
        case "array":
            return [_value(random, schema.get("items", {}), depth + 1) for _ in range(random.randint(0, 3))]
        case "integer":
            return random.choice((0, 1, 2, -1, 10**10, 1.0, "1"))
        case "boolean":
            return random.choice((True, False, 0, "true"))
        case _:
            return _text(random)


def _text(random: Random) -> str:
    if random.random() < 0.3:
        return random.choice(SEEDS)
    if random.random() < 0.3:
        return random.choice(SQL)
    text = mutated(random, (*SEEDS, *ODD), most=200)
    return text.encode("utf-8", "replace").decode()
