"""The composition root: from settings to a serving process. The only module that knows everybody."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from time import monotonic

import uvloop

from postroad import faults
from postroad.activity import Activity
from postroad.api.app import application
from postroad.api.auth import CallLimit
from postroad.api.bulk_worker import BulkWorker
from postroad.api.context import Context
from postroad.api.strangers import Strangers
from postroad.clock import Clock
from postroad.console.app import console
from postroad.console.inside import Inside
from postroad.console.runs import Runs
from postroad.dispatch.dispatcher import Dispatcher
from postroad.dispatch.egress.client import Egress
from postroad.dispatch.egress.tls import tls_context
from postroad.dispatch.handlers import Handlers
from postroad.domain.network import parse_networks, parse_policy
from postroad.domain.proxy import parse_proxy
from postroad.errors import KeyMissing, Misconfigured, PostroadError
from postroad.event_feed import EventFeed
from postroad.intake import Intake
from postroad.own_places import OwnPlaces
from postroad.publish import Publisher
from postroad.quota import Quota
from postroad.reporting import Reporting
from postroad.resolver import Resolver
from postroad.server import BACKLOG, Server
from postroad.settings import Settings, shown
from postroad.store import data_keys, migrations, partitions
from postroad.store.connecting import places
from postroad.store.engine import Database
from postroad.store.hints import Notifier
from postroad.store.retention import Retention
from postroad.tenancy import Tenancy
from postroad.watching import StatusWatch

_MEASURE_EVERY_S = 5.0
_READINESS_FRESH_S = 1.0

_log = logging.getLogger(__name__)


class Node:
    """One process: API and dispatcher as its roles say, on one event loop and one database pool."""

    def __init__(self, settings: Settings, database: Database, *, dev: bool = False) -> None:
        self._settings = settings
        self._database = database
        self._clock = Clock()
        self._own_places = OwnPlaces()
        resolver = Resolver(parse_policy(settings.destinations or "public"), own_places=self._own_places)
        # The API may keep half of the connections busy; the other half is for what has been accepted.
        visitors = database.limited(settings.database_connections // 2)
        tenancy = Tenancy(visitors)
        limits = settings.limits()
        publisher = Publisher(
            clock=self._clock,
            resolver=resolver,
            limits=limits,
            deduplication_window=settings.deduplication_window,
            llm_url=settings.llm_url,
        )
        self._egress = Egress(
            resolver,
            max_response_bytes=settings.max_response_bytes,
            # As many as one destination may have in use, and as many as there may be: a burst dials once.
            max_idle_per_destination=-(-settings.slots // 2),
            max_idle=settings.slots,
            ssl_context=tls_context(str(settings.ca_file) if settings.ca_file else None),
            proxy=parse_proxy(settings.egress_proxy.get_secret_value()) if settings.egress_proxy else None,
        )
        self.dispatcher: Dispatcher | None = None
        self._notifier: Notifier | None = None
        self._activity = Activity(database)
        retention = Retention(log=settings.log_retention, dead_letters=settings.dlq_retention)
        handlers = Handlers(
            database=database,
            publisher=publisher,
            tenancy=tenancy,
            clock=self._clock,
            expect=self._expect,
            activity=self._activity,
        )
        if "dispatcher" in settings.roles:
            self.dispatcher = Dispatcher(
                database=database,
                egress=self._egress,
                publisher=publisher,
                tenancy=tenancy,
                clock=self._clock,
                slots=settings.slots,
                max_timeout=settings.max_timeout,
                retention=retention,
                region=settings.region,
                standard_webhooks=settings.standard_webhooks,
                public_url=settings.public_url,
                schedule_catch_up=settings.schedule_catch_up,
                handlers=handlers,
                activity=self._activity,
            )
        else:
            self._notifier = Notifier(database)
        self._intake = Intake(
            database=database,
            publisher=publisher,
            dispatcher=self.dispatcher,
            expect=self._expect,
            quota=Quota(visitors, self._clock, most=limits.max_messages_per_day, most_of=tenancy.messages_per_day),
            max_queues=limits.max_queues,
            max_waiting=settings.max_waiting,
            activity=self._activity,
        )
        self._bulk_worker = BulkWorker(visitors, expect=self._expect)
        self._reporting = Reporting(visitors)
        self._watch = StatusWatch(visitors)
        self._feed = EventFeed(visitors)
        trusted_proxies = parse_networks(settings.trusted_proxies)
        context = Context(
            database=visitors,
            intake=self._intake,
            publisher=publisher,
            tenancy=tenancy,
            clock=self._clock,
            limits=limits,
            call_limit=CallLimit(limits.max_calls_per_second, self._clock),
            strangers=Strangers(tenancy, trusted_proxies),
            bulk_worker=self._bulk_worker,
            trusted_proxies=trusted_proxies,
            message_linger=settings.message_linger,
            key_rotation_guard=settings.key_rotation_guard or timedelta(0),
            expect=self._expect,
            handlers=handlers,
            reporting=self._reporting,
            watch=self._watch,
            feed=self._feed,
            public_url=settings.public_url,
            retention=retention,
            unready=self._unready,
            settings=shown(settings),
            dev=dev,
        )
        self._application = application(context, docs=settings.docs)
        self._console_runs = Runs(context, Inside(self._application))
        self._application.show(console(context, self._application, self._console_runs))
        self._stopping = False
        self._impatient = asyncio.Event()
        self._readiness: tuple[float, list[str]] = (0.0, [])

    def _expect(self, wait: timedelta) -> None:
        """Tell the dispatcher of this process, or those of others, that something falls due after this wait."""
        if self.dispatcher is not None:
            self.dispatcher.expect(wait)
        elif self._notifier is not None:
            self._notifier.expect(wait)

    async def run(self, listener: socket.socket | None, announce: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, then stop: no new work, finish or give back, settle, leave."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, stop)
        async with self._database.connection() as connection:
            await data_keys.unlock(connection, self._settings.master_keys())
            await self._clock.measure(connection)
        if listener is not None:
            self._own_places.add_listener(listener)
        await self._own_places.add_database(places(self._database.url))
        tasks = [
            asyncio.create_task(self._intake.run(), name="intake"),
            asyncio.create_task(self._keep_time(), name="clock"),
            asyncio.create_task(self._reporting.run(), name="reporting"),
            asyncio.create_task(self._watch.run(), name="watch"),
            asyncio.create_task(self._activity.run(), name="activity"),
        ]
        if self._notifier is not None:
            tasks.append(asyncio.create_task(self._notifier.run(), name="notifier"))
        if self.dispatcher is not None:
            tasks.append(asyncio.create_task(self.dispatcher.run(), name="dispatcher"))
            await _first(_either(self.dispatcher.ready(), stop.wait()), tasks)
        server = None
        if listener is not None:
            server = Server(self._application)
            tasks.append(asyncio.create_task(server.serve(sockets=[listener]), name="server"))
            await _first(server.ready.wait(), tasks)
        _settle_memory()
        announce()
        try:
            await _first(stop.wait(), tasks)
        finally:
            self._stopping = True
            await self._stop(server, tasks)

    def _asked_to_stop(self, stop: asyncio.Event) -> None:
        """The first signal lets deliveries finish, the second one breaks them off; they are made again later."""
        if stop.is_set():
            self._impatient.set()
            return
        stop.set()
        if self.dispatcher is not None and self.dispatcher.in_progress:
            _log.warning(
                "stopping: up to %d s for %d deliveries in progress; once more to break them off",
                self._settings.shutdown_grace.total_seconds(),
                self.dispatcher.in_progress,
            )

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_EVERY_S)
            with suppress(PostroadError):
                async with self._database.connection() as connection:
                    await self._clock.measure(connection)
                    await data_keys.refresh(connection, self._settings.master_keys())

    async def _stop(self, server: Server | None, tasks: list[asyncio.Task[None]]) -> None:
        if self.dispatcher is not None:
            self.dispatcher.stop_claiming()
        self._watch.stop()
        self._feed.stop()
        if server is not None:
            server.stop()
            await asyncio.wait([task for task in tasks if task.get_name() == "server"], timeout=10)
        await self._bulk_worker.stop()
        await self._console_runs.stop()
        if self.dispatcher is not None:
            await self.dispatcher.stop(self._settings.shutdown_grace, self._impatient)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(PostroadError):
            await self._activity.flush()
        await self._egress.close()

    async def _unready(self) -> list[str]:
        """Why no traffic should come here; asked of the database once in a second at most."""
        if self._stopping:
            return ["the server is stopping"]
        fresh_until, reasons = self._readiness
        if monotonic() > fresh_until:
            reasons = await self._reasons()
            self._readiness = monotonic() + _READINESS_FRESH_S, reasons
        return reasons

    async def _reasons(self) -> list[str]:
        reasons = []
        try:
            async with self._database.connection() as connection:
                if (misfit := await migrations.misfit(connection)) is not None:
                    reasons.append(misfit)
                elif await partitions.days_left(connection) < 1:
                    reasons.append("partitions for the next day are missing")
        except PostroadError as error:
            reasons.append(str(error))
        if (number := self._database.vault.waits_for) is not None:
            reasons.append(str(KeyMissing(number)))
        if self.dispatcher is not None and self.dispatcher.id is None:
            reasons.append("the dispatcher is not alive")
        return reasons


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on an address that nobody else has. Raises `Misconfigured`."""
    listener = bind(host, port, shared=False)
    listener.listen(BACKLOG)
    return listener


def bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound socket; a shared one lets other processes of this node bind the same address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what is accepted; uvloop does so anyway.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Misconfigured(f"cannot listen on {host}:{port}: {error.strerror}, is something running there?") from error
    return bound


def serve(
    settings: Settings, url: str, listener: socket.socket | None, announce: Callable[[], None], *, dev: bool = False
) -> None:
    """Run one process until it is told to stop; with `dev`, time may be moved. Raises `Misconfigured`."""

    faults.arm(os.environ)

    async def main() -> None:
        database = await Database.connect(
            url, connections=settings.database_connections, walled=settings.row_level_security
        )
        try:
            async with database.connection() as connection:
                await migrations.check(connection)
            await Node(settings, database, dev=dev).run(listener, announce)
        finally:
            await database.close()

    uvloop.run(main())


async def _either(*events: Awaitable[object]) -> None:
    waiting = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


def _settle_memory() -> None:
    """Spare the collector what lives as long as the process, and full collections every few seconds.

    Walking the modules takes up to 80 ms each time, which was most of the slowest percent of publishes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _first(event: Awaitable[object], tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the event, unless one of the tasks ends before, which is a defect or a refusal."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not waiting.done():
                task.result()
                raise RuntimeError(f"the {task.get_name()} ended by itself")
    finally:
        waiting.cancel()
