"""Keeps content durably while calls wait on the loop: one thread makes, seals and writes; what waits shares its syncs.

Rules:
1. Fails closed: whoever waits gets a place that is durable, or AuditUnavailable, at the latest after `seconds`.
2. A failed write ends its bundle. While nothing can be written every call tries anew, and so does the thread by
   itself once a second, so that `healthy` comes back without traffic.
3. The secrets of an entry (salt, key) are made in the thread and are nowhere but on the disk when it is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from vestry.audit.calls import Content
from vestry.audit.content.bundles import About, Bundle, ContentDamaged, Item, Place, damaged_at, tidy
from vestry.audit.content.sealing import Context, Sealer, commitment, keyed_hash, new_salt, tenant_key
from vestry.audit.content.texts import Kept
from vestry.audit.files import Files
from vestry.audit.records import Clock, rfc3339
from vestry.audit.scan import LogUnusable
from vestry.errors import AuditUnavailable
from vestry.seldom import Seldom
from vestry.types import ContentMode

_LOG = logging.getLogger("vestry.audit")
_BATCH_JOBS = 256
_BATCH_BYTES = 16 << 20
_WAITING = 16_384
_PROBE_SECONDS = 1.0


class Secrets(Struct, frozen=True):
    """What the modes need: the secret of all keyed hashes, and the sealer of each tenant that seals.

    Asked for in the keeper's thread, at need. They raise OSError where there is none; what they raise is an unavailable
    record.
    """

    hashing: Callable[[], bytes]
    sealer: Callable[[str], Sealer]


class Job(Struct, frozen=True):
    """One content to keep. `make` is called in the thread."""

    context: Context
    mode: ContentMode
    make: Callable[[], Kept]
    future: asyncio.Future[Content]


class Keeper:
    """The content beside one log. Built and used on one event loop; `close` ends its thread."""

    def __init__(
        self,
        log: Path,
        secrets: Secrets,
        *,
        seconds: float,
        files: Files | None = None,
        clock: Clock | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`log` is the log's directory, which is there and locked. Raises LogUnusable, with a sentence."""
        self._place, self._files, self._clock = Place(log), files or Files(), clock or Clock()
        self._secrets, self._seconds, self._failed = secrets, seconds, failed
        self._tenant_keys: dict[str, bytes] = {}
        self._seldom = Seldom()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting = 0
        self._bundle: Bundle | None = None
        self._day = ""
        self._broken = self._overdue = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._prepare()
        self._thread = threading.Thread(target=self._run, name="vestry-content", daemon=True)

    @property
    def healthy(self) -> bool:
        """False from a failed or overdue write until one has succeeded again."""
        return not (self._broken or self._overdue)

    async def keep(self, context: Context, mode: ContentMode, make: Callable[[], Kept]) -> Content:
        """Keep what `make` gives. It is durable when this returns. Raises AuditUnavailable."""
        loop = self._loop or self._begin()
        if self._waiting >= _WAITING:
            raise self._unavailable()
        future: asyncio.Future[Content] = loop.create_future()
        self._waiting += 1
        self._jobs.put(Job(context, mode, make, future))
        try:
            async with asyncio.timeout(self._seconds):
                return await future
        except TimeoutError:
            self._overdue = self._waiting > 0  # else it is written, told too late, and nothing would end the outage
            raise self._unavailable() from None
        except OSError as error:
            raise self._unavailable() from error

    async def close(self) -> None:
        """Write what is waiting, and let go of the files."""
        if self._loop is None:
            return
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join, self._seconds)
        if self._thread.is_alive():
            _LOG.error("a write of kept content still hangs; the process goes on without it")

    def _unavailable(self) -> AuditUnavailable:
        self._failed()
        return AuditUnavailable()

    def _prepare(self) -> None:
        """Make the directories, and take away what a crash left at the end of the last bundle."""
        try:
            self._place.make(self._files)
            for name in self._place.names()[-1:]:
                tidy(self._place, name, self._files)
                if (at := damaged_at(self._place.keys / name)) is not None:
                    _LOG.error("%s is damaged at byte %d; it is left as it is", self._place.keys / name, at)
        except (OSError, ContentDamaged) as error:
            raise LogUnusable(
                f"The content beside the audit log cannot be kept: {error}. Give the server a writable directory with "
                "free space, as `audit.directory`, or restore the file from a copy."
            ) from error

    def _begin(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self._loop

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                jobs = self._take()
                if jobs is None:
                    return
                if jobs or self._broken:
                    self._work(jobs)
        except _LoopGone:
            _LOG.info("the event loop has ended, and the keeper of content with it")
        finally:
            self._drop()

    def _take(self) -> list[Job] | None:
        """What waits; nothing, when it is time to try again; None at the end."""
        try:
            job = self._jobs.get(timeout=_PROBE_SECONDS if self._broken else None)
        except queue.Empty:
            return []
        jobs: list[Job] = []
        while job is not None:
            jobs.append(job)
            if len(jobs) >= _BATCH_JOBS:
                return jobs
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs
        if jobs:
            self._jobs.put(None)
            return jobs
        return None

    def _work(self, jobs: list[Job]) -> None:
        done: list[tuple[Job, Content | Exception]] = []
        ready: list[tuple[Job, Content, Item]] = []
        size = 0
        for job in jobs:
            try:
                content, item = self._made(job)
            except OSError as error:
                if self._seldom.due(str(error)):
                    _LOG.error("content cannot be kept, so its calls are not served: %s", error)
                done.append((job, error))
                continue
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the thread; the call fails closed
                _LOG.exception("the content of call %s could not be kept", job.context.request_id)
                done.append((job, OSError(str(error))))
                continue
            ready.append((job, content, item))
            size += len(item.blob)
            if size >= _BATCH_BYTES:
                done += self._written(ready)
                ready, size = [], 0
        if ready or self._broken:
            done += self._written(ready)
        self._tell(done)

    def _made(self, job: Job) -> tuple[Content, Item]:
        """What the record will say but for its place, and what is to be written."""
        kept, context, mode = job.make(), job.context, job.mode
        salt = new_salt()
        content = Content(size=len(kept.content), left_out=kept.left_out, commitment=commitment(salt, kept.content))
        secret, blob = salt, b""
        if mode == ContentMode.HASHED:
            key = self._tenant_key(context.tenant)
            content.hmac = keyed_hash(key, kept.content)
            content.texts = tuple(keyed_hash(key, text.encode("utf-8", "replace")) for text in kept.texts)
        elif mode == ContentMode.SEALED:
            sealer = self._secrets.sealer(context.tenant)
            sealed = sealer.seal(salt, kept.content, context)
            secret, blob = sealed.wrapped, sealed.ciphertext
            content.auditor = sealer.auditor.id
            content.sha256 = hashlib.sha256(blob).hexdigest()
        else:
            blob = kept.content
        about = About(
            context.tenant, context.subject, context.request_id, context.kind, mode, rfc3339(self._clock.wall())
        )
        return content, Item(about, secret, blob)

    def _tenant_key(self, tenant: str) -> bytes:
        key = self._tenant_keys.get(tenant)
        if key is None:
            key = self._tenant_keys[tenant] = tenant_key(self._secrets.hashing(), tenant)
        return key

    def _written(self, ready: list[tuple[Job, Content, Item]]) -> list[tuple[Job, Content | Exception]]:
        """Make these durable, and fill in where they are; or what went wrong. With none, it is a try."""
        try:
            bundle = self._current()
            if self._broken:
                bundle.probe()
            places = bundle.append([item for _, _, item in ready]) if ready else []
        except OSError as error:
            if not self._broken:
                _LOG.error("content cannot be kept, so its calls are not served: %s", error)
            self._broken = True
            if self._bundle is not None:
                self._bundle.discard()
                self._bundle = None
            return [(job, error) for job, _, _ in ready]
        if self._broken:
            _LOG.warning("content can be kept again")
        self._broken = False
        for (_, content, item), (entry, offset) in zip(ready, places, strict=True):
            content.bundle, content.entry = bundle.name, entry
            if item.blob:
                content.offset, content.length = offset, len(item.blob)
        return [(job, content) for job, content, _ in ready]

    def _current(self) -> Bundle:
        """The bundle to write to: another one each day, and where the last is full or gone."""
        day = rfc3339(self._clock.wall())[:10].replace("-", "")
        if self._bundle is not None and (self._bundle.full or day != self._day):
            self._drop()
        if self._bundle is None:
            self._bundle, self._day = Bundle.begin(self._place, day, self._files), day
        return self._bundle

    def _drop(self) -> None:
        if self._bundle is not None:
            self._bundle.close()
            self._bundle = None

    def _tell(self, done: list[tuple[Job, Content | Exception]]) -> None:
        if self._loop is None:
            raise _LoopGone
        try:
            self._loop.call_soon_threadsafe(self._resolve, done)
        except RuntimeError as error:
            raise _LoopGone from error

    # The loop again -----------------------------------------------------------------------------------------------

    def _resolve(self, done: list[tuple[Job, Content | Exception]]) -> None:
        self._waiting -= len(done)
        self._overdue = False
        for job, result in done:
            if job.future.done():
                continue
            if isinstance(result, Content):
                job.future.set_result(result)
            else:
                job.future.set_exception(result)


class _LoopGone(Exception):  # noqa: N818 - where the thread's work ends
    """Nobody is left to report to."""
