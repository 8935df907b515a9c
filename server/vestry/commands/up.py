"""`vestry up`: everything that it takes to answer the first call on this machine, then the server itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from msgspec import Struct

from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.memory import wall
from vestry.administration import ChangeRefused, create_key, identified, prepare_store
from vestry.commands.check import faults_of_models
from vestry.commands.common import BadSettings, reading_of
from vestry.commands.running import announcer, engine_program, keep, terminated_as_interrupted
from vestry.composition.signing import make_signer
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import Reading
from vestry.errors import KeysUnavailable
from vestry.faults import ConfigurationError
from vestry.models import environment
from vestry.models.alone import alone
from vestry.models.catalog import ModelError
from vestry.models.chosen import Chosen, choose
from vestry.models.launch import Launch, plan, require_weights
from vestry.models.places import Places
from vestry.models.ports import alone_at, reachable, require_free
from vestry.models.prepare import prepare
from vestry.models.progress import Progress
from vestry.models.supervise import POLL_SECONDS, Program, Supervisor, answers
from vestry.secret_files import SecretFault, engine_key, read
from vestry.settings.tree import Settings

STEPS = 4
OWNER = "up"
QUESTION = "What is the capital of France?"
DRAIN_SPARE_SECONDS = 10
STILL_SECONDS = 10
PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""As curl knows them: one that is set would get the question, and the key."""


@click.command("up", short_help="Set everything up on this machine, and serve.")
@click.pass_obj
def command(config: Path | None) -> None:
    """Set up the engine and the model, make a key, start engine and server, and say how to call them.

    The first run installs the engine and prepares the model, which takes minutes and a network; later runs need
    neither. Everything is kept in the state directory (`.vestry` unless the settings say otherwise). SIGTERM or
    Ctrl-C stops the server, which finishes the calls in progress, and then the engine. Models that have replicas
    of their own in the settings are served from there; no engine is started for them here.

    Exit status: 0 when it was told to stop, 1 if something did not work, 2 for faulty settings.
    """
    progress = Progress()
    reading = reading_of(config)
    settings = reading.settings
    try:
        _inspect(reading)
        with _alone(settings.state), contextlib.ExitStack() as engines:
            with terminated_as_interrupted():
                chosen = _checked(settings)
                prepared = _set_up(settings, chosen, progress)
                _require_free_ports(settings, chosen)  # once more: minutes may have gone by
                for launch in prepared.launches:
                    engines.enter_context(alone_at(launch.url, settings.state))
            asyncio.run(_Run(settings, config, prepared, progress).run())
    except (ModelError, ConfigurationError, ChangeRefused, OSError) as fault:
        raise click.ClickException(str(fault)) from None
    except KeyboardInterrupt:
        progress.say("Interrupted. Run it again to go on.")
        raise click.exceptions.Exit(130) from None


class _Prepared(Struct, frozen=True):
    """What the first steps made: how to start each engine, and a key that works. `began` is monotonic."""

    launches: list[Launch]
    key: str
    began: float


def _inspect(reading: Reading) -> None:
    """Raises BadSettings for what can be told by looking at them."""
    settings, places = reading.settings, reading.places
    if faults := [*inspect(settings, places.of), *faults_of_models(settings, places)]:
        raise BadSettings(faults)


def _alone(state: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the state directory from beginning to end: a second one would take the first one's server for its own."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    mend = "Stop that one first, or give this one settings with a `state` and ports of its own."
    return alone(state / ".up.lock", f"Another `vestry up` is running for the state directory {state}. {mend}")


def _checked(settings: Settings) -> list[Chosen]:
    """The models to start here. Raises for whatever would fail later, before anything slow is done."""
    server = settings.server
    for port, name in ((server.port, "port"), (server.ops_port, "ops_port")):
        if port == 0:
            raise ModelError(
                f"`server.{name}` is 0, a port that nobody knows beforehand: `vestry up` needs a fixed one."
            )
    chosen = [choose(settings, name) for name, model in settings.models.items() if not model.replicas]
    for each in chosen:
        require_weights(each, Places(settings.state))
    _require_free_ports(settings, chosen)
    return chosen


def _require_free_ports(settings: Settings, chosen: list[Chosen]) -> None:
    """Raises ModelError if another program listens where one of these is to."""
    server = settings.server
    require_free("the API", server.host, server.port, "server.port")
    require_free("the operations endpoints", server.ops_host, server.ops_port, "server.ops_port")
    if server.admin_port:
        require_free("the administration", server.admin_host, server.admin_port, "server.admin_port")
    for each in chosen:
        engine = each.model.engine
        require_free(f"the engine of {each.name}", engine.host, engine.port, f"models.{each.name}.engine.port")


def _set_up(settings: Settings, chosen: list[Chosen], progress: Progress) -> _Prepared:
    """The first steps: engine environment, models, key."""
    began = time.monotonic()
    places = Places(settings.state)
    places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    launches = []
    if chosen:
        with _step(progress, 1, "engine environment"):
            stamp = environment.ensure(places.engine, progress, os.environ)
        progress.say(f"  {stamp.engine} {stamp.version}, PyTorch {stamp.torch}, on the {stamp.device.upper()}")
        with _step(progress, 2, "models"):
            for each in chosen:
                if each.model.path is None:
                    prepare(each.entry, places, stamp, progress)
                launches.append(plan(settings, each, engine_key(settings), os.environ))
    with _step(progress, 3, "keys"):
        house, made = make_signer(settings, None)
        if made:
            progress.say(f"  made the key that signs the record, kept in {settings.signing_key}; its public half:")
            progress.say(f"  {house}")
        with contextlib.suppress(DirectoryFault):  # what is wrong is said when a key is asked for
            prepare_store(settings)
        key = _key(settings, progress)
    return _Prepared(launches, key, began)


@contextlib.contextmanager
def _step(progress: Progress, number: int, what: str) -> Iterator[None]:
    progress.say(f"[{number}/{STEPS}] {what}")
    began = time.monotonic()
    yield
    progress.say(f"[{number}/{STEPS}] {what}: ready ({time.monotonic() - began:.1f} s)")


def _key(settings: Settings, progress: Progress) -> str:
    """The key of an earlier run if it still works, else a new one."""
    path = settings.state / "up-key"
    with contextlib.suppress(SecretFault, KeysUnavailable, UnicodeDecodeError):
        kept = read(path, least=16).decode("ascii").strip()
        key = identified(settings, kept)
        if key is not None and key.state(wall()) == "active" and key.tenant in settings.tenants:
            return kept
    tenant = "default" if "default" in settings.tenants else next(iter(settings.tenants))
    secret, made = create_key(settings, owner=OWNER, tenant=tenant)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secret + "\n", encoding="ascii")
    progress.say(f"  made {made.id} of the tenant {tenant}, kept in {path}")
    return secret


class _Run:
    """The last step: engines and server, until a signal."""

    def __init__(self, settings: Settings, config: Path | None, prepared: _Prepared, progress: Progress):
        self._settings = settings
        self._config = config
        self._prepared = prepared
        self._progress = progress

    async def run(self) -> None:
        self._progress.say(f"[{STEPS}/{STEPS}] engine and server")
        server = self._supervised(self._server())
        engines = [self._supervised(engine_program(launch)) for launch in self._prepared.launches]
        waiting = asyncio.create_task(self._still_waiting())

        async def once_ready() -> None:
            while not await answers(server.program.health):  # noqa: ASYNC110 - it probes the engines in its own time
                await asyncio.sleep(POLL_SECONDS)
            # Ready is a server with one model. Every engine answers by now; after two rounds of its checks the server
            # has heard all of them.
            await asyncio.sleep(2 * self._settings.relay.probe_seconds)
            waiting.cancel()
            self._announce()

        try:
            await keep([[server], engines], self._progress, once_ready)
        finally:
            waiting.cancel()
        self._progress.say("Stopped.")

    def _supervised(self, program: Program) -> Supervisor:
        return Supervisor(program, observer=announcer(self._progress, program.name))

    def _server(self) -> Program:
        """`vestry serve` with the same settings. It is ready when its engines are."""
        server = self._settings.server
        config = () if self._config is None else ("--config", os.fspath(self._config))
        operations = f"http://{reachable(server.ops_host)}:{server.ops_port}"
        return Program(
            name="server",
            argv=(sys.executable, "-P", "-m", "vestry", *config, "serve"),
            environment=dict(os.environ),
            log=Places(self._settings.state).logs / "server.log",
            health=f"{operations}/readyz",
            live=f"{operations}/livez",
            stop_seconds=server.drain_seconds + DRAIN_SPARE_SECONDS,
        )

    async def _still_waiting(self) -> None:
        """A line now and then while the engine loads its model."""
        while True:
            await asyncio.sleep(STILL_SECONDS)
            self._progress.say(f"  still starting; {self._elapsed():.0f} s so far")

    def _elapsed(self) -> float:
        return time.monotonic() - self._prepared.began

    def _announce(self) -> None:
        server = self._settings.server
        address = f"{'http' if server.tls is None else 'https'}://{reachable(server.host)}:{server.port}"
        ready = f"ready after {self._elapsed():.1f} s: {address}/v1"
        self._progress.say(f"[{STEPS}/{STEPS}] {ready}. Ctrl-C stops everything.\n")
        click.echo(f"export VESTRY_API_KEY={self._prepared.key}\n\n{self._curl(address)}\n")

    def _curl(self, address: str) -> str:
        """A line for a shell that asks the first model a question."""
        model = next(iter(self._settings.models))
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
        server = self._settings.server
        trust = "" if server.tls is None else f" --cacert {shlex.quote(os.fspath(server.tls.certificate))}"
        direct = " --noproxy '*'" if any(os.environ.get(each) for each in PROXIES) else ""
        answered = server.allowed_hosts
        host = "" if not answered or reachable(server.host) in answered else f'-H "Host: {answered[0]}" '
        return (
            f'curl -sS{direct}{trust} {address}/v1/chat/completions {host}-H "Authorization: Bearer $VESTRY_API_KEY" '
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        )
