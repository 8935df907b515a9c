"""A whole server on real sockets, in a thread of the test's process, with its keys and its record."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx
import openai
import uvloop

from fakes.engine import FakeEngine
from support.keys import Keys
from vestry.app import Secrets, Server
from vestry.audit.notary import Signing
from vestry.audit.tlog.notes import Signer
from vestry.composition.store import directory_of
from vestry.settings.tree import Settings
from vestry.types import Replica, ServedModel

if TYPE_CHECKING:
    from vestry.adapters.tokens.provider import Provider

PEPPER = b"p" * 32
ENGINE_KEY = "engine-key-of-the-tests"
SIGNING = Signing(Signer.generate("house.test/vestry"))
PATIENCE = 15.0
PATIENT = {"commit_seconds": 20}
"""Of a server's record: a disk that stands still for some seconds fails no test that is not about it."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing here is TLS, and to load authorities for it takes 30 ms
T = TypeVar("T")


def until(condition: Callable[[], T], *, seconds: float = PATIENCE, what: str = "a condition") -> T:
    """Wait until `condition()` is truthy, and return it. Raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def soon(seconds: float, attempt: Callable[[int], float], tries: int = 3) -> None:
    """That what `attempt(number)` tells the time of takes less than `seconds`: one of a few tries does, since a machine
    may stand still. Raises AssertionError with the times.
    """
    took: list[float] = []
    while not took or took[-1] >= seconds:
        assert len(took) < tries, took
        took.append(attempt(len(took)))


def served_model(name: str, *engines: str) -> ServedModel:
    """A model whose replicas are at these URLs."""
    return ServedModel(
        name=name,
        created=1_735_689_600,
        context_length=2048,
        vocabulary=49152,
        replicas=tuple(Replica(url.removeprefix("http://"), url) for url in engines),
        revision="r1",
        weights_digest="sha256:" + "0" * 64,
        quantization="w8a8",
    )


class House:
    """A running server. Use as a context manager."""

    def __init__(
        self, state: Path, engines: list[FakeEngine], *, wait: bool = True, key: str | None = None, **settings: Any
    ) -> None:
        """`wait` until it is ready; with a `key` that an earlier server made, it makes none of its own."""
        settings.setdefault("models", {"small": {}})
        server = {"port": 0, "ops_port": 0, "admin_port": 0, "drain_seconds": 5, **settings.pop("server", {})}
        relay = {"probe_seconds": 0.2, **settings.pop("relay", {})}
        audit = {**PATIENT, **settings.pop("audit", {})}
        given = {"state": state, "server": server, "relay": relay, "audit": audit, **settings}
        self.settings = Settings.model_validate(given)
        self.models = [served_model(name, *(engine.url for engine in engines)) for name in self.settings.models]
        self._wait = wait
        state.mkdir(parents=True, exist_ok=True)
        self.keys = Keys(lambda: directory_of(self.settings, PEPPER))
        self.keys.prepare()
        self.fault: BaseException | None = None
        self._up = threading.Event()
        self._key = key

    def __enter__(self) -> House:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._up.wait(20), "the server did not start"
        if self.fault is not None:
            raise self.fault
        if self._wait:
            until(lambda: self.get_ops("/readyz").status_code == 200, what="readiness")
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop as SIGTERM does, and wait for the end."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.stop)
            self._thread.join(30)
            assert not self._thread.is_alive(), "the server did not stop"

    def _run(self) -> None:
        try:
            uvloop.run(self._main())
        except BaseException as fault:
            self.fault = fault
            self._up.set()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        audit = self.settings.audit
        signing = Signing(SIGNING.signer, records=audit.checkpoint_records, seconds=audit.checkpoint_seconds)
        self.server = Server(self.settings, self.models, Secrets(PEPPER, ENGINE_KEY, signing))
        async with self.server:
            self.url, self.ops = self.server.addresses["api"], self.server.addresses["ops"]
            self.port = int(self.url.rsplit(":", 1)[1])
            self.admin = self.server.addresses["admin"]
            self._up.set()
            await self.server.until_stopped()

    # What tests do with it --------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """An API key of the tenant `default`, made at first use."""
        if self._key is None:
            self._key = self.new_key()
        return self._key

    def new_key(self, **rights: Any) -> str:
        """Another key."""
        return self.keys.create(**rights)[0]

    def checkpoint(self) -> None:
        """Have its log signed soon."""
        self.loop.call_soon_threadsafe(self.server._recording.journal.checkpoint)

    @property
    def issuer(self) -> Provider:
        """The keys of its first issuer of tokens."""
        first, *_ = self.server.meter.identity.issuers
        return cast("Provider", first)

    def read_issuer(self) -> None:
        """Have its first issuer's keys read again soon, as if the time for it had come."""
        self.loop.call_soon_threadsafe(self.issuer._start)

    def get_ops(self, path: str) -> httpx.Response:
        """GET from the operations port."""
        return httpx.get(self.ops + path, timeout=5, verify=PLAIN)

    def metrics(self) -> str:
        """The exposition."""
        return self.get_ops("/metrics").text

    def post(self, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
        """POST to the API, with a key."""
        options.setdefault("headers", {"authorization": f"Bearer {self.key}"})
        return httpx.post(self.url + path, timeout=30, verify=PLAIN, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET from the API, with a key."""
        options.setdefault("headers", {"authorization": f"Bearer {self.key}"})
        return httpx.get(self.url + path, timeout=10, verify=PLAIN, **options)

    def client(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        """OpenAI's client, pointed here."""
        options.setdefault("max_retries", 0)
        options.setdefault("http_client", openai.DefaultHttpxClient(verify=PLAIN))
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key or self.key, **options)

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What is in the log, in order."""
        return read_records(self.settings.audit_directory / self.settings.audit.origin, kind)


def read_records(directory: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of one origin, in order; only those of one type, if `kind` is given."""
    found: list[dict[str, Any]] = []
    for segment in sorted(directory.glob("*.jsonl")):
        for line in segment.read_bytes().split(b"\n"):
            if line:
                record = json.loads(line)
                if kind in (None, record["type"]):
                    found.append(record)
    return found


def chat(text: str = "What is the capital of France?", **more: Any) -> dict[str, Any]:
    """A chat body for the model `small`."""
    return {"model": "small", "messages": [{"role": "user", "content": text}], **more}
