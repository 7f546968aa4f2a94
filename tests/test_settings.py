"""Settings: where they may come from, and how an operator is told that one is wrong."""

from __future__ import annotations

import os
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from postroad.errors import Misconfigured
from postroad.settings import SECRETS, Settings, load, shown

DATABASE_URL = "postgresql://postroad:hunter2@db/postroad"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without settings."""
    for name in [name for name in os.environ if name.upper().startswith("POSTROAD_")]:
        monkeypatch.delenv(name)


def test_an_unknown_setting_is_refused_with_the_nearest_real_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_DATABSE_URL", DATABASE_URL)
    with pytest.raises(
        Misconfigured, match=r"unknown setting POSTROAD_DATABSE_URL, did you mean POSTROAD_DATABASE_URL\?"
    ):
        load()


def test_an_unknown_setting_that_resembles_none_points_to_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_ZZZZZZZZZZZZZZZZZZZZ", "1")
    with pytest.raises(Misconfigured, match=r"unknown setting POSTROAD_Z+; `postroad config` lists all of them"):
        load()


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load()
    monkeypatch.setenv("POSTROADS", "1")
    monkeypatch.setenv("QSTASH_TOKEN", "1")
    assert load() == before


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_PORT", "9000")
    assert load().port == 9000
    assert load(port=9001, host=None).port == 9001


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_be_the_content_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    fitting = {"egress_proxy": "http://me:s3cret@proxy:3128", "encryption_key": b64encode(b"s3cret!!" * 4).decode()}
    secret = fitting.get(name, "s3cret-s3cret-s3cret")
    monkeypatch.setenv(f"POSTROAD_{name.upper()}_FILE", str(written(tmp_path, f"  {secret}\n".encode())))
    assert getattr(load(), name) == SecretStr(secret)


def test_the_password_of_a_proxy_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_EGRESS_PROXY", "http://me:s3cret@proxy:3128")
    assert ("POSTROAD_EGRESS_PROXY", "********") in [(name, value) for name, value, _ in shown(load())]
    monkeypatch.setenv("POSTROAD_EGRESS_PROXY", "http://me:s3cret@proxy")
    with pytest.raises(Misconfigured, match=r"POSTROAD_EGRESS_PROXY: .*expected http://host:port") as caught:
        load()
    assert "s3cret" not in str(caught.value)


def test_the_proxies_of_the_environment_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy:3128")
    assert load().egress_proxy is None


def test_every_secret_and_nothing_else_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert set(SECRETS) == {
        name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
    }
    monkeypatch.setenv("POSTROAD_PORT_FILE", str(written(tmp_path, b"9000")))
    with pytest.raises(Misconfigured, match="unknown setting POSTROAD_PORT_FILE"):
        load()


def test_a_secret_is_not_taken_from_two_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSTROAD_TOKEN", "one")
    monkeypatch.setenv("POSTROAD_TOKEN_FILE", str(written(tmp_path, b"another")))
    with pytest.raises(Misconfigured, match="POSTROAD_TOKEN and POSTROAD_TOKEN_FILE are both set"):
        load()


def test_a_secret_file_that_is_not_there_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTROAD_DATABASE_URL_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(Misconfigured, match=r"POSTROAD_DATABASE_URL_FILE: cannot read .*nowhere.*: No such file"):
        load()


@pytest.mark.parametrize(("content", "complaint"), [(b" \n", "is empty"), (b"\xff\xfe", "is not text")])
def test_a_secret_file_must_hold_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, complaint: str
) -> None:
    monkeypatch.setenv("POSTROAD_TOKEN_FILE", str(written(tmp_path, content)))
    with pytest.raises(Misconfigured, match=f"POSTROAD_TOKEN_FILE: .*{complaint}"):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTROAD_PORT", "eighty"),
        ("POSTROAD_PORT", "65536"),
        ("POSTROAD_WORKERS", "0"),
        ("POSTROAD_ROLES", "api,cook"),
        ("POSTROAD_ROLES", ""),
        ("POSTROAD_SHUTDOWN_GRACE", "soon"),
        ("POSTROAD_MAX_DELAY", "-1d"),
        ("POSTROAD_DESTINATIONS", "public,any"),
        ("POSTROAD_DESTINATIONS", "10.0.0.0/33"),
        ("POSTROAD_TRUSTED_PROXIES", "nginx"),
        ("POSTROAD_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("POSTROAD_MAX_CALLS_PER_SECOND", "-1"),
        ("POSTROAD_MAX_MESSAGES_PER_DAY", "many"),
        ("POSTROAD_LOG_LEVEL", "loud"),
        ("POSTROAD_DOCS", "perhaps"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=f"invalid settings: {name}"):
        load()


def test_all_invalid_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_PORT", "eighty")
    monkeypatch.setenv("POSTROAD_SLOTS", "-1")
    with pytest.raises(Misconfigured, match=r"POSTROAD_PORT: .*; POSTROAD_SLOTS: "):
        load()


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("45", timedelta(seconds=45)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1d10h30m", timedelta(days=1, hours=10, minutes=30)),
    ],
)
def test_a_duration_is_written_as_publishers_write_it(
    monkeypatch: pytest.MonkeyPatch, text: str, duration: timedelta
) -> None:
    monkeypatch.setenv("POSTROAD_SHUTDOWN_GRACE", text)
    assert load().shutdown_grace == duration


def test_roles_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_ROLES", "dispatcher, api")
    assert load().roles == ("dispatcher", "api")
    assert load(roles="api").roles == ("api",)


def test_destinations_may_be_a_preset_with_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_DESTINATIONS", "public,10.0.0.0/8,app:3000")
    assert load().destinations == "public,10.0.0.0/8,app:3000"


def test_what_is_shown_masks_secrets_wherever_they_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSTROAD_DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("POSTROAD_TOKEN_FILE", str(written(tmp_path, b"correct-horse-battery")))
    settings = load()
    values = {name: value for name, value, _ in shown(settings)}
    assert values["POSTROAD_DATABASE_URL"] == values["POSTROAD_TOKEN"] == "********"
    told = f"{shown(settings)} {settings!r} {settings}"
    assert "hunter2" not in told
    assert "battery" not in told


def test_an_invalid_setting_beside_a_secret_does_not_tell_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("POSTROAD_PORT", "eighty")
    with pytest.raises(Misconfigured) as refused:
        load()
    assert "hunter2" not in str(refused.value)


def test_what_is_shown_can_be_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROAD_ROLES", "dispatcher")
    monkeypatch.setenv("POSTROAD_MAX_DELAY", "90m")
    monkeypatch.setenv("POSTROAD_DOCS", "no")
    settings = load()
    lines = shown(settings)
    assert {name for name, _, _ in lines} == {f"POSTROAD_{name.upper()}" for name in Settings.model_fields}
    for name, value, meaning in lines:
        assert meaning
        if value:
            monkeypatch.setenv(name, value)
    assert load() == settings


def written(directory: Path, content: bytes) -> Path:
    path = directory / "secret"
    path.write_bytes(content)
    return path
