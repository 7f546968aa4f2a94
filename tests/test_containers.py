"""The container files: what can be known of them without a container engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import PyCompose

from postroad import __version__
from postroad.dispatch.dispatcher import _SETTLE_WITHIN_S
from postroad.domain.duration import parse_duration
from postroad.settings import SECRETS, Settings, load, shown
from postroad.store.engine import CALL_DEADLINE_S
from tests.conftest import Running

ROOT = Path(__file__).parents[1]
COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SCRIPT: str = SERVICES["secrets"]["command"][0].replace("$$", "$")

KNOWN = {f"POSTROAD_{name.upper()}" for name in Settings.model_fields} | {
    f"POSTROAD_{name.upper()}_FILE" for name in SECRETS
}
FOR_COMPOSE_ITSELF = {"PUBLISH"}


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without settings."""
    for name in [name for name in os.environ if name.upper().startswith("POSTROAD_")]:
        monkeypatch.delenv(name)


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert "hadolint ignore" not in DOCKERFILE


def parsed(compose: dict[str, Any]) -> None:
    """Read a compose file as the specification has it, its variables replaced by their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", json.dumps(compose))
    PyCompose.from_json(text).validate()


def test_the_compose_file_is_valid_by_the_compose_specification() -> None:
    parsed(COMPOSE)


@pytest.mark.parametrize(
    ("key", "value"), [("read_onl", True), ("stop_grace_period", "soon"), ("restart", "sometimes"), ("ports", ["x"])]
)
def test_the_specification_would_have_found_a_mistake(key: str, value: Any) -> None:
    wrong = {**COMPOSE, "services": {**SERVICES, "postroad": {**SERVICES["postroad"], key: value}}}

    with pytest.raises(Exception, match=r"line 1 column"):
        parsed(wrong)


def test_the_compose_file_mounts_and_awaits_only_what_it_defines() -> None:
    for service in SERVICES.values():
        assert {mount.partition(":")[0] for mount in service.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)


@pytest.mark.parametrize(
    "name", ["Dockerfile", "docker-compose.yml", "README.md", "docs/operations.md", "docs/security.md", "SECURITY.md"]
)
def test_every_setting_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"POSTROAD_[A-Z_]*[A-Z]", (ROOT / name).read_text()))
    assert named - FOR_COMPOSE_ITSELF <= KNOWN
    assert not FOR_COMPOSE_ITSELF & KNOWN


def test_the_settings_of_the_manual_are_those_of_the_program(no_settings: None) -> None:
    rows = re.findall(r"^\| `(POSTROAD_[A-Z_]+)` \| (?:`(.*?)`)? *\|", (ROOT / "docs/operations.md").read_text(), re.M)
    assert rows == [(name, default) for name, default, _ in shown(load())]


def test_images_are_pinned() -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) + [service["image"] for service in SERVICES.values()]
    for image in images:
        assert re.fullmatch(r"[a-z/]+:[0-9][a-z0-9.-]*", image), image


def test_the_version_is_the_same_everywhere() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert re.findall(r"^ARG VERSION=(.*)", DOCKERFILE, re.M) == [__version__]
    assert {service["image"] for service in SERVICES.values() if "build" in service} == {f"postroad:{__version__}"}


def test_nothing_in_the_compose_file_is_a_password() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|KEY|URL", name):
                assert name.endswith("_FILE"), name
                assert value.startswith("/run/postroad/"), value
    for password in re.findall(r"://[^:@/\s]+:([^@\s]+)@", COMPOSE_FILE.read_text()):
        assert password == "$$(cat postgres-password)"


def test_everything_that_the_dockerfile_copies_is_there_and_let_in() -> None:
    ignored, *exceptions = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    let_in = [line[1:] for line in exceptions if line.startswith("!")]
    assert ignored == "*"
    copied = [source for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.M) for source in line.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
    assert sorted(copied) == sorted(let_in)
    assert not any(fnmatch(name, pattern) for name in (".env", ".git", "postroad.env") for pattern in let_in)


def test_the_image_runs_as_a_user_that_owns_nothing() -> None:
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.M) == ["10001:10001"]
    assert "--chown" not in DOCKERFILE


def test_the_image_holds_only_what_the_lock_file_names() -> None:
    installs = re.findall(r"pip .*?\binstall\b(.*)", DOCKERFILE)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-index" in installs[1]
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split("[<>=~! ]", one)[0] for one in wanted} <= locked


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_may_do_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 512
    for mount in service.get("tmpfs", []):
        assert {"noexec", "nosuid", "nodev"} <= set(mount.partition(":")[2].split(",")), mount


def test_only_postgres_may_take_as_much_memory_as_there_is() -> None:
    assert {name for name, service in SERVICES.items() if "mem_limit" not in service} == {"postgres"}


def test_no_container_that_is_reached_runs_as_root() -> None:
    assert SERVICES["postgres"]["user"] == "postgres"
    assert {name for name, service in SERVICES.items() if "user" not in service} == {"postroad", "migrate", "secrets"}
    assert SERVICES["secrets"]["network_mode"] == "none"


def test_the_image_has_no_shell_and_nothing_that_installs() -> None:
    removed = set(re.findall(r"(/usr/(?:local/)?bin/\S+)", DOCKERFILE.rpartition("FROM ")[2]))
    assert {"/usr/bin/sh", "/usr/bin/dash", "/usr/bin/bash", "/usr/bin/rbash"} <= removed
    assert {"/usr/bin/apt*", "/usr/bin/dpkg*", "/usr/local/bin/pip*"} <= removed
    after = DOCKERFILE[DOCKERFILE.rindex("/usr/bin/sh\n") :]
    assert "RUN" not in after
    for command in re.findall(r"^(?:ENTRYPOINT|CMD|  CMD) (.*)$", after, re.M):
        assert command.startswith("["), "a command that is a text needs a shell"


def test_nothing_is_published_beyond_this_machine_by_default() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"postroad": ["${PUBLISH:-127.0.0.1:8080}:8080"]}


def test_secrets_are_written_by_one_service_only() -> None:
    mounts = {
        (name, mount)
        for name, service in SERVICES.items()
        for mount in service.get("volumes", [])
        if mount.startswith("secrets:")
    }
    assert {name for name, mount in mounts if not mount.endswith(":ro")} == {"secrets"}
    assert SERVICES["secrets"]["network_mode"] == "none"


def test_postroad_starts_after_the_migration_of_a_healthy_database() -> None:
    assert SERVICES["postroad"]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    for service in SERVICES.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert SERVICES[name]["healthcheck"]["test"]
            else:
                assert SERVICES[name]["restart"] == "no"


def test_a_stop_is_given_the_time_that_it_may_take() -> None:
    patience = parse_duration(SERVICES["postroad"]["stop_grace_period"])
    requests = timedelta(seconds=10)
    settling = timedelta(seconds=_SETTLE_WITHIN_S)
    signing_off_and_closing = 2 * timedelta(seconds=CALL_DEADLINE_S)
    assert patience > requests + load({}).shutdown_grace + settling + signing_off_and_closing


def health_check() -> list[str]:
    """The command of the image's health check, which the compose file repeats."""
    found = re.search(r"^HEALTHCHECK [^\n]*\n +CMD (\[.*\])$", DOCKERFILE, re.M)
    assert found
    command: list[str] = json.loads(found[1])
    assert SERVICES["postroad"]["healthcheck"]["test"] == ["CMD", *command]
    return command


async def checked(port: int) -> bool:
    program, *arguments = health_check()
    assert program == "python"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={"POSTROAD_PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:9"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


async def test_the_health_check_tells_whether_the_server_is_ready(server: Running) -> None:
    port = urlsplit(server.url).port
    assert port
    assert await checked(port)
    server.node._stopping = True
    assert not await checked(port)


async def test_the_health_check_fails_where_nobody_listens(unused_tcp_port: int) -> None:
    assert not await checked(unused_tcp_port)


def make_secrets(directory: Path) -> dict[str, str]:
    """The files after a run of the one-shot, with its own entry point."""
    subprocess.run([*SERVICES["secrets"]["entrypoint"], SCRIPT], cwd=directory, check=True, timeout=30)
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_the_first_start_makes_secrets_that_the_services_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_settings: None
) -> None:
    secrets = make_secrets(tmp_path)
    assert set(secrets) == {"postgres-password", "token", "database-url"}
    wanted = set(re.findall(r"/run/postroad/([a-z-]+)", COMPOSE_FILE.read_text()))
    assert wanted == set(secrets)

    url = urlsplit(secrets["database-url"].strip())
    database = SERVICES["postgres"]["environment"]
    assert (url.scheme, url.hostname, url.port) == ("postgresql", "postgres", 5432)
    assert url.username == database["POSTGRES_USER"]
    assert url.path == f"/{database['POSTGRES_DB']}"
    assert url.password == secrets["postgres-password"].strip()
    assert re.fullmatch("[A-Za-z0-9]{43}", url.password)

    for name, path in SERVICES["postroad"]["environment"].items():
        monkeypatch.setenv(name, str(tmp_path / Path(path).name))
    settings = load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == url.geturl()
    assert settings.token is not None
    assert re.fullmatch("pr_[A-Za-z0-9]{43}", settings.token.get_secret_value())


def test_a_second_start_changes_no_secret(tmp_path: Path) -> None:
    first = make_secrets(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert make_secrets(tmp_path) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_a_first_start_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    first = make_secrets(tmp_path)
    (tmp_path / "database-url").unlink()
    (tmp_path / "token").chmod(0o644)
    (tmp_path / "token").write_text("")
    (tmp_path / ".token").write_text("pr_hal")
    (tmp_path / ".token").chmod(0o444)
    second = make_secrets(tmp_path)
    assert set(second) == set(first)
    assert second["database-url"] == first["database-url"]
    assert len(second["token"]) == len(first["token"])


def test_everybody_in_the_volume_can_read_the_secrets_and_nobody_can_write_them(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o444}


def test_no_two_installations_share_a_secret(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert not set(make_secrets(here).values()) & set(make_secrets(there).values())
