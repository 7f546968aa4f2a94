"""Settings from the `POSTROAD_*` environment and from files it names, validated before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from postroad import faults
from postroad.domain.destination import parse_url
from postroad.domain.duration import format_duration, parse_duration
from postroad.domain.limits import Limits
from postroad.domain.network import parse_networks, parse_policy
from postroad.domain.proxy import parse_proxy
from postroad.domain.schedule import LONGEST_CATCH_UP
from postroad.errors import InvalidDestination, InvalidValue, Misconfigured
from postroad.vault import MasterKey, parse_master_keys

PREFIX = "POSTROAD_"

Role = Literal["api", "dispatcher"]
ROLES: tuple[Role, ...] = ("api", "dispatcher")

SECRETS = ("database_url", "egress_proxy", "encryption_key", "token")
"""Settings that a file may hold instead: `POSTROAD_TOKEN_FILE` is the path of one whose content is the token."""


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value, bare_seconds=True)
    except InvalidValue as error:
        raise ValueError(str(error)) from None


def _policy(value: object) -> object:
    try:
        parse_policy(str(value))
    except InvalidValue as error:
        raise ValueError(str(error)) from None
    return value


def _proxy(value: object) -> object:
    try:
        parse_proxy(value.get_secret_value() if isinstance(value, SecretStr) else str(value))
    except InvalidValue as error:
        # Without the value, which may hold a password.
        raise ValueError(f"expected {error.expected}") from None
    return value


def _networks(value: object) -> object:
    try:
        parse_networks(str(value))
    except InvalidValue as error:
        raise ValueError(str(error)) from None
    return value


def _url(value: object) -> object:
    try:
        parse_url(str(value))
    except InvalidDestination as error:
        raise ValueError(str(error)) from None
    return value


def _origin(value: object) -> object:
    text = str(value).rstrip("/")
    if urlsplit(str(_url(text))).query or "#" in text:
        raise ValueError(f"{text} has a query or a fragment: expected a URL such as https://queue.example.com")
    return text


def _master_keys(value: object) -> object:
    parse_master_keys(value if isinstance(value, str) else "")
    return value


def _roles(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Retention = Annotated[Duration, Field(ge=timedelta(days=1))]


class Settings(BaseSettings):
    """Every setting of the server. Each is read from `POSTROAD_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 14 or newer, or ..._URL_FILE with it; `dev` runs its own without it"
    )
    data_dir: Path = Field(Path(".postroad"), description="where `dev` keeps its PostgreSQL")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on")
    roles: Annotated[tuple[Role, ...], NoDecode, BeforeValidator(_roles)] = Field(
        ROLES, description="what this node does: api, dispatcher"
    )
    public_url: Annotated[str, BeforeValidator(_origin)] | None = Field(
        None, description="where handlers reach this server to report, e.g. https://queue.example.com; `dev` knows it"
    )
    trusted_proxies: Annotated[str, BeforeValidator(_networks)] = Field(
        "", description="addresses and networks of proxies whose X-Forwarded-For counts, e.g. 127.0.0.1,10.0.0.0/8"
    )
    workers: int = Field(1, ge=1, le=256, description="processes, all on the same port")
    database_connections: int = Field(10, ge=4, le=1000, description="connections of one process at most")
    token: SecretStr | None = Field(None, description="a token accepted from the first start on, or ..._TOKEN_FILE")
    encryption_key: Annotated[SecretStr, BeforeValidator(_master_keys)] | None = Field(
        None, description="32 bytes in base64 that secrets are stored under, old keys behind it, or ..._KEY_FILE"
    )
    row_level_security: bool = Field(
        True, description="false where the role of the wall between tenants cannot be made"
    )
    allow_dev_credentials: bool = Field(False, description="let `serve` run with the public tokens of `dev`")
    destinations: Annotated[str, BeforeValidator(_policy)] | None = Field(
        None,
        description="where messages may go: public (default of serve), lan, any (default of dev), or a list; ! refuses",
    )
    egress_proxy: Annotated[SecretStr, BeforeValidator(_proxy)] | None = Field(
        None, description="proxy for all deliveries, http://user:password@host:3128, or ..._PROXY_FILE with it"
    )
    llm_url: Annotated[str, BeforeValidator(_url)] | None = Field(
        None, description="where the destination api/llm leads, e.g. https://api.openai.com/v1/chat/completions"
    )
    region: str | None = Field(
        None,
        pattern="^[A-Z0-9-]+$",
        description="sent as Upstash-Region, e.g. EU-CENTRAL-1, for receivers of several regions",
    )
    standard_webhooks: bool = Field(
        False, description="send the signatures of Standard Webhooks (webhook-id, ...) beside Upstash-Signature"
    )
    ca_file: Path | None = Field(None, description="certificates to trust beside the system's")
    slots: int = Field(1000, ge=1, le=100_000, description="deliveries in progress in one process at most")
    key_rotation_guard: Duration | None = Field(
        None, description="how soon signing keys may be rotated again: 1h (default of serve), 0s (default of dev)"
    )
    shutdown_grace: Duration = Field(timedelta(seconds=30), description="how long a stop waits for deliveries")
    message_linger: Duration = Field(timedelta(minutes=10), description="how long a finished message can be read")
    log_retention: Retention = Field(timedelta(days=14), description="how long the log keeps events")
    dlq_retention: Retention = Field(timedelta(days=90), description="how long dead letters are kept")
    deduplication_window: Duration = Field(timedelta(minutes=10), description="how long a deduplication id lasts")
    schedule_catch_up: Duration = Field(
        timedelta(minutes=10), le=LONGEST_CATCH_UP, description="how old missed ticks may be that all fire after all"
    )
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1, le=512 * 1024 * 1024, description="largest message")
    max_response_bytes: int = Field(1024 * 1024, ge=1024, description="how much of a response is kept")
    max_delay: Duration = Field(timedelta(days=366), description="longest delay")
    max_retries: int = Field(1000, ge=0, le=1_000_000, description="largest Upstash-Retries")
    default_retries: int = Field(3, ge=0, le=1000, description="retries without Upstash-Retries")
    max_timeout: Duration = Field(timedelta(hours=2), description="longest and default time of one attempt")
    max_batch_items: int = Field(5_000, ge=1, le=100_000, description="items of a batch")
    max_batch_bytes: int = Field(100 * 1024 * 1024, ge=1, le=1024**3, description="size of a batch")
    max_queues: int = Field(100_000, ge=1, description="queues of a tenant")
    max_queue_parallelism: int = Field(1_000, ge=1, le=10_000, description="largest parallelism of a queue")
    max_url_groups: int = Field(10_000, ge=1, le=1_000_000, description="URL groups of a tenant")
    max_endpoints: int = Field(1_000, ge=1, le=10_000, description="endpoints of a URL group")
    max_schedules: int = Field(100_000, ge=1, description="schedules of a tenant")
    max_calls_per_second: int = Field(
        1_000, ge=0, description="calls of a tenant in a second of one process, publishes aside; 0 is no limit"
    )
    max_messages_per_day: int = Field(0, ge=0, description="messages of a tenant from midnight UTC on; 0 is no limit")
    max_waiting: int = Field(20_000, ge=1, description="publishes that may wait for their commit in one process")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line")
    log_format: Literal["text", "json"] | None = Field(None, description="text (default of dev) or json")
    docs: bool = Field(True, description="serve /docs and /openapi.json")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands in, so that an unknown variable cannot slip past it."""
        return (init_settings,)

    def master_keys(self) -> tuple[MasterKey, ...]:
        """The keys that secrets in the database are stored under, the one of new data keys first; none by default."""
        return () if self.encryption_key is None else parse_master_keys(self.encryption_key.get_secret_value())

    def limits(self) -> Limits:
        """The bounds of what is accepted."""
        return Limits(
            max_body_bytes=self.max_body_bytes,
            max_batch_items=self.max_batch_items,
            max_batch_bytes=self.max_batch_bytes,
            max_delay=self.max_delay,
            max_retries=self.max_retries,
            default_retries=self.default_retries,
            max_timeout=self.max_timeout,
            max_queues=self.max_queues,
            max_queue_parallelism=self.max_queue_parallelism,
            max_url_groups=self.max_url_groups,
            max_endpoints=self.max_endpoints,
            max_schedules=self.max_schedules,
            max_calls_per_second=self.max_calls_per_second,
            max_messages_per_day=self.max_messages_per_day,
        )


def load(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """The settings from the environment; `given` ones, from the command line, win. Raises `Misconfigured`."""
    variables = os.environ if environment is None else environment
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    known |= {faults.VARIABLE, faults.SEED_VARIABLE}
    for name in variables:
        if name.startswith(PREFIX) and name not in known:
            similar = get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1)
            hint = f", did you mean {PREFIX}{similar[0]}?" if similar else "; `postroad config` lists all of them"
            raise Misconfigured(f"unknown setting {name}{hint}")
    values: dict[str, Any] = {
        name: variables[variable]
        for name in Settings.model_fields
        if (variable := f"{PREFIX}{name.upper()}") in variables
    }
    try:
        return Settings(
            **values | _secrets(variables) | {name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in error.errors(include_url=False)
        )
        raise Misconfigured(f"invalid settings: {problems}") from None


def _secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """The settings that files hold."""
    found = {}
    for name in SECRETS:
        variable = f"{PREFIX}{name.upper()}"
        path = variables.get(f"{variable}_FILE")
        if path is None:
            continue
        if variable in variables:
            raise Misconfigured(f"{variable} and {variable}_FILE are both set: remove one of them")
        try:
            found[name] = Path(path).read_text("utf-8").strip()
        except OSError as error:
            raise Misconfigured(f"{variable}_FILE: cannot read {path!r}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise Misconfigured(f"{variable}_FILE: {path!r} is not text in UTF-8") from error
        if not found[name]:
            raise Misconfigured(f"{variable}_FILE: {path!r} is empty")
    return found


def shown(settings: Settings) -> list[tuple[str, str, str]]:
    """Variable, effective value and meaning of every setting, secrets masked."""
    lines = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        match value:
            case None:
                text = ""
            case SecretStr():
                text = "********"
            case timedelta():
                text = format_duration(value)
            case tuple():
                text = ",".join(value)
            case bool():
                text = str(value).lower()
            case _:
                text = str(value)
        lines.append((f"{PREFIX}{name.upper()}", text, field.description or ""))
    return lines
