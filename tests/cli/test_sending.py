"""publish, enqueue and batch."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Run, run_here
from tests.conftest import Running
from tests.receiver import Receiver


async def test_a_message_is_published_with_its_body_its_headers_and_its_options(
    run: Run, environment: Running, receiver: Receiver
) -> None:
    ran = await run(
        *(
            "publish",
            receiver.url("/job?a=1&b=2"),
            "--body",
            '{"id": 42}',
            "-H",
            "X-Own: yes",
            "-H",
            "Upstash-Retries: 9",
        ),
        *("--label", "nightly", "--label", "blue", "--timeout", "30s", "--method", "put"),
    )

    request = await receiver.next_request()
    assert ran.out == f"{request.header('Upstash-Message-Id')}\n"
    assert (request.method, request.target, request.body) == ("PUT", "/job?a=1&b=2", b'{"id": 42}')
    assert request.header("X-Own") == "yes"
    assert request.header("Content-Type") == "application/json"
    assert request.header("Upstash-Label") == "nightly,blue"
    message = (await environment.http.get(f"/v2/messages/{ran.out.strip()}")).json()
    assert message["maxRetries"] == 9


@pytest.mark.parametrize(
    ("options", "stdin"), [(["--body", "-"], "piped"), (["--body-file", "-"], "piped"), (["--body-file", "FILE"], "")]
)
async def test_a_body_comes_from_standard_input_or_from_a_file(
    run: Run, receiver: Receiver, tmp_path: Path, options: list[str], stdin: str
) -> None:
    (tmp_path / "body").write_bytes(b"piped")

    await run(
        "publish", receiver.url(), *(str(tmp_path / "body") if one == "FILE" else one for one in options), stdin=stdin
    )

    request = await receiver.next_request()
    assert request.body == b"piped"
    assert request.header("Content-Type") == "text/plain; charset=utf-8"


async def test_letters_beyond_ascii_arrive(run: Run, environment: Running, receiver: Receiver) -> None:
    ran = await run("publish", receiver.url("/a?b=é"), "--label", "für später", "-H", "X-Name: Zoë", "--body", "ü")

    request = await receiver.next_request()
    message = (await environment.http.get(f"/v2/messages/{ran.out.strip()}")).json()
    assert request.target == "/a?b=%C3%A9"
    assert message["label"] == "für später"
    assert message["header"]["X-Name"] == ["Zoë"]
    assert request.body == "ü".encode()


async def test_bytes_that_are_no_text_are_sent_as_they_are(run: Run, receiver: Receiver) -> None:
    await run("publish", receiver.url(), "--body", "-", stdin=b"\xff\x00")

    request = await receiver.next_request()
    assert (request.body, request.header("Content-Type")) == (b"\xff\x00", "application/octet-stream")


async def test_limits_callbacks_and_times_are_those_of_the_options(
    run: Run, environment: Running, receiver: Receiver
) -> None:
    tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)

    ran = await run(
        *("publish", receiver.url(), "--not-before", tomorrow.isoformat(), "--flow-key", "k", "--rate", "5"),
        *("--period", "1m", "--parallelism", "2", "--callback", receiver.url("/cb"), "--dedup-id", "once"),
        *("--failure-callback", receiver.url("/failed"), "--json"),
    )
    again = await run("publish", receiver.url(), "--dedup-id", "once", "--delay", "1d")

    message = (await environment.http.get(f"/v2/messages/{ran.json['messageId']}")).json()
    assert message["notBefore"] == int(tomorrow.timestamp()) * 1000
    assert (message["flowControlKey"], message["rate"], message["period"], message["parallelism"]) == ("k", 5, 60, 2)
    assert (message["callback"], message["failureCallback"]) == (receiver.url("/cb"), receiver.url("/failed"))
    assert again.out.strip() == ran.json["messageId"]
    assert "duplicate" in again.err


async def test_with_cron_it_is_a_schedule(run: Run, environment: Running, receiver: Receiver) -> None:
    ran = await run("publish", receiver.url(), "--cron", "0 9 * * *")

    schedule = (await environment.http.get(f"/v2/schedules/{ran.out.strip()}")).json()
    assert schedule["cron"] == "0 9 * * *"


async def test_a_message_is_enqueued(run: Run, environment: Running, receiver: Receiver) -> None:
    ran = await run("enqueue", "emails", receiver.url(), "--body", "hello")

    await receiver.next_request()
    assert (await environment.http.get(f"/v2/messages/{ran.out.strip()}")).json()["queueName"] == "emails"


@pytest.mark.parametrize("form", ["array", "lines"])
async def test_many_are_sent_in_parts_and_all_of_them_arrive(
    run: Run, receiver: Receiver, tmp_path: Path, form: str
) -> None:
    items = [{"destination": receiver.url(f"/{number}"), "body": str(number)} for number in range(250)]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(items) if form == "array" else "\n".join(json.dumps(item) for item in items))

    ran = await run("batch", str(file))

    assert len(set(ran.out.split())) == 250
    assert {request.body.decode() for request in await receiver.wait_for(250)} == {str(n) for n in range(250)}


async def test_what_was_sent_of_a_batch_before_it_is_refused_is_told(
    run: Run, receiver: Receiver, tmp_path: Path
) -> None:
    items = [{"destination": receiver.url()}] * 150 + [{"destination": "ftp://nowhere"}]
    (tmp_path / "messages").write_text(json.dumps(items))

    ran = await run("batch", str(tmp_path / "messages"))

    assert ran.code == 1
    assert "The first 100 messages of the file were sent." in ran.err
    assert "(item 50)" in ran.err


async def test_a_dry_run_of_a_batch_sends_nothing(run: Run, receiver: Receiver) -> None:
    ran = await run("batch", "-", "--dry-run", stdin=json.dumps([{"destination": receiver.url()}] * 3))

    assert ran.out == "3 messages would be sent.\n"
    assert receiver.requests() == []


@pytest.mark.parametrize(
    ("arguments", "stdin", "complaint"),
    [
        (
            ["publish", "http://x.test", "-H", "nonsense"],
            "",
            "invalid --header: got 'nonsense', expected 'Name: value'",
        ),
        (["publish", "http://x.test", "--body", "a", "--body-file", "b"], "", "only one of --body and --body-file"),
        (["publish", "http://x.test", "--body-file", "/nowhere"], "", "expected a file that can be read"),
        (["publish", "http://x.test", "--rate", "5"], "", "--flow-key: expected a key"),
        (["publish", "http://x.test", "--not-before", "soon"], "", "invalid --not-before: got 'soon', expected a time"),
        (["batch", "-"], "{", "expected a JSON array, or a JSON object on each line"),
        (["batch", "-"], '[{"body": "a"}]', "objects with a destination"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(arguments: list[str], stdin: str, complaint: str) -> None:
    ran = run_here(*arguments, "--url", "http://127.0.0.1:1", stdin=stdin) if arguments[0] else None

    assert ran is not None
    assert ran.code == 2
    assert complaint in ran.err
    assert ran.err.count("\n") == 1
