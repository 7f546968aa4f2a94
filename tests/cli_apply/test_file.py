"""What is wrong in a file is told with its place, all at once, before anything is changed."""

from __future__ import annotations

import pytest

from postroad.cli.as_code import sections
from postroad.cli.as_code.document import Document, InvalidFile
from tests.cli_apply.conftest import Run, Write, state
from tests.conftest import Running

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
        ("queues: [1,\n", "line 2, the file: no valid YAML: "),
        ("a: &a [*a]", "a[0]: an alias that holds itself"),
        ("queues: [{name: !thing x}]", "queues[0].name: the tag '!thing' is not supported"),
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
    document = Document("postroad.yaml", {})
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


async def test_an_empty_file_does_nothing(run: Run, write: Write) -> None:
    result = await run("apply", write(""), "--prune", "--yes")

    assert (result.code, result.out) == (0, "nothing to do.\n")


async def test_a_file_that_is_not_there_is_wrong_usage(run: Run) -> None:
    result = await run("apply", "nowhere.yaml")

    assert result.code == 2
    assert "cannot read nowhere.yaml" in result.error
