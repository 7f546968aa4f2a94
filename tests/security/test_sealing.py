"""Secrets at rest: with a key, what is secret in the database is sealed, and nobody but the database can tell."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from postroad.domain.publication import deduplication_key
from postroad.domain.publish_header import ById
from postroad.errors import KeyMissing, Misconfigured, Unopenable
from postroad.settings import load
from postroad.store import data_keys, resealing
from postroad.store.engine import Connection, Database
from postroad.vault import OVERHEAD, MasterKey, Vault, parse_master_keys, place
from tests.builders import a_publication
from tests.conftest import KEYS, Running, Serve, eventually, running
from tests.moods import status
from tests.receiver import Receiver
from tests.security.canary import Canaries, a_canary

POSTROAD = Path(sys.executable).with_name("postroad")

NAMES = ("body", "forward", "callback", "answer", "answerheader", "schedule", "group", "large", "largeanswer")


def a_key() -> str:
    """A master key as operators write it."""
    return base64.b64encode(os.urandom(32)).decode()


def masters(*keys: str) -> Sequence[MasterKey]:
    """Keys as the settings have them."""
    return parse_master_keys(",".join(keys))


async def everything(connection: Connection) -> bytes:
    """All rows of all tables as text."""
    tables = await connection.fetch(
        """
        select relname::text as name from pg_class
        where relkind = 'r' and relnamespace = current_schema()::regnamespace
        """
    )
    rows = [await connection.fetchval(f"select string_agg(t::text, '\n') from {one['name']} t") for one in tables]
    return "\n".join(str(text) for text in rows).encode()


async def do_everything(server: Running, receiver: Receiver, secret: dict[str, str]) -> dict[str, str]:
    """Use whatever stores a secret; gives the ids of messages."""
    receiver.script("/bad", status(500, secret["answer"].encode(), [("X-Answer", secret["answerheader"])]))
    receiver.script("/bad-large", status(500, secret["largeanswer"].encode() + b"." * 200_000))
    forward = {"Upstash_Forward_Authorization": secret["forward"]}
    back = {
        "Upstash_Callback": receiver.url("/callback"),
        "Upstash_Callback_Forward_Authorization": secret["callback"],
        "Upstash_Failure_Callback": receiver.url("/failed"),
        "Upstash_Failure_Callback_Forward_Authorization": secret["callback"],
    }
    large = secret["large"].encode() + b"." * 200_000
    ids = {
        "good": await server.publish(receiver.url("/good"), secret["body"], Upstash_Label="seen", **forward, **back),
        "bad": await server.publish(receiver.url("/bad"), secret["body"], Upstash_Retries="0", **forward, **back),
        "large": await server.publish(receiver.url("/large"), large, **forward),
        "bad-large": await server.publish(receiver.url("/bad-large"), large, Upstash_Retries="0"),
        "redacted": await server.publish(receiver.url("/good"), large, Upstash_Redact_Fields="body"),
        "queued": (await server.http.post(f"/v2/enqueue/q/{receiver.url('/good')}", content=secret["body"])).json()[
            "messageId"
        ],
        "waiting": await server.publish(receiver.url("/later"), secret["body"], Upstash_Delay="1d", **forward, **back),
    }
    made = await server.http.post(
        f"/v2/schedules/{receiver.url('/tick')}",
        content=secret["schedule"],
        headers={"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": "s", "Upstash-Forward-X": secret["schedule"]},
    )
    assert made.is_success, made.text
    await server.http.post("/v2/topics/group/endpoints", json={"endpoints": [{"url": receiver.url("/group")}]})
    named = await server.http.patch("/v2/topics/group", json={"headers": {"Upstash-Forward-X": [secret["group"]]}})
    assert named.is_success, named.text
    published = await server.http.post("/v2/publish/group", content="x")
    ids["group"] = published.json()[0]["messageId"]
    return ids


async def test_whatever_is_published_with_a_key_is_sealed_delivered_and_shown(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve(encryption_key=a_key())
    secret = {name: a_canary(name) for name in NAMES}

    ids = await do_everything(server, receiver, secret)

    for name in ("good", "large", "queued", "redacted", "group"):
        await server.settled(ids[name])
    await server.settled(ids["bad"], "FAILED")
    await server.settled(ids["bad-large"], "FAILED")
    good, callback = await receiver.next_request("/good"), await receiver.next_request("/callback")
    large, group = await receiver.next_request("/large"), await receiver.next_request("/group")
    assert (good.body.decode(), good.header("Authorization")) == (secret["body"], secret["forward"])
    assert callback.header("Authorization") == secret["callback"]
    assert large.body == secret["large"].encode() + b"." * 200_000
    assert group.header("X") == secret["group"]
    letters = {letter["url"].rpartition("/")[2]: letter for letter in await server.dead_letters()}
    assert letters["bad"]["body"] == secret["body"]
    assert letters["bad"]["responseBody"] == secret["answer"]
    assert letters["bad"]["responseHeader"]["X-Answer"] == [secret["answerheader"]]
    assert letters["bad-large"]["responseBody"].startswith(secret["largeanswer"])
    [error] = await server.events(messageId=ids["bad-large"], state="ERROR")
    assert base64.b64decode(error["responseBody"]) == (secret["largeanswer"].encode() + b"." * 200_000)[:65536]
    assert base64.b64decode(error["body"]) == (secret["large"].encode() + b"." * 200_000)[:65536]
    [redacted] = await server.events(messageId=ids["redacted"], state="CREATED")
    digest = sha256(secret["large"].encode() + b"." * 200_000).hexdigest()
    assert redacted["body"] == f"REDACTED:{digest}"
    [schedule] = (await server.http.get("/v2/schedules")).json()
    assert (schedule["body"], schedule["header"]["X"]) == (secret["schedule"], [secret["schedule"]])
    waiting = (await server.http.get(f"/v2/messages/{ids['waiting']}")).json()
    assert waiting["callbackHeader"]["Authorization"] == [secret["callback"]]
    [one] = [one for one in (await server.http.get("/v2/topics")).json() if one["name"] == "group"]
    assert one["headers"]["Upstash-Forward-X"] == [secret["group"]]

    stored = await everything(connection)
    assert Canaries(secret).found(stored) == set()
    assert await connection.fetchval("select count(*) from messages where sealed is distinct from 1") == 0
    sizes = await connection.fetch("select distinct octet_length(body) from messages where octet_length(body) > 1000")
    assert [tuple(size) for size in sizes] == [(200_000 + len(secret["large"]) + OVERHEAD,)]


async def test_a_tick_publishes_what_was_sealed(serve: Serve, receiver: Receiver) -> None:
    server = await serve(encryption_key=a_key())
    await do_everything(server, receiver, secret := {name: a_canary(name) for name in NAMES})

    await server.time_passes(timedelta(minutes=1))

    tick = await receiver.next_request("/tick")
    assert (tick.body.decode(), tick.header("X")) == (secret["schedule"], secret["schedule"])


async def test_a_dead_letter_that_was_sealed_is_retried_as_it_was(serve: Serve, receiver: Receiver) -> None:
    server = await serve(encryption_key=a_key())
    secret = {name: a_canary(name) for name in NAMES}
    receiver.script("/twice", status(500), status(200))
    message_id = await server.publish(
        receiver.url("/twice"), secret["body"], Upstash_Retries="0", Upstash_Forward_Authorization=secret["forward"]
    )
    await server.settled(message_id, "FAILED")
    [letter] = await server.dead_letters()

    await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")

    await receiver.next_request("/twice")
    again = await receiver.next_request("/twice")
    assert (again.body.decode(), again.header("Authorization")) == (secret["body"], secret["forward"])


async def test_what_is_called_as_we_call_what_is_sealed_is_delivered_like_anything_else(
    serve: Serve, receiver: Receiver
) -> None:
    server = await serve(encryption_key=a_key())
    endpoint = {"url": receiver.url("/endpoint"), "name": "sealed"}
    await server.http.post("/v2/topics/sealed/endpoints", json={"endpoints": [endpoint]})
    limits = {"Upstash-Flow-Control-Key": "sealed", "Upstash-Flow-Control-Value": "parallelism=1"}

    ids = [
        (await server.http.post(f"/v2/publish/{receiver.url('/flow')}", headers=limits)).json()["messageId"],
        (await server.http.post("/v2/publish/sealed")).json()[0]["messageId"],
    ]

    for message_id in ids:
        await server.settled(message_id)


async def test_signing_keys_are_sealed_and_rotate(serve: Serve, connection: Connection) -> None:
    server = await serve(encryption_key=a_key())
    async with server.node._database.connection() as own:
        await resealing._signing_keys(own, 0)

    rotated = (await server.http.post("/v2/keys/rotate")).json()

    assert rotated["current"] == KEYS.next
    assert (await server.http.get("/v2/keys")).json() == rotated
    stored = await everything(connection)
    assert Canaries({"one": KEYS.current, "two": KEYS.next, "three": rotated["next"]}).found(stored) == set()


# What cannot be opened.


async def test_what_was_moved_to_another_row_is_buried_and_harms_nobody_else(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve(encryption_key=a_key())
    ids = [await server.publish(receiver.url(f"/{n}"), f"body {n}", Upstash_Delay="1h") for n in range(3)]
    await connection.execute(
        """
        update messages m set body = o.body from messages o
        where m.url like '%/0' and o.url like '%/1'
        """
    )

    await server.time_passes(timedelta(hours=1))

    await server.settled(ids[0], "FAILED")
    await server.settled(ids[1])
    await server.settled(ids[2])
    [letter] = await server.dead_letters()
    assert "data key 1" in letter["responseBody"]
    assert "data key 1" in letter["body"]
    assert "body 1" not in str(letter)
    answer = await server.http.post(f"/v2/dlq/retry/{letter['dlqId']}")
    assert (answer.status_code, "data key 1" in answer.json()["error"]) == (500, True)
    assert (await server.http.post("/v2/dlq/retry")).json()["responses"] == []
    assert (await server.http.delete(f"/v2/dlq/{letter['dlqId']}")).is_success


@pytest.mark.parametrize(
    "damage",
    [
        "header = '\"é\"'",
        "header = '\"%\"'",
        "header = to_jsonb(left(header #>> '{}', 20))",
        "header = to_jsonb(left(header #>> '{}', 56))",
        "options = jsonb_set(options, '{sealed}', '1')",
        "options = jsonb_set(options, '{sealed}', '\"AAAA\"')",
        "body = substring(body for 1)",
        "body = substring(body for 43)",
        "sealed = 7",
    ],
)
async def test_what_is_damaged_in_whatever_way_is_buried_or_left_to_others_and_harms_nobody_else(
    serve: Serve, receiver: Receiver, connection: Connection, damage: str
) -> None:
    server = await serve(encryption_key=a_key())
    more = {"Upstash_Forward_A": "b", "Upstash_Callback": receiver.url("/callback"), "Upstash_Delay": "1h"}
    ids = [await server.publish(receiver.url(f"/{n}"), "body", **more) for n in range(2)]
    assert await connection.execute(f"update messages set {damage} where url like '%/0'") == "UPDATE 1"

    await server.time_passes(timedelta(hours=1))

    await server.settled(ids[1])
    if damage != "sealed = 7":
        await server.settled(ids[0], "FAILED")
    assert receiver.requests("/0") == []
    assert "data key" in (await server.http.get(f"/v2/messages/{ids[0]}")).json()["body"]


async def test_nobody_has_secrets_sent_elsewhere_by_a_change_in_the_database(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve(encryption_key=a_key())
    sent = [await server.publish(receiver.url("/there"), b"." * size, Upstash_Delay="1h") for size in (10, 200_000)]
    await server.http.post(
        f"/v2/schedules/{receiver.url('/there')}", headers={"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": "s"}
    )
    for table, column in (("messages", "url"), ("schedules", "destination")):
        await connection.execute(f"update {table} set {column} = replace({column}, 'there', 'here')")

    await server.time_passes(timedelta(hours=1))

    for message_id in sent:
        await server.settled(message_id, "FAILED")

    async def error() -> str:
        return str((await server.http.get("/v2/schedules/s")).json().get("error"))

    await eventually(error, lambda text: "data key 1" in text)
    assert receiver.requests("/here") == []


async def test_a_large_body_that_is_damaged_ends_as_a_dead_letter(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve(encryption_key=a_key())
    message_id = await server.publish(receiver.url(), b"." * 200_000, Upstash_Delay="1h")
    await connection.execute("update messages set body = set_byte(body, 1000, 255 - get_byte(body, 1000))")

    await server.time_passes(timedelta(hours=1))

    await server.settled(message_id, "FAILED")
    [letter] = await server.dead_letters()
    assert "data key 1" in letter["responseBody"]


async def test_a_schedule_and_a_url_group_that_are_damaged_say_so_and_hold_up_nobody(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    server = await serve(encryption_key=a_key())
    await do_everything(server, receiver, {name: a_canary(name) for name in NAMES})
    for destination, name in ((receiver.url("/other"), "other"), ("group", "of-group")):
        await server.http.post(
            f"/v2/schedules/{destination}", headers={"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": name}
        )
    await connection.execute("update schedules set fields = '\"AAAA\"' where id = 's'")
    await connection.execute("update url_groups set headers = to_jsonb(reverse(headers #>> '{}'))")

    await server.time_passes(timedelta(minutes=1))

    await receiver.next_request("/other")

    async def errors() -> dict[str, str]:
        return {one["scheduleId"]: one.get("error", "") for one in (await server.http.get("/v2/schedules")).json()}

    async def fired() -> Any:
        return await connection.fetchval("select count(*) from schedules where last_at is not null")

    await eventually(fired, lambda count: count == 3)
    said = await errors()
    await server.drain()
    assert receiver.requests("/tick") == []
    assert "data key 1" in said["s"]
    assert "data key 1" in said["of-group"]
    assert said["other"] == ""
    answer = await server.http.post("/v2/publish/group", content="x")
    assert (answer.status_code, "data key 1" in answer.json()["error"]) == (500, True)


async def test_a_node_without_the_key_leaves_messages_to_those_that_have_it(
    database_url: str, receiver: Receiver, connection: Connection
) -> None:
    key = a_key()
    async with running(database_url) as ignorant, running(database_url, encryption_key=key, roles="api") as knowing:
        message_id = await knowing.publish(receiver.url(), "body")

        async def claims() -> Any:
            return await connection.fetchval("select lease from deliveries")

        await eventually(claims, lambda lease: lease >= 1)
        shown = (await ignorant.http.get(f"/v2/messages/{message_id}")).json()
        assert "POSTROAD_ENCRYPTION_KEY" in shown["body"]

        async def readiness() -> Any:
            return (await ignorant.http.get("/v2/readiness")).text

        await eventually(readiness, lambda text: "data key 1" in text)

    async with running(database_url, encryption_key=key) as server:
        await server.settled(message_id)
    assert (await receiver.next_request()).body == b"body"


# Keys.


async def refusal(database_url: str, *keys: str) -> str:
    """What a node with these keys says instead of starting."""
    database = await Database.connect(database_url)
    try:
        async with database.connection() as connection:
            with pytest.raises(Misconfigured) as refused:
                await data_keys.unlock(connection, masters(*keys) if keys else ())
    finally:
        await database.close()
    return str(refused.value)


async def test_a_node_does_not_start_without_the_key_that_its_database_needs(database_url: str) -> None:
    right, wrong = a_key(), a_key()
    async with running(database_url, encryption_key=right):
        pass

    without, another = await refusal(database_url), await refusal(database_url, wrong)

    assert "set POSTROAD_ENCRYPTION_KEY" in without
    assert "does not open data key 1" in another
    for said in (without, another):
        assert f"the fingerprint {masters(right)[0].fingerprint}" in said
        assert Canaries({"right": right, "wrong": wrong}).found(said.encode()) == set()


async def test_an_old_master_key_is_not_needed_any_more_once_data_keys_are_wrapped_anew(
    database_url: str, receiver: Receiver
) -> None:
    old, new = a_key(), a_key()
    async with running(database_url, encryption_key=old) as server:
        message_id = await server.publish(receiver.url(), "body", Upstash_Delay="1h")

    database = await Database.connect(database_url)
    async with database.connection() as connection:
        with pytest.raises(Misconfigured):
            await data_keys.rewrap(connection, masters(new))
        assert await data_keys.rewrap(connection, masters(new, old)) == 1
        assert await data_keys.rewrap(connection, masters(new, old)) == 0
    await database.close()

    assert "data key 1" in await refusal(database_url, old)
    async with running(database_url, encryption_key=new) as server:
        await server.time_passes(timedelta(hours=1))
        await server.settled(message_id)


async def test_a_new_data_key_is_used_when_every_node_has_read_it(
    serve: Serve, receiver: Receiver, connection: Connection
) -> None:
    key = a_key()
    server = await serve(encryption_key=key)
    database = server.node._database

    async def number_of_the_next() -> int:
        await server.publish(receiver.url(), "body", Upstash_Delay="1h")
        async with database.connection() as own:
            await data_keys.refresh(own, masters(key))
        newest: int = await connection.fetchval("select sealed from messages order by created_at desc limit 1")
        return newest

    async with database.connection() as own:
        assert await data_keys.renew(own, masters(key)) == 2
    assert [await number_of_the_next() for _ in range(2)] == [1, 1]
    await connection.execute("update data_keys set created_at = created_at - interval '1 minute'")
    assert [await number_of_the_next() for _ in range(2)] == [1, 2]
    await server.time_passes(timedelta(hours=1))
    for _ in range(4):
        assert (await receiver.next_request()).body == b"body"


async def test_two_nodes_that_start_together_make_one_data_key(database_url: str, connection: Connection) -> None:
    key = a_key()

    async def start() -> None:
        async with running(database_url, encryption_key=key):
            pass

    await asyncio.gather(start(), start(), start())

    assert await connection.fetchval("select array_agg(id) from data_keys") == [1]
    assert await connection.fetchval("select oldest_program from schema_compatibility") >= "0006"


async def test_what_was_stored_plain_is_sealed_under_traffic_and_nothing_gets_lost(
    database_url: str, receiver: Receiver, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {name: a_canary(name) for name in NAMES}
    async with running(database_url) as server:
        ids = await do_everything(server, receiver, secret)
        await server.settled(ids["bad"], "FAILED")
        await server.settled(ids["bad-large"], "FAILED")
        for n in range(40):
            await server.publish(receiver.url("/later"), f"{n}", Upstash_Delay="1d", Upstash_Forward_N=f"{n}")

        async def unfinished() -> Any:
            return await connection.fetchval("select count(*) from deliveries")

        await eventually(unfinished, lambda count: count == 41)
    monkeypatch.setattr(resealing, "STEP", 7)
    key = a_key()

    async with running(database_url, encryption_key=key) as server:
        traffic = [asyncio.create_task(server.publish(receiver.url("/traffic"), f"{n}")) for n in range(50)]
        counts = await resealing.seal(server.node._database)
        again = await resealing.seal(server.node._database)
        await asyncio.gather(*traffic)

        assert counts == {"signing_keys": 4, "url_groups": 1, "schedules": 1, "messages": 43, "dead_letters": 2}
        assert set(again.values()) == {0}
        needed = "id in (select id from deliveries union select message_id from dead_letters)"
        assert await connection.fetchval(f"select count(*) from messages where {needed} and sealed is null") == 0
        for table in ("messages", "attempts"):
            # What only the log refers to is left to retention.
            await connection.execute(f"delete from {table} where sealed is null")
        assert Canaries(secret).found(await everything(connection)) == set()
        await server.time_passes(timedelta(days=1))
        arrived = [await receiver.next_request("/later") for _ in range(41)]
        assert {(one.body.decode(), one.header("N")) for one in arrived if one.header("N")} == {
            (f"{n}", f"{n}") for n in range(40)
        }
        [first] = [one for one in arrived if one.header("N") is None]
        assert (first.body.decode(), first.header("Authorization")) == (secret["body"], secret["forward"])


async def test_of_two_that_seal_at_once_neither_seals_what_the_other_has_sealed(
    database_url: str, receiver: Receiver, connection: Connection
) -> None:
    secret = {name: a_canary(name) for name in NAMES}
    async with running(database_url) as server:
        ids = await do_everything(server, receiver, secret)
        await server.settled(ids["bad"], "FAILED")
    key = a_key()
    one, other = await Database.connect(database_url), await Database.connect(database_url)
    for database in (one, other):
        async with database.connection() as own:
            await data_keys.unlock(own, masters(key))

    for step, after in resealing.steps().values():
        async with one.transaction() as own:
            assert (await step(own, after))[0] > 0
            second = asyncio.create_task(other.repeated(partial(resealing._take, step, after)))
            await eventually(lambda: connection.fetchval("select count(*) from pg_locks where not granted"), bool)
        assert (await second)[0] == 0
    await one.close()
    await other.close()

    async with running(database_url, encryption_key=key) as server:
        [letter] = await server.dead_letters(messageId=ids["bad"])
        assert (letter["responseBody"], letter["body"]) == (secret["answer"], secret["body"])
        assert letter["responseHeader"]["X-Answer"] == [secret["answerheader"]]
        assert (await server.http.get("/v2/keys")).json()["current"] == KEYS.current


@pytest.mark.parametrize("how", [{"Upstash-Deduplication-Id": "1234"}, {"Upstash-Content-Based-Deduplication": "true"}])
async def test_duplicates_are_found_by_keys_from_which_nothing_can_be_guessed(
    serve: Serve, receiver: Receiver, connection: Connection, how: dict[str, str]
) -> None:
    server = await serve(encryption_key=a_key())

    answers = [await server.http.post(f"/v2/publish/{receiver.url()}", content="1234", headers=how) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 202]
    guess = deduplication_key(replace(a_publication(receiver.url()), deduplication=ById("1234")))
    assert guess is not None
    stored = await connection.fetchval("select key from deduplications")
    assert stored != guess
    assert (stored == server.node._database.vault.blinded(guess)) == ("Upstash-Deduplication-Id" in how)


async def test_the_command_line_shows_renews_rewraps_and_seals(database_url: str) -> None:
    old, new = a_key(), a_key()
    given = dict(os.environ)

    async def command(*words: str, key: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(POSTROAD), *words, env=given | {"POSTROAD_DATABASE_URL": database_url, "POSTROAD_ENCRYPTION_KEY": key},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode()

    assert "signing_keys=4" in await command("encryption", "seal", key=old)
    assert KEYS.current in await command("keys", "show", key=old)
    assert "data key 2" in await command("encryption", "renew", key=old)
    assert "2 data keys" in await command("encryption", "rewrap", key=f"{new},{old}")
    shown = await command("encryption", "show", key=new)
    assert shown.count(f"master-key={masters(new)[0].fingerprint}") == 2
    rotated = await command("keys", "rotate", key=new)
    assert f"QSTASH_CURRENT_SIGNING_KEY={KEYS.next}" in rotated
    refused = await command("keys", "show", key=old)
    assert refused.startswith("postroad: POSTROAD_ENCRYPTION_KEY does not open data key 1")
    assert refused.count("\n") == 1
    assert Canaries({"old": old, "new": new}).found((shown + rotated + refused).encode()) == set()


# The vault by itself.


def a_vault() -> Vault:
    """An open one."""
    vault = Vault()
    vault.unlock({1: os.urandom(32)}, 1)
    return vault


def test_a_sealed_value_opens_at_its_place_and_nowhere_else() -> None:
    vault, here = a_vault(), place("messages.body", 1, b"row")
    sealed = vault.seal(b"plain", here)

    assert len(sealed) == len(b"plain") + OVERHEAD
    assert vault.open(sealed, 1, here) == b"plain"
    elsewhere = [
        place("messages.header", 1, b"row"),
        place("messages.body", 2, b"row"),
        place("messages.body", 1, b"r"),
    ]
    for there in elsewhere:
        with pytest.raises(Unopenable, match="data key 1"):
            vault.open(sealed, 1, there)
    for n in range(len(sealed)):
        changed = bytearray(sealed)
        changed[n] ^= 1
        with pytest.raises(Unopenable):
            vault.open(bytes(changed), 1, here)
        with pytest.raises(Unopenable):
            vault.open(sealed[:n], 1, here)
    with pytest.raises(KeyMissing, match="data key 2"):
        vault.open(sealed, 2, here)


def test_no_two_seals_are_the_same_and_every_process_has_its_own_salt() -> None:
    one, other, here = Vault(), Vault(), place("messages.body", 1, b"row")
    key = os.urandom(32)
    one.unlock({1: key}, 1)
    other.unlock({1: key}, 1)
    mine, theirs = [one.seal(b"x", here) for _ in range(100)], other.seal(b"x", here)

    assert len({sealed[16:28] for sealed in mine}) == 100
    assert len({sealed[:16] for sealed in mine}) == 1
    assert theirs[:16] != mine[0][:16]
    assert one.open(theirs, 1, here) == b"x"
    one.unlock({1: key}, 1)
    assert one.seal(b"x", here)[:16] == mine[0][:16]
    one._seals_left = 0
    assert one.seal(b"x", here)[:16] != mine[0][:16]


def test_a_closed_vault_changes_nothing() -> None:
    assert Vault().number is None
    assert Vault().blinded(b"digest") == b"digest"
    assert a_vault().blinded(b"digest") != b"digest"


@pytest.mark.parametrize("text", ["", " , ", "short", base64.b64encode(b"." * 31).decode(), "ä" * 44])
def test_a_key_that_is_none_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(Misconfigured, match="POSTROAD_ENCRYPTION_KEY") as refused:
        load({"POSTROAD_ENCRYPTION_KEY": text})

    assert text.strip(" ,") not in str(refused.value) or not text.strip(" ,")


def test_several_keys_are_given_with_commas_or_lines() -> None:
    one, other = a_key(), a_key()

    assert load({"POSTROAD_ENCRYPTION_KEY": f"{one},\n{other}\n"}).master_keys() == masters(one, other)
    assert one not in repr(masters(one))
