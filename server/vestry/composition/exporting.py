"""The live exports that the settings name: built, started after the record, stopped before it closes.

Each export has a worker for this server's own log, and one for that in which commands record what they do. Of several
servers that share a directory one alone, whoever comes first, sends the latter on; another takes over after its next
start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from vestry.adapters.http_batches import HttpBatches
from vestry.adapters.syslog_tls import SyslogTls
from vestry.audit.export.formats import FORMATS, Render
from vestry.audit.export.syslog import message
from vestry.audit.export.worker import Observer, Pack, Sender, Worker
from vestry.audit.files import Files
from vestry.configuration.export_files import context_of, token_of
from vestry.meter.record import RecordMeter
from vestry.settings.record import Export
from vestry.settings.tree import Settings
from vestry.syslog import framed

FLUSH_SECONDS = 5.0


class Exports:
    """All exports of one server. `grown` is cheap and for the event loop."""

    def __init__(self, settings: Settings, meter: RecordMeter) -> None:
        self._settings = settings
        directory, exports = settings.audit_directory, settings.audit.exports
        self._own = [worker_of(each, directory / settings.audit.origin, meter) for each in exports]
        self._commands = [worker_of(each, directory / settings.audit.commands, meter) for each in exports]
        meter.exports = self.lags

    def grown(self, size: int) -> None:
        """So many records of this server's own log are durable."""
        for worker in self._own:
            worker.grown(size)

    def lags(self) -> list[tuple[str, int, float]]:
        """Of each export its name, and as `Worker.lag` says it of both logs."""
        found = []
        for own, commands in zip(self._own, self._commands, strict=True):
            (records, seconds), (more, longer) = own.lag(), commands.lag()
            found.append((own.name, records + more, max(seconds, longer)))
        return found

    @contextlib.asynccontextmanager
    async def running(self, size: int) -> AsyncIterator[None]:
        """Send on, until what is in here has ended and what was recorded by then is sent, or FLUSH_SECONDS are over."""
        with contextlib.ExitStack() as held:
            workers = [*self._own, *(self._commands if self._chosen(held) else [])]
            self.grown(size)
            for worker in workers:
                worker.start()
            try:
                yield
            finally:
                for worker in workers:
                    worker.halt(FLUSH_SECONDS)
                await _stopped(workers)

    def _chosen(self, held: contextlib.ExitStack) -> bool:
        """Whether this server is the one that sends the commands' log on."""
        if not self._commands:
            return False
        folder = self._settings.audit_directory / self._settings.audit.commands / "export"
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
        lock = Files().lock(folder / "lock")
        if lock is not None:
            held.callback(os.close, lock)
        return lock is not None


async def _stopped(workers: Sequence[Worker]) -> None:
    """All of them have ended, at once: the event loop's own threads are few, and each may be waited for as long."""
    threads = ThreadPoolExecutor(max(1, len(workers)), thread_name_prefix="vestry-export-stop")
    try:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(threads, worker.stop, FLUSH_SECONDS) for worker in workers))
    finally:
        threads.shutdown(wait=False)


def worker_of(export: Export, home: Path, observer: Observer) -> Worker:
    """The worker of an export for the log in `home`."""
    render = FORMATS[export.format]
    sender, pack = _syslog(export, render) if export.url.startswith("tls:") else _http(export, render)
    return Worker(export.name, home, sender, pack, observer, batch_records=export.batch_records)


def _syslog(export: Export, render: Render) -> tuple[Sender, Pack]:
    parts = urlsplit(export.url)
    host = socket.getfqdn()

    def pack(leaves: list[bytes]) -> bytes:
        return framed([message(leaf, render(leaf), host) for leaf in leaves])

    sender = SyslogTls(parts.hostname or "", parts.port or 6514, context_of(export), seconds=export.timeout_seconds)
    return sender, pack


def _http(export: Export, render: Render) -> tuple[Sender, Pack]:
    def pack(leaves: list[bytes]) -> bytes:
        return b"".join(render(leaf) + b"\n" for leaf in leaves)

    def authorization() -> str:
        return f"{export.token_scheme} {token_of(export.token)}" if export.token is not None else ""

    sender = HttpBatches(export.url, context_of(export), authorization=authorization, seconds=export.timeout_seconds)
    return sender, pack
