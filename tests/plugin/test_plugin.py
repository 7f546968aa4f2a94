"""The pytest plugin, in test runs of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from postroad.testing.process import NotStarted, ServerProcess

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

SETTINGS = """
[pytest]
addopts = -p no:cacheprovider
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

SUITE = """
import asyncio
import os
import time

import pytest

from postroad.testing import Answer, PostroadServer, Received

FLOW = {"Upstash-Flow-Control-Key": "stopped", "Upstash-Flow-Control-Value": "parallelism=1"}


@pytest.mark.parametrize("number", [1, 2])
def test_every_test_begins_with_nothing(postroad_server: PostroadServer, number: int) -> None:
    assert postroad_server.messages() == []
    assert postroad_server.receiver.requests == []
    postroad_server.publish(postroad_server.receiver.url, f"{number}", headers={"Upstash-Delay": "1h"})
    postroad_server.assert_waiting(body=f"{number}")


def test_a_moved_clock_brings_retries_nearer_and_a_script_is_played_in_order(postroad_server: PostroadServer) -> None:
    receiver = postroad_server.receiver
    receiver.script("/hook", 503, Answer(500, "not yet", {"X-Why": "busy"}), lambda request: request.retried + 198)
    url = f"{receiver.url}/hook?a=b"
    postroad_server.publish(url, {"a": 1}, headers={"Upstash-Forward-X-One": "1"})

    postroad_server.assert_waiting(url)
    postroad_server.advance("30s")
    postroad_server.drain()
    assert [message.state for message in postroad_server.messages()] == ["RETRY"]
    postroad_server.advance("1h")

    [message] = postroad_server.assert_delivered(url, body={"a": 1})
    assert message.attempts == 3
    requests = receiver.requests_to("/hook")
    assert [(one.method, one.query, one.json(), one.retried) for one in requests] == [
        ("POST", "a=b", {"a": 1}, 0), ("POST", "a=b", {"a": 1}, 1), ("POST", "a=b", {"a": 1}, 2)
    ]
    assert {one.message_id for one in requests} == {message.id}
    assert requests[0].headers["x-one"] == "1"


def test_what_is_due_but_held_up_by_a_rate_is_waited_for(postroad_server: PostroadServer) -> None:
    rated = {"Upstash-Flow-Control-Key": "rated", "Upstash-Flow-Control-Value": "rate=1, period=1s"}
    for body in ("1", "2"):
        postroad_server.publish(postroad_server.receiver.url, body, headers={**rated, "Upstash-Delay": "1h"})
    postroad_server.assert_waiting(times=2)
    postroad_server.advance("1h")
    postroad_server.assert_delivered(times=2)


def test_schedules_fire_when_the_clock_is_moved(postroad_server: PostroadServer) -> None:
    url = f"{postroad_server.receiver.url}/daily"
    postroad_server.http.post(f"/v2/schedules/{url}", headers={"Upstash-Cron": "0 9 * * *"})
    postroad_server.assert_nothing_delivered()
    postroad_server.advance("1d")
    postroad_server.assert_delivered(url)
    postroad_server.advance("1d")
    postroad_server.assert_delivered(url, times=2)


def test_callbacks_are_drained_too(postroad_server: PostroadServer) -> None:
    url = postroad_server.receiver.url
    postroad_server.publish(f"{url}/a", headers={"Upstash-Callback": f"{url}/b"})
    postroad_server.assert_delivered(f"{url}/b")
    postroad_server.assert_delivered(times=2)
    postroad_server.assert_delivered(times=None)


def test_what_is_paused_is_left_by_a_drain(postroad_server: PostroadServer) -> None:
    url = postroad_server.receiver.url
    postroad_server.http.post("/v2/queues", json={"queueName": "q", "paused": True}).raise_for_status()
    postroad_server.http.post(f"/v2/enqueue/q/{url}/queued").raise_for_status()
    postroad_server.http.post("/v2/flowControl/stopped/pause").raise_for_status()
    postroad_server.publish(f"{url}/flow", headers=FLOW)
    postroad_server.assert_waiting(times=2)
    postroad_server.http.post("/v2/queues/q/resume").raise_for_status()
    postroad_server.http.post("/v2/flowControl/stopped/resume").raise_for_status()
    postroad_server.assert_delivered(times=2)


def test_the_clock_is_moved_when_the_retries_of_what_is_due_are_planned(postroad_server: PostroadServer) -> None:
    def late(request: Received) -> int:
        time.sleep(0.5)  # longer than it takes to move the clock
        return 503

    postroad_server.receiver.script("/late", late, 200)
    postroad_server.publish(f"{postroad_server.receiver.url}/late")
    postroad_server.advance("1h")
    postroad_server.assert_delivered()


def test_what_is_behind_a_retry_in_its_queue_is_left_by_a_drain(postroad_server: PostroadServer) -> None:
    receiver = postroad_server.receiver
    receiver.script("/first", 503, 200)
    for name in ("first", "second"):
        postroad_server.http.post(f"/v2/enqueue/q/{receiver.url}/{name}").raise_for_status()
    postroad_server.assert_waiting(times=2)
    postroad_server.advance("1h")
    postroad_server.assert_delivered(times=2)
    assert [one.path for one in receiver.requests] == ["/first", "/first", "/second"]


def test_many_messages_in_a_queue_are_all_waited_for(postroad_server: PostroadServer) -> None:
    url = postroad_server.receiver.url
    items = [{"destination": f"{url}/{n}", "queue": "q"} for n in range(120)]
    postroad_server.http.post("/v2/batch", json=items).raise_for_status()
    postroad_server.assert_delivered(times=120)
    assert [one.path for one in postroad_server.receiver.requests] == [f"/{n}" for n in range(120)]


def test_what_comes_all_at_once_arrives_at_once(postroad_server: PostroadServer) -> None:
    url = postroad_server.receiver.url
    for start in range(0, 300, 100):
        items = [{"destination": f"{url}/{n}"} for n in range(start, start + 100)]
        postroad_server.http.post("/v2/batch", json=items).raise_for_status()
    postroad_server.assert_delivered(times=300)


@pytest.mark.parametrize("seconds", [1_000_000_000.0, 4_000_000_000.0])
def test_the_time_of_the_test_may_be_frozen(
    postroad_server: PostroadServer, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    for name in ("time", "monotonic"):
        monkeypatch.setattr(time, name, lambda: seconds)
    url = postroad_server.receiver.url
    postroad_server.publish(f"{url}/now")
    postroad_server.publish(f"{url}/later", headers={"Upstash-Delay": "1h"})
    postroad_server.assert_delivered(f"{url}/now")
    postroad_server.assert_waiting(f"{url}/later")


def test_the_environment_is_what_the_sdk_needs(postroad_env: PostroadServer) -> None:
    from qstash import QStash, Receiver

    client = QStash(os.environ["QSTASH_TOKEN"])
    with client.http._client:
        client.message.publish_json(url=postroad_env.receiver.url, body={"a": 1})
    postroad_env.assert_delivered(body={"a": 1})
    [request] = postroad_env.receiver.requests
    keys = os.environ["QSTASH_CURRENT_SIGNING_KEY"], os.environ["QSTASH_NEXT_SIGNING_KEY"]
    Receiver(*keys).verify(signature=request.headers["upstash-signature"], body=request.text)


def test_the_environment_is_left_as_it_was() -> None:
    assert "QSTASH_TOKEN" not in os.environ


async def test_an_app_in_the_loop_of_the_test_can_answer(postroad_server: PostroadServer) -> None:
    arrived = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.readuntil(b"\\r\\n\\r\\n"))
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as app:
        url = f"http://127.0.0.1:{app.sockets[0].getsockname()[1]}/"
        await postroad_server.aio.publish(url, headers={"Upstash-Delay": "1h"})
        await postroad_server.aio.advance("1h")
        await postroad_server.aio.assert_delivered(url)
    assert len(arrived) == 1
"""

FAILING = """
import re


def test_too_few(postroad_server):
    url = postroad_server.receiver.url
    postroad_server.receiver.script("/a", 503)
    postroad_server.publish(f"{url}/a", {"order": 43})
    postroad_server.assert_delivered(re.compile("/a$"), body={"order": 42})


def test_nothing(postroad_server):
    postroad_server.assert_delivered(times=2)


def test_no_request(postroad_server):
    postroad_server.publish(f"{postroad_server.receiver.url}/b")
    postroad_server.drain()
    postroad_server.receiver.wait_for(2, "/a", within=0.1)


def test_raised_by_a_script(postroad_server):
    def answer(request):
        raise ValueError("no such order")

    postroad_server.receiver.script("/a", answer)
    postroad_server.publish(f"{postroad_server.receiver.url}/a")
    postroad_server.assert_delivered()


def test_many(postroad_server):
    for number in range(55):
        postroad_server.publish(postroad_server.receiver.url, headers={"Upstash-Delay": "1h"})
    postroad_server.assert_delivered()


def test_never_drained(postroad_server):
    from postroad.testing import Answer

    def slowly(request):
        import time

        time.sleep(2)
        return 200

    postroad_server.receiver.script("/slow", slowly)
    postroad_server.publish(f"{postroad_server.receiver.url}/slow", "x" * 100)
    postroad_server.drain(within=0.2)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with settings, in which a test run can be started."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "QSTASH_TOKEN", "QSTASH_URL"):
        monkeypatch.delenv(name, raising=False)
    pytester.makefile(".ini", pytest=SETTINGS)
    return pytester


@pytest.mark.parametrize("ways", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_suite_has_a_real_server_with_a_clock_and_a_receiver(suite: pytest.Pytester, ways: tuple[str, ...]) -> None:
    suite.makepyfile(test_suite=SUITE)

    result = suite.runpytest_subprocess(*ways, timeout=100)

    result.assert_outcomes(passed=16)


def test_a_failed_assertion_says_what_was_published(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_failing=FAILING)

    result = suite.runpytest_subprocess("--tb=short", timeout=100)

    result.assert_outcomes(failed=6)
    out = result.stdout.str()
    assert "expected 1 message delivered to /a$ with body '{\"order\": 42}', found 0." in out
    assert re.search(
        r"  RETRY      POST http://127.0.0.1:\d+/a  body '{\"order\": 43}'  \(1 attempt, last error: '", out
    )
    assert "expected 2 messages delivered, found 0." in out
    assert "Nothing was published." in out
    assert re.search(
        r"expected 2 requests at /a within 0.1 s, 0 came.\n.*What has arrived:\n.*  POST /b  attempt 0", out
    )
    assert "last error: 'the destination answered 500'" in out
    assert re.search(r"Scripts of the receiver raised:\n.*  ValueError\('no such order'\)", out)
    assert "  and 5 more" in out
    assert "still due or under way after 0.2 s:" in out
    assert re.search(r"  active POST http://127.0.0.1:\d+/slow waits for the destination to answer", out)
    # Where the test asks, and not where the plugin answers.
    assert "testing/server.py" not in out


def test_it_imports_and_starts_nothing_in_a_run_that_does_not_use_it(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import sys

        import psutil

        def test_unused():
            heavy = {"asyncpg", "sqlalchemy", "fastapi", "httpx", "uvicorn", "typer"} & set(sys.modules)
            assert heavy == set()
            ours = {name for name in sys.modules if name.partition(".")[0] == "postroad"}
            assert ours == {"postroad", "postroad.testing", "postroad.testing.plugin"}
            assert psutil.Process().children() == []
    """)

    suite.runpytest_subprocess(timeout=60).assert_outcomes(passed=1)


def test_modules_of_the_project_do_not_stand_in_for_those_of_the_server(suite: pytest.Pytester) -> None:
    for name in ("token", "queue", "secrets", "platform"):
        suite.path.joinpath(f"{name}.py").write_text("raise RuntimeError('this is the module of the project')")
    suite.makepyfile("""
        def test_it(postroad_server):
            postroad_server.publish(postroad_server.receiver.url)
            postroad_server.assert_delivered()
    """)
    # As the command does it, and not `python -m`, which finds them for the test run itself.
    command = [str(Path(sys.executable).parent / "pytest"), "-q", "--import-mode=importlib"]

    ended = subprocess.run(command, cwd=suite.path, capture_output=True, text=True, timeout=100, check=False)

    assert ended.returncode == 0, ended.stdout


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("postroad.testing.process._memory", lambda: tmp_path)

    with pytest.raises(NotStarted, match="the Postroad of the tests did not start: out of luck"):
        ServerProcess.start()

    assert list(tmp_path.iterdir()) == [program]


def test_nothing_is_left_of_a_run_that_was_killed(suite: pytest.Pytester) -> None:
    path = suite.makepyfile("""
        import time

        def test_endless(postroad_server, postroad_process):
            print(f"server={postroad_process._process.pid}", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-m", "pytest", "-s", str(path)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = next(int(found[1]) for line in run.stdout if (found := re.search(r"server=(\d+)", line)))
        server = psutil.Process(pid)
        directory = Path(server.cmdline()[-1])
        processes = [server, *server.children(recursive=True)]
        assert len(processes) > 2
        assert directory.is_dir()

        run.kill()

        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == []
        assert not directory.exists()


def test_the_examples_of_the_documentation_run(suite: pytest.Pytester) -> None:
    text = (ROOT / "docs" / "testing.md").read_text()
    examples = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in examples] == ["shop", "test_shop", "test_receiver", "test_long_work", "test_asyncio"]
    for name, code in examples:
        suite.makepyfile(**{name: code})

    # The SDK leaves its connections open.
    result = suite.runpytest_subprocess("-W", "ignore::ResourceWarning", "-W", "default", timeout=100)

    result.assert_outcomes(passed=4)
