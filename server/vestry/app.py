"""The composition root: builds every part once, hands it down, and takes the whole up and down in order.

Up: record, keys, engines, then the ports. Down: readiness turns false, calls in progress end at the API and the
administration, then the operations port, and the record is closed last. All ports are served by one process and one
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from fastapi import FastAPI
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from vestry import __version__, addresses
from vestry.adapters.credentials import EveryCredential, NobodyYet
from vestry.adapters.directory.faults import DirectoryFault, SchemaFault
from vestry.adapters.health import HealthChecks
from vestry.adapters.keys import KeyCredentials
from vestry.adapters.upstream import Upstream
from vestry.admit import Admission
from vestry.audit.notary import Signing
from vestry.composition.administering import administration, door_of
from vestry.composition.alongside import running
from vestry.composition.identity import certificates_of, providers_of, tokens
from vestry.composition.recording import Recording
from vestry.composition.store import directory_of
from vestry.edge import arrival, door, doorkeeper
from vestry.edge.administration.ask import BODY_BYTES
from vestry.edge.certificates import form
from vestry.edge.dataplane import DataPlane
from vestry.edge.ops import build_ops
from vestry.edge.serving import Manner, Served, bind, serving, url_of
from vestry.edge.tls import Certificates
from vestry.errors import KeysUnavailable, Refusal
from vestry.forward import Forward
from vestry.house import House
from vestry.meter.calls import Meter
from vestry.pipeline import Corridor
from vestry.record import Recorder
from vestry.relay import Relay
from vestry.route import Router
from vestry.seams import Credentials
from vestry.settings.section import is_private
from vestry.settings.tree import Door, Settings
from vestry.standing import Abreast, Standing
from vestry.trust import Authorities
from vestry.types import ServedModel

log = logging.getLogger("vestry")
AGAIN_SECONDS = 1.0
NOTE_SECONDS = 60.0
LAST_SECONDS = 1.0
"""For who still asks at the operations port when everything else has ended."""


class Secrets:
    """The secrets of a server: the key that hashes API keys, the one that engines ask for, the one that signs."""

    def __init__(self, key_hash: bytes, engine_key: str, signing: Signing) -> None:
        self.key_hash, self.engine_key, self.signing = key_hash, engine_key, signing


class Server:
    """One server process. Use: `async with server: await server.until_stopped()`."""

    def __init__(self, settings: Settings, models: list[ServedModel], secrets: Secrets) -> None:
        self.settings = settings
        self.meter = Meter(settings.tenants)
        self._models = {model.name: model for model in models}
        self._secrets = secrets
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stop_asked = 0.0
        self._ready = self._housed = False
        self._stack = contextlib.AsyncExitStack()
        self._recording = Recording(settings, secrets.signing, self.meter.record)
        self.addresses: dict[str, str] = {}

    async def __aenter__(self) -> Server:
        """Build everything and open the ports. Raises OSError with a sentence, or what the record raises."""
        async with contextlib.AsyncExitStack() as stack:
            await self._build(stack)
            self._stack = stack.pop_all()
        self._ready = not self._stopping.is_set()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ready = False
        await self._stack.aclose()

    async def until_stopped(self) -> None:
        """Wait for SIGTERM, SIGINT or `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Begin to stop. Asked again a second later or more: do not wait for calls in progress."""
        now = time.monotonic()
        if not self._stopping.is_set():
            self._stop_asked = now
        elif now - self._stop_asked >= AGAIN_SECONDS:  # Ctrl-C and a supervisor's SIGTERM may come together
            self._hurry.set()
        self._ready = False
        self._stopping.set()

    # Up ---------------------------------------------------------------------------------------------------------

    async def _build(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        recording = self._recording
        await stack.enter_async_context(recording.begun())
        self._heed_signals()
        keys = await self._directory_opened(stack)
        issuers = providers_of(settings.identity.issuers)
        self.meter.identity.issuers = [provider for _, provider in issuers.values()]
        freshness = self._directory.backend.freshness
        believed = await stack.enter_async_context(
            tokens(issuers, self._registry, freshness, self.meter.identity.token)
        )
        self._router = Router(self._models.values(), retry_budget=settings.relay.retry_budget, observer=self.meter)
        self.meter.replicas = self._replicas
        engines = self._engines(stack)
        await stack.enter_async_context(running(self._health(engines)))
        await stack.enter_async_context(recording.held_against(engines))
        house = House.of(settings, secret=self._secrets.key_hash)
        recording.housed(house)
        credentials = EveryCredential(keys, believed, certificates_of(settings.identity, self._registry, freshness))
        corridor = Corridor(
            credentials=NobodyYet(),
            house=house,
            models=self._models,
            admission=Admission(server_concurrency=settings.server.concurrency),
            recorder=recording.recorder,
            forward=Forward(self._router, Relay(engines, settings.relay), self.meter),
            meter=self.meter,
            keep=recording.keep,
        )
        standing = await stack.enter_async_context(self._house_kept(corridor, credentials))
        administered = administration(
            settings,
            corridor,
            self._directory,
            recording,
            self._arrivals(BODY_BYTES),
            refresh=standing.refresh,
            missing=self._missing,
            replicas=self._replicas,
        )
        await self._open_ports(stack, corridor, await stack.enter_async_context(administered))

    def _heed_signals(self) -> None:
        """From when the start is recorded on, so that the stop is, too. SIGUSR1 asks for a signed checkpoint."""
        loop = asyncio.get_running_loop()
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # as `nohup` has it
        for number in (signal.SIGTERM, signal.SIGINT, *hangup):
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self.stop)
        with contextlib.suppress(RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGUSR1, self._recording.journal.checkpoint)

    async def _directory_opened(self, stack: contextlib.AsyncExitStack) -> KeyCredentials:
        """Open the directory; the keys in it. One that cannot be read yet is not ready; one of another version is no
        directory of this server's. Raises SchemaFault.
        """
        self._directory = directory_of(self.settings, self._secrets.key_hash)
        backend = self._directory.backend
        stack.push_async_callback(self._directory.close)
        try:
            await self._directory.prepare()
        except SchemaFault:
            raise
        except DirectoryFault as fault:
            log.warning("%s", fault.why)
        await stack.enter_async_context(backend.attending())
        self._registry = Abreast(self._directory, self._house_read)
        keys = KeyCredentials(self._registry, backend.freshness, observe=self.meter.looked_up)
        await stack.enter_async_context(_uses_noted(keys))
        return keys

    @contextlib.asynccontextmanager
    async def _house_kept(self, corridor: Corridor, credentials: Credentials) -> AsyncIterator[Standing]:
        """Keep what the corridor knows of tenants and rules as the directory has it. Before that is known for the first
        time nobody is let in.
        """

        def place(house: House) -> None:
            corridor.house, corridor.credentials, self._housed = house, credentials, True
            self._recording.housed(house)

        self.meter.broken_glass = lambda: corridor.house.broken(time.time_ns() // 1000)
        self._standing = standing = Standing(
            self.settings, self._directory, self._directory.backend.freshness, place, secret=self._secrets.key_hash
        )
        self.meter.outdated = lambda: standing.outdated
        backend = self._directory.backend
        self.meter.directory = lambda: (not backend.missing and not standing.unread_seconds, backend.unheard_seconds)
        with contextlib.suppress(KeysUnavailable):
            await standing.refresh()
        async with running(standing.run()):
            yield standing

    async def _house_read(self) -> None:
        """Read the house again, if anything has changed. Raises KeysUnavailable."""
        await self._standing.refresh()

    def _engines(self, stack: contextlib.AsyncExitStack) -> dict[str, Upstream]:
        """One connection pool a replica; replicas of the same name are the same engine."""
        engines: dict[str, Upstream] = {}
        authorities = Authorities(self.settings.relay.ca)
        for model in self._models.values():
            for replica in model.replicas:
                if replica.name not in engines:
                    engines[replica.name] = Upstream(
                        replica.url,
                        key=self._secrets.engine_key,
                        connect_seconds=self.settings.relay.connect_seconds,
                        permitted=is_private,
                        tls=authorities.context,
                    )
                    stack.callback(engines[replica.name].close)
        return engines

    async def _health(self, engines: dict[str, Upstream]) -> None:
        replicas = {
            (model.name, replica.name): engines[replica.name]
            for model in self._models.values()
            for replica in model.replicas
        }
        await HealthChecks(replicas, self._router, seconds=self.settings.relay.probe_seconds).run()

    async def _open_ports(self, stack: contextlib.AsyncExitStack, corridor: Corridor, admin_app: ASGIApp) -> None:
        settings = self.settings.server
        certificates = None if settings.tls is None else Certificates(settings.tls)
        ops = bind(settings.ops_host, settings.ops_port, settings.backlog)
        stack.callback(ops.close)
        api = bind(settings.host, settings.port, settings.backlog)
        stack.callback(api.close)
        admin = bind(settings.admin_host, settings.admin_port, settings.backlog)
        stack.callback(admin.close)
        protocol = door.protocol_factory(self._door_rules(corridor.recorder, self.settings.door))
        unheard = door.protocol_factory(doorkeeper.Rules(self.settings.door, frozenset(), doorkeeper.Nobody()))
        plain = Manner(unheard, self.settings.door.keep_alive_seconds, settings.drain_seconds, self._hurry)
        watched = replace(plain, drain_seconds=min(settings.drain_seconds, LAST_SECONDS))
        await stack.enter_async_context(serving(Served(build_ops(self.meter, self._missing), ops, watched)))
        patience = self.settings.door.header_seconds
        manner = replace(plain, protocol=protocol, handshake_seconds=patience)
        if certificates is not None:
            manner = replace(manner, tls=certificates.context)
            self.meter.certificate_term = lambda: certificates.term
            self.meter.lists_term = lambda: certificates.lists_term
        at_desk = replace(
            manner, protocol=door.protocol_factory(self._door_rules(corridor.recorder, door_of(self.settings)))
        )
        renew = await stack.enter_async_context(
            serving(Served(self._application(corridor), api, manner), Served(admin_app, admin, at_desk))
        )
        if certificates is not None:
            await stack.enter_async_context(running(certificates.watch(renew)))
        scheme = "https" if certificates else "http"
        self.addresses = {
            "api": url_of(scheme, api),
            "ops": url_of("http", ops),
            "admin": url_of(scheme, admin),
        }
        stack.enter_context(self._announced())

    def _application(self, corridor: Corridor) -> Application:
        """The FastAPI application, with the data plane inside it."""
        return Application(DataPlane(corridor=corridor, rules=self._arrivals(self.settings.door.body_bytes)))

    def _arrivals(self, body_bytes: int) -> arrival.Rules:
        """How requests are read, with bodies of so many bytes at most."""
        settings, server = self.settings, self.settings.server
        return arrival.Rules(
            bounds=settings.bounds,
            body_bytes=body_bytes,
            trusted_proxies=tuple(map(addresses.network, server.trusted_proxies)),
            certificates=server.tls is not None and server.tls.client_certificates != "none",
            form=None if server.client_certificate_header is None else form(server.client_certificate_header),
        )

    def _door_rules(self, recorder: Recorder, limits: Door) -> doorkeeper.Rules:
        return doorkeeper.Rules(
            limits=limits,
            allowed_hosts=frozenset(host.lower().encode() for host in self.settings.server.allowed_hosts),
            keeper=_Keeper(self.meter, recorder),
        )

    @contextlib.contextmanager
    def _announced(self) -> Iterator[None]:
        """Say where the server listens, in the log and in `server.json` in the state directory."""
        note = self.settings.state / "server.json"
        draft = note.with_suffix(".new")
        draft.write_text(json.dumps({**self.addresses, "pid": os.getpid(), "version": __version__}))
        draft.replace(note)
        log.info("the API is at %(api)s, operations at %(ops)s, the administration at %(admin)s", self.addresses)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    # What others ask --------------------------------------------------------------------------------------------

    def _missing(self) -> dict[str, str]:
        """What keeps the server from being ready, by part."""
        missing: dict[str, str] = {}
        if not self._ready:
            missing["server"] = "stopping" if self._stopping.is_set() else "starting"
        missing |= self._recording.missing()
        if self._lost():
            missing["keys"] = "the key store cannot be read"
        elif not self._housed:
            missing["keys"] = "what the key store holds of tenants and policy cannot be used"
        now = asyncio.get_running_loop().time()
        if not any(self._router.available(model, now) for model in self._models):
            missing["models"] = "no engine of any model is available"
        return missing

    def _lost(self) -> bool:
        """Whether nobody's key can be judged any more. A directory that is out of reach is no such thing while what is
        remembered of it holds: not ready are all servers at once, and then nobody is left to serve. One that is heard
        and cannot be read, as without a connection to spare, has as much time.
        """
        if self._standing.unread_seconds > (self.settings.store.stale_seconds if self._housed else 0):
            return True
        try:
            self._directory.backend.freshness.epoch(math.inf)
        except DirectoryFault:
            return True
        return False

    def _replicas(self) -> list[tuple[str, str, bool, int]]:
        now = asyncio.get_running_loop().time()
        return [
            (model, seat.replica.name, seat in serving, seat.outstanding)
            for model, seats in self._router.seats.items()
            for serving in (self._router.serving(model, now),)
            for seat in seats
        ]


class Application(FastAPI):
    """FastAPI, with the data plane before its middleware: a call costs nothing that it does not use."""

    def __init__(self, data_plane: DataPlane) -> None:
        super().__init__(title="Vestry", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
        self._data_plane = data_plane

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """HTTP goes to the data plane, which has an answer to everything; the rest is FastAPI's."""
        if scope["type"] == "http":
            return self._data_plane(scope, receive, send)
        return super().__call__(scope, receive, send)


class _Keeper:
    """Counts and records what is refused at the door."""

    def __init__(self, meter: Meter, recorder: Recorder) -> None:
        self._meter, self._recorder = meter, recorder
        self.connections = meter.connections

    def refused(self, refusal: Refusal, request_id: str, source: str) -> None:
        self._meter.door_refused(refusal.status)
        self._recorder.at_the_door(refusal, request_id, source)


@contextlib.asynccontextmanager
async def _uses_noted(keys: KeyCredentials) -> AsyncIterator[None]:
    """Note now and then, and at the end, when keys were last used."""

    async def note() -> None:
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            try:
                await keys.note_use()
            except KeysUnavailable:  # the next time
                continue

    try:
        async with running(note()):
            yield
    finally:
        with contextlib.suppress(KeysUnavailable):
            await keys.note_use()
