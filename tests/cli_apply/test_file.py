"""What is wrong in a file is told with its place, all at once, before anything is changed."""

from __future__ import annotations

import json

import pytest

from postroad.cli.as_code import sections
from postroad.cli.as_code.document import Document, InvalidFile
from tests.cli_apply.conftest import Run, Write, got, state
from tests.conftest import Running

_TENFOLD = [(number, ", ".join([f"*a{number - 1}"] * 10)) for number in range(1, 12)]
BOMB = "\n".join(["x-0: &a0 [x]", *(f"x-{number}: &a{number} [{aliases}]" for number, aliases in _TENFOLD)])
MERGE_BOMB = "\n".join(
    ["x-0: &a0 {k: v}", *(f"x-{number}: &a{number} {{<<: [{aliases}]}}" for number, aliases in _TENFOLD)]
)
SCHEDULE = "id: s, cron: '@daily', destination: 'https://example.com/'"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("queus: []", "line 1, queus: unknown field; did you mean queues?"),
        (
            "queues:\n  - {name: a, paralelism: 2}",
            "line 2, queues[0].paralelism: unknown field; did you mean parallelism?",
        ),
        ("queues: {name: a}", "line 1, queues: expected a list, got an object"),
        ("queues: [a]", "line 1, queues[0]: expected an object with name, parallelism, paused, got 'a'"),
        ("queues: [{parallelism: 1}]", "line 1, queues[0]: name is missing"),
        ("queues:\n- name: a b", "line 2, queues[0].name: got 'a b', expected 1 to 256 letters, digits"),
        ("queues: [{name: a, parallelism: 0}]", "queues[0].parallelism: expected a whole number of 1 or more, got 0"),
        (
            "queues: [{name: a, parallelism: '2'}]",
            "queues[0].parallelism: expected a whole number of 1 or more, got '2'",
        ),
        ("queues: [{name: a, parallelism: true}]", "expected a whole number of 1 or more, got true"),
        ("queues: [{name: a, paused: 1}]", "queues[0].paused: expected true or false, got 1"),
        ("queues: [{name: a, name: b}]", "line 1, queues[0].name: is here twice"),
        ("queues:\n- name: a\n- name: a", "line 3, queues[1]: a second queue with the name 'a'"),
        ("queues: [{name: true}]", "queues[0].name: expected a text, got true; put it in quotes"),
        (
            "schedules: [{id: s, cron: '61 * * * *', destination: listeners}]",
            "schedules[0].cron: got '61 * * * *', expected",
        ),
        (
            "schedules: [{id: s, cron: '@daily', zone: Europe/Berln, destination: g}]",
            "schedules[0].zone: got 'Europe/Berln'",
        ),
        (
            "schedules: [{id: s, cron: 'TZ=UTC @daily', zone: UTC, destination: g}]",
            "the cron expression names a zone already",
        ),
        (
            "schedules: [{id: s, cron: '@daily', destination: 'ftp://x'}]",
            "schedules[0].destination: got 'ftp://x': endpoint",
        ),
        (f"schedules: [{{{SCHEDULE}, method: HEAD}}]", "schedules[0].method: got 'HEAD', expected one of DELETE"),
        (
            f"schedules: [{{{SCHEDULE}, delay: soon}}]",
            "schedules[0].delay: got 'soon', expected a duration such as 30s",
        ),
        (f"schedules: [{{{SCHEDULE}, timeout: 0}}]", "schedules[0].timeout: got '0s', expected a duration above zero"),
        (f"schedules: [{{{SCHEDULE}, retryDelay: 'pow('}}]", "schedules[0].retryDelay: got 'pow(', expected"),
        (f"schedules: [{{{SCHEDULE}, callback: x}}]", "schedules[0].callback: got 'x': endpoint has invalid scheme"),
        (
            f"schedules: [{{{SCHEDULE}, headers: {{Host: x}}}}]",
            "schedules[0].headers.Host: this header is not forwarded",
        ),
        (f"schedules: [{{{SCHEDULE}, headers: {{X: yes}}}}]", "headers.X: expected a text, got yes; put it in quotes"),
        (f'schedules: [{{{SCHEDULE}, headers: {{X: "a\\nb"}}}}]', "headers.X: expected a header value in Latin-1"),
        (
            f"schedules: [{{{SCHEDULE}, body: {{country: NO}}}}]",
            "schedules[0].body.country: YAML reads NO as false: write false, or put NO in quotes",
        ),
        (f"schedules: [{{{SCHEDULE}, body: [12:30]}}]", "body[0]: YAML reads 12:30 as 750"),
        (f"schedules: [{{{SCHEDULE}, body: [1_0.5]}}]", "body[0]: YAML reads 1_0.5 as 10.5"),
        (f"schedules: [{{{SCHEDULE}, body: [.nan]}}]", "body[0]: expected a number that JSON can write, got .nan"),
        ("queues: [{name: a, parallelism: 010}]", "queues[0].parallelism: YAML reads 010 as 8: write 8, or put 010"),
        ("queues: [{name: 1e3}]", "queues[0].name: expected a text, got 1e3; put it in quotes"),
        ("queues: [{name: '..'}]", "queues[0].name: got '..', expected more than dots"),
        ("flow: [{key: '..'}]", "flow[0].key: got '..', expected more than dots"),
        (f"schedules: [{{{SCHEDULE}, labels: ['日本']}}]", "schedules[0].labels: expected labels in Latin-1"),
        (f"schedules: [{{{SCHEDULE}, body: 5}}]", "schedules[0].body: expected a text, an object or a list, got 5"),
        (f"schedules: [{{{SCHEDULE}, flowControl: {{key: k}}}}]", "expected a rate, a parallelism, or both"),
        (f"schedules: [{{{SCHEDULE}, labels: 'a,b'}}]", "schedules[0].labels: expected labels without commas"),
        (f"schedules: [{{{SCHEDULE}, redact: [bdy]}}]", "schedules[0].redact: expected a comma list of body, header"),
        ("flow: [{key: k, period: 1m}]", "flow[0].period: expected a rate beside it"),
        ("flow: [{key: k, rate: 1, period: 8d}]", "flow[0].period: got '8d', expected a period from 1s to 7d"),
        ("groups: [{name: g, endpoints: []}]", "groups[0].endpoints: expected a list of one endpoint or more"),
        ("groups: [{name: g, endpoints: ['https://a', 'https://a']}]", "another endpoint has this URL or this name"),
        (
            "groups: [{name: g, endpoints: [a]}]",
            "groups[0].endpoints[0]: invalid endpoint.url: endpoint has invalid scheme",
        ),
        (
            "groups: [{name: g, endpoints: ['https://a'], headers: {X: y}}]",
            "groups[0].headers: invalid headers: got 'X'",
        ),
        ("queues: [{name: '${NOT_THERE}'}]", "queues[0].name: the environment variable NOT_THERE is not set"),
        ("queues: [{name: '${not there}'}]", "names no variable; ${NAME} does, $${ is a plain ${"),
        ("queues: [{name: '${EMPTY}'}]", "queues[0].name: the environment variable EMPTY is empty"),
        ("queues: []\n---\nqueues: []", "line 2, the file: no valid YAML: expected a single document in the stream"),
        ("queues: [1,\n", "line 2, the file: no valid YAML: "),
        ("a: &a [*a]", "a[0]: an alias that holds itself"),
        ("queues: [{name: !thing x}]", "queues[0].name: the tag '!thing' is not supported"),
        (BOMB, "the file: with its aliases written out it has more than 1000000 values"),
        (MERGE_BOMB, "the file: with its aliases written out it has more than 1000000 values"),
        ("[" * 5000, "no valid YAML: it is nested too deeply"),
        ("hello", "line 1, the file: expected an object with queues, groups, flow, schedules, got 'hello'"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        _check(text)

    assert str(caught.value).startswith("postroad.yaml, line ")
    assert said in str(caught.value)


def _check(text: str) -> None:
    document = Document("postroad.yaml", {"EMPTY": ""})
    sections.read(document, document.read(text))
    document.check()


async def test_all_mistakes_are_told_at_once_and_nothing_is_changed(run: Run, write: Write, server: Running) -> None:
    result = await run("apply", write("queues:\n- name: good\n- name: a b\n- {name: c, paused: maybe}"))

    assert [line.partition(":")[0] for line in result.error.splitlines()] == [
        "postroad.yaml, line 3, queues[1].name",
        "postroad.yaml, line 4, queues[2].paused",
        "nothing was changed",
    ]
    assert await state(server) == [[], [], [], []]


async def test_variables_anchors_and_escapes_are_read_as_they_are_meant(
    run: Run, write: Write, server: Running
) -> None:
    text = """
x-defaults: &defaults {cron: "@daily", destination: "${APP}/job", retries: 1}
schedules:
  - {<<: *defaults, id: a, body: "$${name} costs 5 $ {x}"}
  - {<<: *defaults, id: b, retries: 2}
queues:
  - name: q
    parallelism: ${PLACES}
"""
    result = await run("apply", write(text), APP="http://127.0.0.1:9", PLACES="7")

    assert (result.code, result.error) == (0, "")
    schedules, [queue], _, _ = await state(server)
    assert [(one["destination"], one["retries"]) for one in schedules] == [
        ("http://127.0.0.1:9/job", 1),
        ("http://127.0.0.1:9/job", 2),
    ]
    assert schedules[0]["body"] == "${name} costs 5 $ {x}"
    assert queue["parallelism"] == 7


async def test_what_json_writes_in_its_own_way_is_read_as_json(run: Run, write: Write, server: Running) -> None:
    body = r'{"smile": "\ud83d\ude00", "much": 1e3, "less": 1.5E-2, "path": "a\/b", "none": null, "=": "="}'
    text = f'{{"schedules": [{{"id": "s", "cron": "@daily", "destination": "http://127.0.0.1:9/", "body": {body}}}]}}'

    result = await run("apply", write(text, "postroad.json"))

    assert (result.code, result.error) == (0, "")
    assert json.loads((await got(server, "/v2/schedules/s"))["body"]) == json.loads(body)


async def test_an_empty_file_does_nothing(run: Run, write: Write) -> None:
    result = await run("apply", write(""), "--prune", "--yes")

    assert (result.code, result.out) == (0, "nothing to do.\n")


async def test_a_file_that_is_not_there_is_wrong_usage(run: Run) -> None:
    result = await run("apply", "nowhere.yaml")

    assert result.code == 2
    assert "cannot read nowhere.yaml" in result.error
