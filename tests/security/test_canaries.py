"""Canaries: secrets go through everything that a node does, and turn up in no log, metric, error or dump."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from postroad import telemetry
from postroad.errors import Misconfigured
from postroad.store import embedded
from postroad.store.engine import Connection, Database, DataRefused, connected
from postroad.vault import parse_master_keys
from tests.conftest import eventually
from tests.moods import garbage, hang_up, never, raw, redirect, status
from tests.receiver import Receiver
from tests.security.canary import Canaries, a_canary
from tests.security.log_watch import LogWatch

POSTROAD = Path(sys.executable).with_name("postroad")

STORED = (
    "body",
    "forward",
    "callback",
    "answer",
    "answerheader",
    "schedule",
    "group",
    "current",
    "next",
    "token",
    "password",
)
"""What must be found nowhere."""

PASSING = ("query", "guess", "refused", "garbage", "location", "cookie")
"""What goes by or is refused; the query of a URL and where a redirect leads may be stored, but not logged."""


@dataclass
class Stage:
    """A database cluster of its own, and what comes out of the processes that work on it."""

    directory: Path
    url: str
    secret: dict[str, str]
    settings: dict[str, str]
    output: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)

    async def run(self, *arguments: str, **settings: str) -> str:
        """A command, to its end."""
        process = await asyncio.create_subprocess_exec(
            str(POSTROAD),
            *arguments,
            env=self._environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        self.output += [out, err]
        return (out + err).decode()

    @asynccontextmanager
    async def node(self, **settings: str) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
        """A node that logs all it can, and a client of it. It is killed if the test kills it, else stopped."""
        log = tempfile.TemporaryFile()  # noqa: SIM115  closed below, after it was read
        process = await asyncio.create_subprocess_exec(
            str(POSTROAD), "serve", env=self._environment(settings), stdout=log, stderr=log
        )
        try:

            async def address() -> re.Match[bytes] | None:
                assert process.returncode is None, _read(log)
                return re.search(rb"running at (http://\S+)", _read(log))

            found = await eventually(address, lambda match: match is not None)
            self.output.append(" ".join(psutil.Process(process.pid).cmdline()).encode())
            headers = {"Authorization": f"Bearer {self.secret['token']}"}
            async with httpx.AsyncClient(base_url=found[1].decode(), headers=headers, timeout=30) as http:
                yield http, process.pid
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            self.output.append(_read(log))
            log.close()

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("POSTROAD_")}
        return ours | self.settings | settings


def _read(log: Any) -> bytes:
    log.seek(0)
    data: bytes = log.read()
    return data


@pytest.fixture
def cluster() -> Iterator[embedded.EmbeddedPostgres]:
    """A database server of the test's own that writes down whatever it is asked, parameters included."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="postroad-canaries-", dir=memory if memory.is_dir() else None))
    directory.chmod(0o755)
    loud = {"log_statement": "all", "log_min_error_statement": "info", "log_error_verbosity": "default"}
    server = embedded.start(directory, extra_settings=loud)
    yield server
    embedded.stop(server)
    shutil.rmtree(directory)


@pytest.fixture
def stage(cluster: embedded.EmbeddedPostgres) -> Stage:
    """One whose keys, token and password are all canaries."""
    secret = {name: a_canary(name) for name in (*STORED, *PASSING)}
    settings = {
        "POSTROAD_DATABASE_URL": cluster.url.replace("postgres@", f"postgres:{secret['password']}@"),
        "POSTROAD_TOKEN": secret["token"],
        "POSTROAD_ENCRYPTION_KEY": base64.b64encode(os.urandom(32)).decode(),
        "POSTROAD_DESTINATIONS": "any",
        "POSTROAD_PORT": "0",
        "POSTROAD_LOG_LEVEL": "debug",
        "POSTROAD_MAX_BODY_BYTES": "100000",
    }
    return Stage(cluster.data_dir, cluster.url, secret, settings)


async def use_everything(http: httpx.AsyncClient, receiver: Receiver, secret: dict[str, str]) -> list[str]:
    """Whatever stores a secret; gives the ids of messages."""
    receiver.script("/bad", status(500, secret["answer"].encode(), [("X-Answer", secret["answerheader"])]))
    receiver.script("/garbage", garbage(f"HTTP/1.1 {secret['garbage']}\r\n{secret['garbage']}\r\n\r\n".encode()))
    receiver.script("/nul", raw(f"HTTP/1.1 500 X\r\nX-A: \0{secret['garbage']}\r\n\r\n".encode()))
    receiver.script("/name", raw(f"HTTP/1.1 500 X\r\n{secret['garbage']} : a\r\n\r\n".encode()))
    receiver.script("/length", raw(f"HTTP/1.1 500 X\r\nContent-Length: {secret['garbage']}\r\n\r\n".encode()))
    receiver.script("/coding", status(500, secret["garbage"].encode(), [("Content-Encoding", "gzip")]))
    receiver.script("/moved", redirect(f"http://127.0.0.1/{secret['location']}"))
    receiver.script("/gone", hang_up())
    receiver.script("/never", never())
    headers = {
        "Upstash-Forward-Authorization": secret["forward"],
        "Cookie": secret["cookie"],
        "Upstash-Callback": receiver.url("/callback"),
        "Upstash-Callback-Forward-Authorization": secret["callback"],
        "Upstash-Failure-Callback": receiver.url("/bad"),
        "Upstash-Failure-Callback-Forward-Authorization": secret["callback"],
        "Upstash-Retries": "0",
        "Upstash-Timeout": "2",
        "Upstash-Content-Based-Deduplication": "true",
    }
    paths = ("/good", "/bad", "/garbage", "/nul", "/name", "/length", "/coding", "/moved", "/gone", "/never")
    urls = [f"{receiver.url(path)}?q={secret['query']}" for path in paths]
    urls += [receiver.url("/tls").replace("http:", "https:"), "http://127.0.0.1:1/refused-connection"]
    batch = [{"destination": url, "headers": headers, "body": secret["body"]} for url in urls]
    batch += [
        {"destination": receiver.url("/queued"), "queue": "q", "headers": headers, "body": secret["body"]},
        {
            "destination": receiver.url("/good"),
            "headers": headers | {"Upstash-Redact-Fields": "body,header"},
            "body": secret["body"],
        },
        {"destination": receiver.url("/late"), "headers": headers | {"Upstash-Delay": "1d"}, "body": secret["body"]},
    ]
    answer = await http.post("/v2/batch", json=batch)
    assert answer.is_success, answer.text
    schedule = {"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": "s", "Upstash-Forward-X": secret["schedule"]}
    assert (
        await http.post(f"/v2/schedules/{receiver.url('/good')}", content=secret["schedule"], headers=schedule)
    ).is_success
    assert (await http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": receiver.url("/good")}]})).is_success
    assert (await http.patch("/v2/topics/g", json={"headers": {"Upstash-Forward-X": [secret["group"]]}})).is_success
    assert (await http.post("/v2/publish/g", content=secret["body"], headers=headers)).is_success
    return [one["messageId"] for one in answer.json()]


async def make_mistakes(http: httpx.AsyncClient, receiver: Receiver, secret: dict[str, str]) -> None:
    """Requests that are refused, with secrets in them."""
    refused, url = secret["refused"], receiver.url()
    for headers in (
        {"Authorization": f"Bearer {secret['guess']}"},
        {"Authorization": f"Basic {secret['guess']}"},
        {"Upstash-Retries": refused},
        {"Upstash-Delay": refused},
        {"Upstash-Method": refused},
        {"Upstash-Callback": refused},
        {"Upstash-Redact-Fields": refused},
        {"Upstash-Timeout": refused},
        {"Upstash-Flow-Control-Key": "key", "Upstash-Flow-Control-Value": refused},
        {"Upstash-Cron": refused},
        {"Upstash-Not-Before": refused},
        {"Upstash-Flow-Control-Key": refused},
    ):
        answer = await http.post(f"/v2/publish/{url}", content=secret["body"], headers=headers)
        assert 400 <= answer.status_code < 500, (headers, answer.text)
    assert (await http.post(f"/v2/publish/{url}", content=secret["body"] * 10_000)).status_code == 413
    assert (await http.post("/v2/batch", content=f'[{{"{refused}"')).status_code == 400
    assert (
        await http.post("/v2/batch", json=[{"destination": url, "headers": {"Upstash-Retries": refused}}])
    ).status_code == 400
    assert (await http.get("/v2/messages/" + refused)).status_code == 404
    assert (await http.get("/v2/dlq/" + refused)).status_code == 404
    assert (await http.get("/v2/logs", params={"state": refused})).status_code == 400
    assert (
        await http.get("/v2/logs", params={"qstash_token": secret["guess"]}, headers={"Authorization": ""})
    ).status_code == 401
    assert (await http.get(f"/{refused}")).status_code == 404


async def make_trouble(http: httpx.AsyncClient, receiver: Receiver, stage: Stage) -> None:
    """What the database refuses, what it cannot do, and what a node does not expect of it."""
    secret, body = stage.secret, stage.secret["body"]
    headers = {"Upstash-Forward-Authorization": secret["forward"]}
    admin = await asyncpg.connect(stage.url)
    await admin.execute("alter table messages add constraint refused check (url not like '%/refused') not valid")
    answer = await http.post(f"/v2/publish/{receiver.url('/refused')}", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    await admin.execute("alter table messages drop constraint refused")
    await admin.execute("alter table dead_letters add constraint refused check (body is null) not valid")
    answer = await http.post(
        f"/v2/publish/{receiver.url('/bad')}", content=body, headers=headers | {"Upstash-Retries": "0"}
    )
    assert answer.is_success
    await eventually(lambda: admin.fetchval("select count(*) from deliveries where state = 2"), lambda n: n == 0)
    await admin.execute("alter table dead_letters drop constraint refused")
    await admin.execute("alter table url_groups rename to gone")
    answer = await http.get("/v2/topics")
    assert answer.status_code == 500, answer.text
    await http.post("/v2/publish/g", content=body, headers=headers)
    await admin.execute("alter table gone rename to url_groups")
    other = await asyncpg.connect(stage.url.replace("/postroad?", "/postgres?"))
    await other.execute("alter database postroad allow_connections false")
    await other.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postroad'")
    answer = await http.post(f"/v2/publish/{receiver.url('/good')}", content=body, headers=headers)
    assert answer.status_code == 503, answer.text
    await other.execute("alter database postroad allow_connections true")
    await other.close()
    await admin.close()

    async def works() -> int:
        return (await http.post(f"/v2/publish/{receiver.url('/good')}", content=body, headers=headers)).status_code

    await eventually(works, lambda code: code == 201)


async def look_from_outside(http: httpx.AsyncClient, token: str, ids: list[str]) -> list[bytes]:
    """What another tenant is told, and somebody without a token."""
    paths = [
        f"/v2/messages/{ids[0]}",
        "/v2/dlq",
        f"/v2/dlq/{1}",
        "/v2/logs",
        "/v2/events",
        "/v2/schedules",
        "/v2/schedules/s",
    ]
    paths += [
        "/v2/topics",
        "/v2/topics/g",
        "/v2/queues",
        "/v2/keys",
        "/v2/readiness",
        "/metrics",
        "/openapi.json",
        "/docs",
    ]
    answers = [
        await http.get(path, headers={"Authorization": f"Bearer {given}"})
        for path in paths
        for given in (token, "nobody")
    ]
    answers += [await http.post(f"/v2/messages/{ids[0]}/retry", headers={"Authorization": f"Bearer {token}"})]
    answers += [await http.post("/v2/publish/g", headers={"Authorization": f"Bearer {token}"})]
    return [answer.content + str(answer.headers).encode() for answer in answers]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("is_encrypted", "log_format"), [(True, "text"), (False, "json")])
async def test_no_secret_turns_up_where_it_does_not_belong(
    stage: Stage, receiver: Receiver, is_encrypted: bool, log_format: str
) -> None:
    secret, master = stage.secret, stage.settings["POSTROAD_ENCRYPTION_KEY"]
    if not is_encrypted:
        del stage.settings["POSTROAD_ENCRYPTION_KEY"]
    await stage.run("migrate")
    assert "********" in await stage.run("config")
    await stage.run("keys", "set", QSTASH_CURRENT_SIGNING_KEY=secret["current"], QSTASH_NEXT_SIGNING_KEY=secret["next"])
    token = (await stage.run("token", "create", "--tenant", "other")).strip()
    for wrong in ("", secret["refused"], base64.b64encode(os.urandom(32)).decode() if is_encrypted else "x"):
        assert "POSTROAD_ENCRYPTION_KEY" in await stage.run("serve", POSTROAD_ENCRYPTION_KEY=wrong)
    wrong_url = stage.settings["POSTROAD_DATABASE_URL"].replace("/postroad", "/none")
    assert "cannot connect" in await stage.run("serve", POSTROAD_DATABASE_URL=wrong_url)

    async with stage.node(POSTROAD_LOG_FORMAT=log_format) as (http, pid):
        ids = await use_everything(http, receiver, secret)
        await make_mistakes(http, receiver, secret)
        await make_trouble(http, receiver, stage)
        stage.answers += await look_from_outside(http, token, ids)

        async def letters() -> Any:
            return (await http.get("/v2/dlq")).json()["messages"]

        await eventually(letters, lambda letters: len(letters) >= 9)
        os.kill(pid, signal.SIGKILL)
    async with stage.node(POSTROAD_LOG_FORMAT=log_format):
        pass

    everywhere: dict[str, str | bytes] = {**secret, "master": master, "masterbytes": parse_master_keys(master)[0].key}
    said = b"\n".join(stage.output)
    assert said.count(b"took_effect") > 20, "attempts are logged"
    assert b"Traceback" in said, "and defects are"
    assert Canaries(everywhere).found(said) == set()
    assert Canaries(everywhere).found(b"\n".join(stage.answers)) == set()
    if is_encrypted:
        hidden = Canaries(
            {name: value for name, value in everywhere.items() if name not in PASSING} | await keys_of(stage)
        )
        assert hidden.found(await dump(stage)) == set()
        assert hidden.in_files(stage.directory.rglob("*")) == set()


async def keys_of(stage: Stage) -> dict[str, str | bytes]:
    """The data key; whatever is in memory only is on disk afterwards."""
    connection = await asyncpg.connect(stage.url)
    [row] = await connection.fetch("select id, wrapped from data_keys")
    await connection.execute("checkpoint")
    await connection.close()
    [master] = parse_master_keys(stage.settings["POSTROAD_ENCRYPTION_KEY"])
    return {"datakey": master.unwrap(row["wrapped"], row["id"])}


async def dump(stage: Stage) -> bytes:
    """What `pg_dump` writes, as text."""
    account = embedded._account(stage.directory / "postgres")
    binary = embedded._binaries(account) / "pg_dump"
    process = await asyncio.create_subprocess_exec(str(binary), "--dbname", stage.url, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert len(out) > 10_000
    return out


@pytest.mark.parametrize("formatter", [telemetry._Text(), telemetry._Json()])
@pytest.mark.parametrize("where", ["alone", "in a group", "behind another"])
async def test_what_postgres_quotes_of_a_row_is_not_logged(
    formatter: logging.Formatter, connection: Connection, where: str
) -> None:
    secret = a_canary("row")
    await connection.execute("create table t (one int not null, secret text)")
    with pytest.raises(asyncpg.NotNullViolationError, match=secret) as refused:
        await connection.execute(f"insert into t values (null, 'one line\n\n{secret}')")
    error: Exception = refused.value
    if where == "in a group":
        error = ExceptionGroup("of a task group", [error])
    elif where == "behind another":
        error = RuntimeError("because of")
        error.__context__ = refused.value
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it failed", None, (type(error), error, None))

    line = formatter.format(record)

    assert "NotNullViolationError" in line
    assert secret not in line


@pytest.mark.parametrize(
    ("statement", "is_known"),
    [
        ("insert into t values ($1::text)", "t_secret_check"),
        ("select $1::text::int", "InvalidTextRepresentation"),
        ("select $1::int", "argument $1"),
        ("select $1::timestamptz", "argument $1"),
    ],
)
async def test_what_the_database_refuses_is_named_and_not_quoted(
    database: Database, statement: str, is_known: str
) -> None:
    secret = a_canary("value")
    async with database.connection() as connection:
        await connection.execute("create table t (secret text check (length(secret) < 5))")

    with pytest.raises(DataRefused) as refused:
        async with database.connection() as connection:
            await connection.execute(statement, secret)

    assert is_known in str(refused.value)
    assert secret[:10] not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{}/and+more@127.0.0.1:1/db",
        "postgresql://u:{}#and-more@127.0.0.1:1/db",
        "postgresql://u:{}?and-more@127.0.0.1:1/db",
        "postgresql://u:{}\u2100@127.0.0.1:1/db",
        "postgresql://u:[{}@127.0.0.1:1/db",
        "postgresql://u:{}@127.0.0.1:1/db",
        "postgresql://u:p@127.0.0.1:{}/db",
        "postgresql://u:{}@@127.0.0.1:1/db",
        "{}",
    ],
)
async def test_nobody_is_told_the_password_of_a_database_that_cannot_be_reached(url: str) -> None:
    secret = a_canary("password")

    with pytest.raises(Misconfigured, match="cannot connect to the database") as by_command:
        await connected(url.format(secret)).__aenter__()
    with pytest.raises(Misconfigured, match="cannot connect to the database") as by_node:
        await Database.connect(url.format(secret))

    for refused in (by_command, by_node):
        assert secret not in str(refused.value)


def test_a_secret_in_the_log_is_found(log_watch: LogWatch) -> None:
    for secret in (a_canary("log"), f"Bearer {a_canary('log')}", "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "pr_" + "a" * 43):
        logging.getLogger("postroad.test").error("a line with %s in it", secret)

        [line] = log_watch.found()

        assert secret in line
    assert log_watch.found() == []


def test_a_secret_in_the_log_of_another_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"POSTROAD_TOKEN": "of no shape at all"})
    make, level = logging.getLogRecordFactory(), logging.getLogger("postroad").level
    watch = LogWatch(everywhere=True)
    try:
        for said in (a_canary("log"), "the token is 'of no shape at all'", "nothing secret"):
            code = f"import logging; logging.error('%s', {said!r})"
            subprocess.run([sys.executable, "-c", code], env=os.environ, check=True, stderr=subprocess.DEVNULL)

            assert len(watch.found()) == (said != "nothing secret")
    finally:
        watch.close()
        logging.setLogRecordFactory(make)
        logging.getLogger("postroad").setLevel(level)
