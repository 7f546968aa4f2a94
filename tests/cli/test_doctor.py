"""`postroad doctor`: what it finds in order, and what it finds wrong."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from postroad import dev
from tests.cli.conftest import POSTROAD
from tests.conftest import at_database
from tests.receiver import Receiver


async def doctor(*arguments: str, **settings: str) -> tuple[int | None, dict[str, tuple[str, str]]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTROAD_")}
    process = await asyncio.create_subprocess_exec(
        str(POSTROAD),
        "doctor",
        "--json",
        *arguments,
        env=environment | {f"POSTROAD_{name.upper()}": value for name, value in settings.items()},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode, {one["check"]: (one["verdict"], one["sentence"]) for one in json.loads(out)}


async def test_all_is_well(database_url: str, receiver: Receiver, tmp_path: Path) -> None:
    code, found = await doctor(
        "--destination", receiver.url("/x"), database_url=database_url, destinations="any", data_dir=str(tmp_path)
    )

    assert code == 0, found
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert found.keys() == {
        "settings", "database", "schema", "tenants", "clock", "signing", "time zones", "names", "egress", "disk",
    }  # fmt: skip
    assert dev.DEV_USERS[0].keys.current not in str(found)
    assert receiver.requests() == []


async def test_what_is_wrong_is_said_with_what_to_do(postgres: str, database_url: str, receiver: Receiver) -> None:
    code, found = await doctor("--destination", receiver.url("/x"), database_url=at_database(postgres, "none_such"))

    assert code == 1
    assert found["database"][0] == "bad"
    assert "none_such" in found["database"][1]
    assert found["egress"][0] == "bad"
    assert "POSTROAD_DESTINATIONS" in found["egress"][1]


async def test_a_schema_that_is_behind_names_the_command(postgres: str) -> None:
    _, found = await doctor(database_url=postgres)

    assert found["schema"][0] == "bad"
    assert "postroad migrate" in found["schema"][1]
    assert "signing" not in found


async def test_a_setting_that_is_not_understood_ends_it() -> None:
    code, found = await doctor(port="many")

    assert (code, list(found), found["settings"][0]) == (1, ["settings"], "bad")


async def test_without_a_database_it_says_so_and_checks_the_rest(tmp_path: Path) -> None:
    code, found = await doctor(data_dir=str(tmp_path))

    assert code == 0, found
    assert found["database"][0] == found["egress"][0] == "note"
