"""The keeper: durable when it returns, closed when it cannot be, and well again by itself."""

from __future__ import annotations

import asyncio
import errno
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.audit import FaultyFiles, HandClock
from fakes.wires import until
from vestry.audit.content import bundles
from vestry.audit.content.bundles import Place
from vestry.audit.content.keeper import Keeper, Secrets
from vestry.audit.content.sealing import Context, Sealer, commitment, keyed_hash, tenant_key
from vestry.audit.content.texts import Kept
from vestry.audit.scan import LogUnusable
from vestry.errors import AuditUnavailable
from vestry.types import ContentMode

FULL, HASHED = ContentMode.FULL, ContentMode.HASHED


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test with a loop of its own."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run


def context(request_id: str = "req_1") -> Context:
    return Context("radiology", "alice", request_id, "prompt")


def text(content: bytes = b"content") -> Any:
    return lambda: Kept(content, (content.decode(),))


def nobody(tenant: str) -> Sealer:
    """No tenant seals."""
    raise OSError(tenant)


@asynccontextmanager
async def keeper(log: Path, **more: Any) -> AsyncIterator[Keeper]:
    kept = Keeper(log, Secrets(lambda: b"h" * 32, nobody), **{"seconds": 2.0, **more})
    try:
        yield kept
    finally:
        await kept.close()


@looped
async def test_what_is_kept_is_on_the_disk(tmp_path: Path) -> None:
    """With the salt that its commitment was made with; fdatasync was called for both files."""
    files = FaultyFiles()
    async with keeper(tmp_path, files=files) as kept:
        before = files.calls["sync"]
        content = await kept.keep(context(), FULL, text())
        assert files.calls["sync"] == before + 2
        place = Place(tmp_path)
        entry = bundles.entry_at(place.keys / content.bundle, content.entry or 0)
        assert entry.about.mode == FULL
        assert bundles.blob_at(place.blobs / content.bundle, entry.about.offset, entry.about.length) == b"content"
        assert content.commitment == commitment(entry.secret, b"content")
        assert (content.size, content.offset, content.length, content.hmac) == (7, 0, 7, "")


@looped
async def test_hashes_are_under_the_tenants_key(tmp_path: Path) -> None:
    """Of the content and of each text; no blob is written."""
    async with keeper(tmp_path) as kept:
        content = await kept.keep(context(), HASHED, text())
    key = tenant_key(b"h" * 32, "radiology")
    assert content.hmac == keyed_hash(key, b"content")
    assert content.texts == (keyed_hash(key, b"content"),)
    assert content.length is None
    assert (Place(tmp_path).blobs / content.bundle).read_bytes() == b""


@looped
async def test_calls_that_wait_share_their_syncs(tmp_path: Path) -> None:
    """A hundred contents at once take a few syncs, each has its own entry."""
    files = FaultyFiles()
    async with keeper(tmp_path, files=files) as kept:
        await kept.keep(context(), HASHED, text())
        before = files.calls["sync"]
        found = await asyncio.gather(*(kept.keep(context(str(n)), HASHED, text()) for n in range(100)))
        assert files.calls["sync"] - before <= 10
    assert len({(each.bundle, each.entry) for each in found}) == 100


@pytest.mark.parametrize("call", ["write", "sync", "create", "sync_directory"])
@looped
async def test_what_cannot_be_written_is_refused_and_it_mends_by_itself(tmp_path: Path, call: str) -> None:
    """AuditUnavailable, unhealthy, counted; then healthy again without any call, in a new bundle."""
    files, failures = FaultyFiles(), []
    async with keeper(tmp_path, files=files, failed=lambda: failures.append(1)) as kept:
        if call in {"write", "sync"}:
            first = await kept.keep(context(), FULL, text())
        files.fail(call, errno.ENOSPC)
        with pytest.raises(AuditUnavailable):
            await kept.keep(context(), FULL, text())
        assert not kept.healthy
        assert failures == [1]
        await asyncio.sleep(1.2)  # it has tried by itself meanwhile, and left no files behind
        assert not kept.healthy
        assert len(Place(tmp_path).names()) == (call in {"write", "sync"})
        files.mend()
        await until(lambda: kept.healthy)
        again = await kept.keep(context(), FULL, text())
        if call in {"write", "sync"}:
            assert again.bundle > first.bundle


@looped
async def test_a_write_that_hangs_is_no_write(tmp_path: Path) -> None:
    """After the deadline AuditUnavailable; when the disk moves again so does the keeper."""
    files = FaultyFiles()
    async with keeper(tmp_path, files=files, seconds=0.2) as kept:
        files.fail("sync", "hang")
        began = time.monotonic()
        with pytest.raises(AuditUnavailable):
            await kept.keep(context(), FULL, text())
        assert 0.15 < time.monotonic() - began < 10
        assert not kept.healthy
        files.mend()
        await until(lambda: kept.healthy)
        await kept.keep(context(), FULL, text())


@looped
async def test_a_process_that_stood_still_is_healthy_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller is told too late that the content is kept, and refused; but nothing is overdue that was written."""
    loop, told = asyncio.get_running_loop(), threading.Event()
    tell = loop.call_soon_threadsafe

    def telling(*arguments: Any, **more: Any) -> asyncio.Handle:
        handle = tell(*arguments, **more)
        told.set()
        return handle

    monkeypatch.setattr(loop, "call_soon_threadsafe", telling)
    async with keeper(tmp_path, seconds=0.0) as kept:
        waiting = asyncio.create_task(kept.keep(context(), FULL, text()))
        loop.call_soon(told.wait, 10)
        with pytest.raises(AuditUnavailable):
            await waiting
        assert told.is_set()
        assert kept.healthy


@looped
async def test_a_fault_of_ours_fails_one_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be made is refused; the others beside it are kept; no content stands in the process's log."""

    def broken() -> Kept:
        raise ZeroDivisionError

    async with keeper(tmp_path) as kept:
        bad, good = await asyncio.gather(
            kept.keep(context(), FULL, broken), kept.keep(context(), FULL, text()), return_exceptions=True
        )
    assert isinstance(bad, AuditUnavailable)
    assert not isinstance(good, BaseException)
    assert "req_1" in caplog.text


@looped
async def test_a_new_day_and_a_full_file_begin_a_new_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the files of a day can be moved, and none grows without bound."""
    hand = HandClock()
    async with keeper(tmp_path, clock=hand.clock) as kept:
        names = [(await kept.keep(context(), FULL, text())).bundle]
        hand.both(86_400)
        names.append((await kept.keep(context(), FULL, text())).bundle)
        monkeypatch.setattr(bundles, "BLOBS_BYTES", 7)
        names.append((await kept.keep(context(), FULL, text())).bundle)
    assert names == ["20010909-000001", "20010910-000001", "20010910-000002"]


@looped
async def test_the_next_start_tidies_and_begins_anew(tmp_path: Path) -> None:
    """What a crash left at the end of the last bundle is gone; nothing is appended to it."""
    async with keeper(tmp_path) as kept:
        first = await kept.keep(context(), FULL, text())
    blobs = Place(tmp_path).blobs / first.bundle
    blobs.write_bytes(blobs.read_bytes() + b"a canary")
    async with keeper(tmp_path) as kept:
        assert blobs.read_bytes() == b"content"
        assert (await kept.keep(context(), FULL, text())).bundle > first.bundle


@looped
async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    """Whoever was waiting is answered."""
    async with keeper(tmp_path) as kept:
        waiting = [asyncio.create_task(kept.keep(context(str(n)), FULL, text())) for n in range(20)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*waiting)) == 20
    assert len(list(bundles.entries(Place(tmp_path).keys / Place(tmp_path).names()[0]))) == 20


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A sentence for the operator, at the start."""
    (tmp_path / "content").write_text("in the way")
    with pytest.raises(LogUnusable, match="cannot be kept"):
        Keeper(tmp_path, Secrets(lambda: b"h" * 32, nobody), seconds=1)
