"""The command line, as an operator uses it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from postroad.store import migrations
from postroad.supervisor import take_ended
from tests.conftest import KEYS, TOKEN, at_database, eventually
from tests.moods import never, ok
from tests.receiver import Receiver

POSTROAD = Path(sys.executable).parent / "postroad"


Start = Callable[..., Awaitable[asyncio.subprocess.Process]]
Run = Callable[..., Awaitable[tuple[int | None, str, str]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start the command line; what still runs when the test is over is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def one(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTROAD_")}
        process = await asyncio.create_subprocess_exec(
            str(POSTROAD),
            *arguments,
            env=environment | {f"POSTROAD_{name.upper()}": value for name, value in settings.items()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield one
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def run(start: Start) -> Run:
    """Run a command to its end; gives its code, output and errors."""

    async def one(*arguments: str, **settings: str) -> tuple[int | None, str, str]:
        process = await start(*arguments, **settings)
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    return one


async def until_ready(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if found := re.search(r"running at (http://\S+)", line):
            return found[1]
    pytest.fail(f"it did not start: {(await process.communicate())[1].decode()}")


@pytest.fixture
async def empty_database(database_url: str) -> str:
    """A database with nothing in it."""
    connection = await asyncpg.connect(database_url)
    name = f"empty_{await connection.fetchval('select current_database()')}"
    await connection.execute(f"create database {name}")
    await connection.close()
    return at_database(database_url, name)


async def test_config_lists_every_setting_and_masks_secrets(run: Run) -> None:
    code, out, _ = await run("config", token="very-secret-token", port="1234")

    assert code == 0
    assert "POSTROAD_PORT=1234" in out
    assert "POSTROAD_TOKEN=********" in out
    assert "very-secret" not in out


async def test_an_unknown_setting_is_an_error_with_a_suggestion(run: Run) -> None:
    code, _, err = await run("config", max_delai="1d")

    assert code == 1
    assert err == "postroad: unknown setting POSTROAD_MAX_DELAI, did you mean POSTROAD_MAX_DELAY?\n"


async def test_serve_needs_a_database_and_a_schema(run: Run, empty_database: str) -> None:
    assert "needs POSTROAD_DATABASE_URL" in (await run("serve"))[2]
    assert "run postroad migrate" in (await run("serve", database_url=empty_database))[2]
    assert "cannot connect" in (await run("serve", database_url="postgresql://127.0.0.1:1/x"))[2]


async def test_dev_refuses_a_database_that_has_tokens_of_its_own(run: Run, empty_database: str) -> None:
    await run("migrate", database_url=empty_database)
    await run("token", "create", database_url=empty_database)

    code, _, err = await run("dev", "--port", "0", database_url=empty_database)

    assert code == 1
    assert "would open it to the public development tokens" in err


async def test_what_needs_a_database_says_so_instead_of_making_one(
    run: Run, empty_database: str, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")

    assert "migrate needs POSTROAD_DATABASE_URL" in (await run("migrate", data_dir=nowhere))[2]
    assert "set POSTROAD_DATABASE_URL" in (await run("token", "create", data_dir=nowhere))[2]
    assert "run postroad migrate" in (await run("token", "create", database_url=empty_database))[2]
    assert not (tmp_path / "nowhere").exists()


async def test_a_second_interrupt_breaks_off_what_the_first_one_waits_for(
    start: Start, database_url: str, receiver: Receiver
) -> None:
    receiver.script("/", never(), ok())
    server = await start("dev", "--port", "0", database_url=database_url, shutdown_grace="10m")
    url = await until_ready(server)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        await client.post(f"{url}/v2/publish/{receiver.url()}")
    await receiver.next_request()

    server.send_signal(signal.SIGINT)
    assert server.stderr is not None
    while b"once more to break them off" not in await server.stderr.readline():
        pass
    server.send_signal(signal.SIGINT)
    await server.communicate()

    assert server.returncode == 0
    again = await start("dev", "--port", "0", database_url=database_url)
    await until_ready(again)
    assert (await receiver.next_request()).header("Upstash-Retried") == "0"


async def test_serve_refuses_the_public_tokens_unless_told(run: Run, database_url: str) -> None:
    code, _, err = await run("serve", "--port", "0", database_url=database_url)

    assert code == 1
    assert "public development tokens" in err


async def test_the_first_start_says_a_password_for_the_console_once(
    run: Run, start: Start, empty_database: str
) -> None:
    await run("migrate", database_url=empty_database)

    code, _, err = await run("serve", "--port", "0", "--host", "0.0.0.0", database_url=empty_database)
    assert code == 1
    assert "open to others at 0.0.0.0 before anybody can sign in" in err
    assert "postroad console password" in err

    server = await start("serve", "--port", "0", database_url=empty_database)
    assert server.stdout is not None
    printed = b""
    while b"printed this once" not in printed:
        printed += await server.stdout.readline()
    [password] = re.findall(r"^    (\S+)$", printed.decode(), re.MULTILINE)
    url = await until_ready(server)
    assert await signed_in(url, password) == 303
    server.terminate()
    await server.communicate()

    again = await start("serve", "--port", "0", database_url=empty_database)
    assert again.stdout is not None
    assert b"running at" in await again.stdout.readline()
    again.terminate()
    await again.communicate()

    code, out, _ = await run("console", "password", database_url=empty_database)
    assert (code, out.strip() != password) == (0, True)
    other = await start("serve", "--port", "0", database_url=empty_database)
    url = await until_ready(other)
    assert (await signed_in(url, password), await signed_in(url, out.strip())) == (401, 303)


async def signed_in(url: str, secret: str) -> int:
    """How the console answers to a token or password."""
    async with httpx.AsyncClient(headers={"Sec-Fetch-Site": "same-origin"}) as client:
        return (await client.post(f"{url}/console/login", data={"secret": secret})).status_code


async def test_from_an_empty_database_to_a_delivered_message(
    run: Run, start: Start, empty_database: str, receiver: Receiver
) -> None:
    code, out, _ = await run("migrate", database_url=empty_database)
    assert (code, out) == (0, f"The schema went from nothing to {migrations.newest()}.\n")
    assert (await run("migrate", database_url=empty_database))[1] == f"The schema is at {migrations.newest()}.\n"
    code, out, _ = await run("token", "create", database_url=empty_database)
    token = out.strip()
    assert code == 0
    assert token.startswith("prt_")

    server = await start("serve", "--port", "0", database_url=empty_database, destinations="any")
    url = await until_ready(server)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        assert (await client.post(f"{url}/v2/publish/{receiver.url()}")).status_code == 201
        keys = (await client.get(f"{url}/v2/keys")).json()
    await receiver.next_request()
    server.send_signal(signal.SIGTERM)
    await server.communicate()

    assert server.returncode == 0
    code, out, _ = await run("keys", "rotate", database_url=empty_database)
    assert code == 0
    assert f"QSTASH_CURRENT_SIGNING_KEY={keys['next']}\n" in out
    plain = await asyncpg.connect(empty_database)
    assert await plain.fetchval("select count(*) from tokens where position($1 in hash::text) > 0", token) == 0
    await plain.close()


async def test_signing_keys_that_receivers_hold_already_are_taken_over(run: Run, database_url: str) -> None:
    pair = ("--current", "sig_the_current_one_of_before", "--next", "sig_the_next_one_of_before")

    assert (await run("keys", "set", *pair, database_url=database_url))[0] == 0
    _, out, _ = await run("keys", "rotate", database_url=database_url)
    assert "QSTASH_CURRENT_SIGNING_KEY=sig_the_next_one_of_before\n" in out

    code, _, error = await run("keys", "set", "--current", "short", "--next", "short", database_url=database_url)
    assert code != 0
    assert "at least 16" in error


async def test_only_public_addresses_are_allowed_in_production_by_default(
    start: Start, database_url: str, receiver: Receiver
) -> None:
    server = await start("serve", "--port", "0", database_url=database_url, allow_dev_credentials="true")
    url = await until_ready(server)

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = await client.post(f"{url}/v2/publish/{receiver.url()}")

    assert answer.status_code == 400
    assert "loopback" in answer.json()["error"]
    server.send_signal(signal.SIGTERM)
    await server.communicate()


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return False


async def test_workers_share_a_port_and_a_dead_one_is_replaced(
    start: Start, database_url: str, receiver: Receiver
) -> None:
    server = await start(
        "serve", "--port", "0", "--workers", "2",
        database_url=database_url, allow_dev_credentials="true", destinations="any", log_format="text",
    )  # fmt: skip
    url = await until_ready(server)

    def workers() -> list[psutil.Process]:
        return [child for child in psutil.Process(server.pid).children() if is_worker(child)]

    async def publish(n: int) -> int:
        # A connection of its own, so that both workers are met.
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            try:
                return (await client.post(f"{url}/v2/publish/{receiver.url()}", content=f"{n}")).status_code
            except httpx.TransportError:
                return 0

    async def alive() -> set[int]:
        return {worker.pid for worker in workers()}

    assert [await publish(n) for n in range(10)] == [201] * 10
    victim = workers()[0]
    victim.kill()
    await eventually(alive, lambda pids: len(pids) == 2 and victim.pid not in pids)
    await eventually(lambda: publish(1), lambda code: code == 201)
    server.send_signal(signal.SIGTERM)
    await server.communicate()
    assert server.returncode == 0


class EndsWhenAsked(multiprocessing.Process):
    """Lives when it is asked, and is dead right after."""

    def is_alive(self) -> bool:
        lives = super().is_alive()
        self.kill()
        self.join()
        return lives


def test_a_worker_that_ends_between_two_questions_is_not_forgotten() -> None:
    worker = EndsWhenAsked(target=signal.pause)
    worker.start()
    workers: list[BaseProcess] = [worker]

    assert take_ended(workers) == []
    assert workers == [worker]
    assert take_ended(workers) == [worker]
    assert workers == []


async def test_workers_do_not_outlive_a_supervisor_that_was_killed(start: Start, database_url: str) -> None:
    server = await start(
        "serve", "--port", "0", "--workers", "2", database_url=database_url, allow_dev_credentials="true"
    )
    await until_ready(server)
    children = psutil.Process(server.pid).children()
    assert len(children) >= 2

    server.kill()
    await server.communicate()

    async def left() -> list[psutil.Process]:
        return [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    await eventually(left, lambda processes: not processes)


async def test_a_port_that_is_taken_is_said_to_be(run: Run, receiver: Receiver, database_url: str) -> None:
    port = receiver.url().rstrip("/").rpartition(":")[2]

    code, _, err = await run("dev", "--port", port, database_url=database_url)

    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err


async def test_dev_prints_what_to_paste_and_where_it_runs(run: Run, start: Start, database_url: str) -> None:
    server = await start("dev", "--port", "0", database_url=database_url)
    url = await until_ready(server)
    server.send_signal(signal.SIGINT)
    out, err = await server.communicate()

    assert server.returncode == 0, err.decode()
    assert out == b""
    code, out2, _ = await run("--help")
    assert code == 0
    assert "dev" in out2
    assert url.startswith("http://127.0.0.1:")
    assert KEYS.current


async def test_tokens_are_listed_without_what_they_are_and_revoked(run: Run, database_url: str) -> None:
    async def token(*arguments: str) -> str:
        code, out, err = await run("token", *arguments, database_url=database_url)
        assert code == 0, err
        return out

    mine = await token("create", "--name", "the shop", "--access", "publish-only", "--expires-in", "90d")
    theirs = await token("create", "--tenant", "acme")
    admins = await token("create", "--access", "admin", "--name", "ops")

    assert re.fullmatch("prt_[0-9A-Za-z]{49}\n", mine)
    assert re.fullmatch("pra_[0-9A-Za-z]{49}\n", admins)
    listed = await token("list")
    assert not [one for one in (mine, theirs, admins, TOKEN) if one.strip() in listed]
    lines = listed.splitlines()
    fields = dict(field.split("=", 1) for field in lines[-3].split("\t"))
    assert fields.pop("created") < fields.pop("expires")
    assert fields == {
        "id": "5", "tenant": "default", "name": "the shop", "access": "publish-only", "ends-with": mine[-5:-1],
        "used": "never",
    }  # fmt: skip
    assert len(lines) == 7
    assert "\ttenant=none\tname=ops\taccess=admin\t" in lines[-1]
    assert (await token("list", "--tenant", "acme")).splitlines() == [lines[-2]]
    assert "token 5 (the shop, publish-only, ends with" in await token("revoke", "5", "--dry-run")
    assert (await run("token", "revoke", "5", database_url=database_url))[0] == 1
    assert len((await token("list")).splitlines()) == 7
    await token("revoke", "5", "--yes")
    assert (await token("list")).splitlines() == [*lines[:4], *lines[5:]]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["create", "--access", "root"],
            "--access must be one of full, read-only, metadata, publish-only, admin, not root",
        ),
        (["create", "--access", "admin", "--tenant", "default"], "an admin token belongs to no tenant"),
        (["create", "--expires-in", "soon"], "--expires-in must be a duration"),
        (["create", "--expires-in", "0s"], "--expires-in must be more than nothing"),
        (["create", "--tenant", "a/b"], "--tenant must be 1 to 100 letters"),
        (["list", "--tenant", "nobody"], "there is no tenant nobody"),
        (["revoke", "99", "--yes"], "there is no token 99"),
    ],
    ids=str,
)
async def test_what_cannot_be_done_with_a_token_is_said(
    run: Run, database_url: str, arguments: list[str], complaint: str
) -> None:
    code, out, err = await run("token", *arguments, database_url=database_url)

    assert (code, out) == (1, "")
    assert complaint in err


async def test_keys_are_shown_and_not_rotated_twice_within_an_hour_unless_forced(run: Run, database_url: str) -> None:
    async def keys(*arguments: str, **settings: str) -> tuple[int | None, str, str]:
        return await run("keys", *arguments, database_url=database_url, **settings)

    pair = f"QSTASH_CURRENT_SIGNING_KEY={KEYS.current}\nQSTASH_NEXT_SIGNING_KEY={KEYS.next}\n"
    assert await keys("show") == (0, pair, "")
    secrets = [f"whsec_{b64encode(key.encode()).decode()}" for key in (KEYS.current, KEYS.next)]
    assert (await keys("show", "--standard-webhooks"))[1].split() == secrets

    code, out, _ = await keys("rotate")
    assert code == 0
    assert out.startswith(f"QSTASH_CURRENT_SIGNING_KEY={KEYS.next}\n")
    assert (await keys("show"))[1] == out
    code, again, err = await keys("rotate")
    assert (code, again) == (1, "")
    assert "would lock out receivers" in err
    assert (await keys("show"))[1] == out
    assert (await keys("rotate", "--force"))[0] == 0
    assert (await keys("rotate", key_rotation_guard="0s"))[0] == 0
    assert "there is no tenant nobody" in (await keys("rotate", "--tenant", "nobody"))[2]


async def test_serve_refuses_a_second_rotation_within_an_hour_and_dev_does_not(start: Start, database_url: str) -> None:
    async def rotations(*command: str, **settings: str) -> list[int]:
        server = await start(*command, "--port", "0", database_url=database_url, **settings)
        url = await until_ready(server)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            statuses = [(await client.post(f"{url}/v2/keys/rotate")).status_code for _ in range(2)]
        server.send_signal(signal.SIGTERM)
        await server.communicate()
        return statuses

    assert await rotations("dev") == [200, 200]
    assert await rotations("serve", allow_dev_credentials="true") == [409, 409]
    assert await rotations("serve", allow_dev_credentials="true", key_rotation_guard="0s") == [200, 200]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory that an ordinary user may enter, for a server of its own."""
    directory = Path(tempfile.mkdtemp(prefix="postroad-cli-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def test_a_token_can_be_made_while_dev_runs_and_when_it_does_not(
    start: Start, run: Run, receiver: Receiver, data_dir: Path
) -> None:
    server = await start("dev", "--port", "0", "--data-dir", str(data_dir))
    url = await until_ready(server)
    code, token, err = await run("token", "create", data_dir=str(data_dir))
    assert code == 0, err
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token.strip()}"}) as client:
        assert (await client.post(f"{url}/v2/publish/{receiver.url()}")).status_code == 201
    code, _, err = await run("dev", "--port", "0", "--data-dir", str(data_dir))
    assert (code, err) == (1, f"postroad: {data_dir} is in use by another postroad process (pid {server.pid})\n")
    server.send_signal(signal.SIGTERM)
    await server.communicate()

    assert (await run("token", "create", data_dir=str(data_dir)))[0] == 0


async def test_what_is_set_for_a_tenant_is_shown_and_can_be_taken_away(run: Run, database_url: str) -> None:
    async def tenant(*arguments: str) -> str:
        code, out, err = await run("tenant", *arguments, database_url=database_url)
        assert code == 0, err
        return out

    names = ("failure-callback", "parallelism", "destinations", "max-calls-per-second", "max-messages-per-day")
    nothing = "name=default\n" + "".join(f"{name}=none\n" for name in names)
    assert await tenant("show") == nothing
    values = ("https://example.com/failed?a=1", "7", "public,!10.0.0.5", "0", "1000")
    options = [text for name, value in zip(names, values, strict=True) for text in (f"--{name}", value)]

    out = await tenant("set", *options)

    assert out == "name=default\n" + "".join(f"{name}={value}\n" for name, value in zip(names, values, strict=True))
    assert await tenant("show", "--tenant", "default") == out
    await tenant("set", "--tenant", "testUser1", "--parallelism", "3")
    lines = (await tenant("list")).splitlines()
    assert lines[0] == out.rstrip("\n").replace("\n", "\t")
    assert any(line.startswith("name=testUser1\tfailure-callback=none\tparallelism=3\t") for line in lines)
    assert len(lines) == 4
    await tenant("set", "--parallelism", "none")
    assert await tenant("set", *(text for name in names for text in (f"--{name}", "none"))) == nothing
    await tenant("create", "--tenant", "acme")
    assert await tenant("show", "--tenant", "acme") == nothing.replace("default", "acme")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["set"], "say what to set: --failure-callback, --parallelism, "),
        (["set", "--failure-callback", "example.com"], "--failure-callback must be a URL ("),
        (["set", "--parallelism", "0"], "--parallelism must be an integer from 1"),
        (["set", "--destinations", "public,lan"], "--destinations must be "),
        (["set", "--max-calls-per-second", "0.5"], "--max-calls-per-second must be an integer from 0"),
        (["set", "--max-messages-per-day", "-1"], "--max-messages-per-day must be an integer from 0"),
        (["set", "--parallelism", "many"], "--parallelism must be an integer from 1"),
        (["set", "--parallelism", "3", "--tenant", "nobody"], "there is no tenant nobody"),
        (["show", "--tenant", "nobody"], "there is no tenant nobody"),
        (["create", "--tenant", "default"], "tenant default exists already"),
        (["create", "--tenant", "a/b"], "--tenant must be 1 to 100 letters"),
    ],
    ids=str,
)
async def test_what_cannot_be_set_for_a_tenant_is_said(
    run: Run, database_url: str, arguments: list[str], complaint: str
) -> None:
    code, out, err = await run("tenant", *arguments, database_url=database_url)

    assert (code, out) == (1, "")
    assert complaint in err


async def test_a_tenant_that_is_limited_by_a_command_is_limited_at_the_server_that_runs(
    run: Run, start: Start, database_url: str, receiver: Receiver
) -> None:
    receiver.script("/", never())
    server = await start("dev", "--port", "0", database_url=database_url)
    url = await until_ready(server)

    assert (await run("tenant", "set", "--parallelism", "2", database_url=database_url))[0] == 0

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        for _ in range(5):
            assert (await client.post(f"{url}/v2/publish/{receiver.url()}")).status_code == 201
        await receiver.wait_for(2)
        await asyncio.sleep(0.5)
        assert (await client.get(f"{url}/v2/globalParallelism")).json() == {"parallelismMax": 2, "parallelismCount": 2}
    assert len(receiver.requests()) == 2
