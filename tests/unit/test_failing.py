"""What is said of a connection to an engine that could not be made."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from support.certificates import made
from support.relays import REPLICA, Bench
from support.scripted import answering, pool, serving
from vestry.adapters.upstream import Upstream
from vestry.errors import EngineFailed
from vestry.relay import Relay
from vestry.settings.section import is_private
from vestry.settings.tree import Relay as Deadlines
from vestry.trust import Authorities


def said(caplog: pytest.LogCaptureFixture, port: int, **options: Any) -> str:
    """What the log says of a call to an engine on this port."""

    async def run() -> None:
        bench = Bench()
        engine = pool(port, **options)
        relay = Relay({"a": engine}, Deadlines())
        with pytest.raises(EngineFailed):
            await relay.send(bench.head, bench.call, REPLICA, bench.client, bench.first)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    return caplog.records[-1].getMessage()


def test_an_engine_that_is_not_there_is_told_as_that(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens; the name is none; the address is one that engines may not have."""
    none = "a call to the engine a failed: it cannot be connected to "
    assert said(caplog, 1) == f"{none}(ECONNREFUSED)"
    assert said(caplog, 1, host="none.invalid") == f"{none}(its name has no address)"
    assert said(caplog, 1, permitted=lambda _: False) == f"{none}(the engine's address is not permitted)"


def test_an_expired_certificate_is_told_as_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not as an error by a number that elsewhere means something else."""
    tls = made(tmp_path, begins_days=-3, ends_days=-1)

    async def run() -> str:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(tls.certificate, tls.key)
        async with serving(answering(b""), server) as there:
            engine = Upstream(
                f"https://localhost:{there.port}",
                key="k",
                connect_seconds=5,
                permitted=is_private,
                tls=Authorities(tmp_path / "ca.crt").context,
            )
            bench = Bench()
            with pytest.raises(EngineFailed):
                await Relay({"a": engine}, Deadlines()).send(bench.head, bench.call, REPLICA, bench.client, bench.first)
        return caplog.records[-1].getMessage()

    assert asyncio.run(run()).endswith("(its certificate is not accepted: certificate has expired)")
