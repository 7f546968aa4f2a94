"""Bodies that somebody sends so that the page which shows them breaks, grows or lies."""

from __future__ import annotations

from base64 import b64encode

import orjson
import pytest

from postroad.console import payloads
from postroad.console.attempts import attempts_in


def test_a_body_of_any_depth_is_shown() -> None:
    deep = b"[" * 300 + b"1" + b"]" * 300
    assert payloads.shown(deep).text.split() == [*"[" * 300, "1", *"]" * 300]
    # Deeper than what counts as JSON here.
    assert payloads.shown(b"[" * 5000 + b"]" * 5000).kind == "text"


def test_a_small_body_does_not_become_a_large_page() -> None:
    body = b"[" * 250 + b"1," * 30_000 + b"1" + b"]" * 250
    shown = payloads.shown(body)
    assert (shown.kind, shown.text) == ("text", body.decode())


@pytest.mark.parametrize(
    ("body", "laid_out"),
    [
        (b"[12345678901234567890123, 1.10,1E5]", "[\n  12345678901234567890123,\n  1.10,\n  1E5\n]"),
        (b'{"a":1,"a":{}, "b":[ ]}', '{\n  "a": 1,\n  "a": {},\n  "b": []\n}'),
        (b'{"a:,[": "\\u003c\\"{ \\\\"}', '{\n  "a:,[": "\\u003c\\"{ \\\\"\n}'),
        (b'"a  b"', '"a  b"'),
    ],
)
def test_json_is_laid_out_and_nothing_of_it_is_changed(body: bytes, laid_out: str) -> None:
    shown = payloads.shown(body)
    assert (shown.kind, shown.text) == ("JSON", laid_out)


def test_json_is_laid_out_as_others_do() -> None:
    document: dict[str, object] = {"a": [1, -2.5, True, None, {"b": []}, [[]], {}], "ä": "x\ny", "": {"c": {"d": "e"}}}
    laid_out = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    assert payloads.shown(orjson.dumps(document)).text == laid_out


def test_many_large_answers_do_not_become_a_large_page() -> None:
    answer = b"[" + b"1," * 15_000 + b"1]"
    events: list[dict[str, object]] = []
    for at in range(300):
        events.append({"state": "ACTIVE", "time": at})
        events.append({"state": "ERROR", "time": at, "responseBody": b64encode(answer).decode()})
    answers = [one.answer for one in attempts_in(events) if one.answer is not None]
    assert [one.size for one in answers] == [len(answer)] * 300
    assert (answers[-1].kind, answers[0].is_cut, answers[0].text) == ("JSON", True, answer[:512].decode())
    assert sum(len(one.markup) for one in answers) < 2_000_000
