"""`postroad serve`: production, with one process or several on one port."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address
from multiprocessing.synchronize import Semaphore

from postroad import app, telemetry
from postroad.console.passwords import hashed, new_password
from postroad.dev import DEV_USERS
from postroad.domain.tenant import token_hash
from postroad.domain.token import is_damaged
from postroad.errors import Misconfigured
from postroad.server import BACKLOG
from postroad.settings import Settings
from postroad.store import data_keys, migrations, sessions, tenants, tokens, wall
from postroad.store.engine import connected
from postroad.supervisor import Supervisor

_log = logging.getLogger(__name__)

KEY_ROTATION_GUARD = timedelta(hours=1)
"""How soon keys may be rotated again: receivers that have not got the new pair by then are locked out."""


def run(settings: Settings, announce: Callable[[str], None], say_password: Callable[[str], None]) -> None:
    """Serve until told to stop; on a first start without a token, `say_password` gets the operator's.

    Raises `Misconfigured` when something is missing or unsafe.
    """
    if settings.database_url is None:
        raise Misconfigured("serve needs POSTROAD_DATABASE_URL; `postroad dev` runs a PostgreSQL of its own")
    url = settings.database_url.get_secret_value()
    if settings.key_rotation_guard is None:
        settings = settings.model_copy(update={"key_rotation_guard": KEY_ROTATION_GUARD})
    password = asyncio.run(prepare(settings, url))
    if password is not None:
        say_password(password)
    if settings.workers > 1:
        _supervise(settings, url, announce)
        return
    listener = app.listen(settings.host, settings.port) if "api" in settings.roles else None
    app.serve(settings, url, listener, lambda: announce(_address(settings, listener)))


async def prepare(settings: Settings, url: str) -> str | None:
    """Check the schema, make the first tenant, accept the configured token, refuse the public ones.

    Where nobody could sign in yet, make a password for the operator and give it.
    """
    async with connected(url) as connection:
        await migrations.check(connection)
        if settings.row_level_security:
            await wall.check(connection)
        await data_keys.unlock(connection, settings.master_keys())
        async with connection.transaction():
            tenant_id = await tenants.ensure(connection, "default")
            if settings.token is not None:
                token = settings.token.get_secret_value()
                _refuse_public(settings, {token})
                if len(token) < 16:
                    raise Misconfigured("POSTROAD_TOKEN is too short to be safe: use 16 characters or more")
                if is_damaged(token):
                    raise Misconfigured("POSTROAD_TOKEN was mistyped or cut off: its checksum is wrong")
                if await tokens.is_revoked(connection, token_hash(token)):
                    _log.warning("the token in POSTROAD_TOKEN was revoked and is not accepted: set another one")
                await tokens.add(connection, tenant_id, token, name="POSTROAD_TOKEN")
        public = {user.token for user in DEV_USERS if await tokens.exists(connection, user.token)}
        _refuse_public(settings, public)
        if await tokens.any_exists(connection):
            return None
        _log.warning("nobody can publish yet: make a token with `postroad token create`, or set POSTROAD_TOKEN")
        if "api" not in settings.roles or await sessions.password(connection) is not None:
            return None
        if not _is_loopback(settings.host):
            raise Misconfigured(
                f"this server would be open to others at {settings.host} before anybody can sign in to it: set "
                "POSTROAD_TOKEN, or make a token with `postroad token create`, or a password with "
                "`postroad console password`"
            )
        password = new_password()
        await sessions.set_password(connection, hashed(password))
        return password


def _refuse_public(settings: Settings, tokens: set[str]) -> None:
    if not settings.allow_dev_credentials and tokens & {user.token for user in DEV_USERS}:
        raise Misconfigured(
            "this server would accept the public development tokens, which everybody knows: use another database and "
            "token, or set POSTROAD_ALLOW_DEV_CREDENTIALS=true"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _address(settings: Settings, listener: socket.socket | None) -> str:
    if listener is None:
        return "(no API in this node)"
    return f"http://{settings.host}:{listener.getsockname()[1]}"


def _supervise(settings: Settings, url: str, announce: Callable[[str], None]) -> None:
    """Run several workers on one port. What a dead one was delivering is rescued by the others."""
    reserved = None
    if "api" in settings.roles:
        app.listen(settings.host, settings.port).close()  # somebody else on the port is an error, not a partner
        reserved = app.bind(settings.host, settings.port, shared=True)
        settings = settings.model_copy(update={"port": reserved.getsockname()[1]})
    Supervisor(_work, (settings, url), settings.workers).run(lambda: announce(_address(settings, reserved)))
    if reserved is not None:
        reserved.close()


def _work(settings: Settings, url: str, ready: Semaphore) -> None:
    telemetry.configure(level=settings.log_level, json=settings.log_format != "text")
    listener = None
    if "api" in settings.roles:
        listener = app.bind(settings.host, settings.port, shared=True)
        listener.listen(BACKLOG)
    app.serve(settings, url, listener, ready.release)
