"""The registry of origins: signed, complete, and missed when it is gone."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from fakes.audit import SIGNING, FaultyFiles, HandClock, kinds, read
from fakes.calls import intent
from support.alone import both
from vestry.audit import registry
from vestry.audit.condition import condition
from vestry.audit.files import Files
from vestry.audit.opening import open_store
from vestry.audit.records import Clock
from vestry.audit.registry import HEAD, REGISTRY, parse, register
from vestry.audit.scan import LogUnusable
from vestry.audit.tlog.notes import NOTE_BYTES, NoteRefused, Signer

SIGNER = SIGNING.signer
HOUSE = SIGNER.public.name


def opened_and_closed(directory: Path, origin: str, *, crash: bool = False) -> list[str]:
    """A start and a stop; returns the origins that the store knew of."""
    store = open_store(directory, origin, signing=SIGNING, segment_bytes=1 << 20)
    store.commit([intent(f"call-{origin}-{store.next_index}")])
    if crash:
        store.abandon()
    else:
        store.close()
    return store.origins


def old_log(directory: Path, origin: str) -> None:
    """What the version before had left: segments, and neither tiles, checkpoint nor registry."""
    opened_and_closed(directory, origin, crash=True)
    (directory / REGISTRY).unlink()


def known(directory: Path) -> list[str]:
    return list(registry.read(directory, SIGNER.public) or {})


def test_every_log_stands_in_it(tmp_path: Path) -> None:
    """Sorted, signed by the house, with the time of the first start, which a later start leaves."""
    clock = HandClock()
    for origin in ("server", "cli", "server/two"):
        (tmp_path / origin).mkdir(parents=True, exist_ok=True)
        register(tmp_path, origin, SIGNER, files=Files(), clock=clock.clock)
        clock.both(60)
    note = (tmp_path / REGISTRY).read_text()
    text = SIGNER.public.verify(note)
    assert text.split("\n") == [
        HEAD,
        HOUSE,
        "cli 2001-09-09T01:47:40.000000Z",
        "server 2001-09-09T01:46:40.000000Z",
        "server/two 2001-09-09T01:48:40.000000Z",
        "",
    ]
    assert register(tmp_path, "cli", SIGNER, files=Files(), clock=clock.clock) == ["cli", "server", "server/two"]
    assert (tmp_path / REGISTRY).read_text() == note


def test_a_log_knows_all_others(tmp_path: Path) -> None:
    """What `open_store` returns goes into the record `server.start`."""
    assert opened_and_closed(tmp_path, "cli") == ["cli"]
    assert opened_and_closed(tmp_path, "server") == ["cli", "server"]
    assert opened_and_closed(tmp_path, "cli") == ["cli", "server"]


def registered(directory: Path, names: list[str]) -> None:
    for name in names:
        register(directory, name, SIGNER, files=Files(), clock=Clock())


def filled(directory: Path, names: list[str]) -> None:
    """A registry with these in it besides, as if they had begun one by one: each would write it anew."""
    lines = (directory / REGISTRY).read_text().partition("\n\n")[0].split("\n")
    seen = lines[2].rpartition(" ")[2]
    lines[2:] = sorted([*lines[2:], *(f"{name} {seen}" for name in names)])
    (directory / REGISTRY).write_text(SIGNER.sign("\n".join(lines) + "\n"))


def test_it_never_outgrows_what_can_be_read(tmp_path: Path) -> None:
    """The origin that has no room any more is refused in a sentence; the others go on, and the house verifies."""
    opened_and_closed(tmp_path, "server")
    names = [f"{number:060d}" for number in range(NOTE_BYTES // 89)]
    filled(tmp_path, names[:-20])
    with pytest.raises(LogUnusable, match=r"`0{57}[0-9]{3}` cannot begin, because the registry would have more than"):
        registered(tmp_path, names[-20:])
    listed = len(known(tmp_path))
    assert (tmp_path / REGISTRY).stat().st_size > NOTE_BYTES - 100
    assert len(opened_and_closed(tmp_path, "server")) == listed
    with pytest.raises(LogUnusable, match="no room"):
        opened_and_closed(tmp_path, names[-1])


def failures(directory: Path) -> list[tuple[str, str]]:
    """What both verifiers fail the house for: kind and origin."""
    report = both(directory, SIGNER.public)
    assert report is not None
    return [(each.kind, each.origin) for each in report.findings() if each.failure]


def test_a_log_that_was_opened_for_nothing_is_there(tmp_path: Path) -> None:
    """A start that is refused after the log was opened leaves a log that verifies; without its files it is missed."""
    opened_and_closed(tmp_path, "server")
    open_store(tmp_path, "two", signing=SIGNING, segment_bytes=1 << 20).close()
    assert kinds(tmp_path, "two") == ["segment.begin"]
    assert failures(tmp_path) == []
    assert condition(tmp_path / "two", "two").faults == []
    for path in [each for each in (tmp_path / "two").rglob("*") if each.is_file() and each.name != "lock"]:
        path.unlink()
    assert failures(tmp_path) == [("log-missing", "two")]


def test_it_is_durable_before_a_log_has_its_first_record(tmp_path: Path) -> None:
    """A registry that cannot be written lets no log begin."""
    files = FaultyFiles()
    files.fail("rename", errno.ENOSPC)
    with pytest.raises(LogUnusable, match=r"cannot be opened: .*injected ENOSPC"):
        open_store(tmp_path, "server", signing=SIGNING, segment_bytes=1 << 20, files=files)
    assert not list(tmp_path.rglob("*.jsonl"))
    files.mend()
    assert opened_and_closed(tmp_path, "server") == ["server"]


def test_logs_of_the_version_before_are_taken_in(tmp_path: Path) -> None:
    """The first start writes the registry, with every log that lies there, and signs; so the second start works too."""
    old_log(tmp_path, "cli")
    old_log(tmp_path, "server")
    assert not (tmp_path / "server" / "checkpoint").exists()
    for _ in range(3):
        assert opened_and_closed(tmp_path, "server") == ["cli", "server"]
        assert known(tmp_path) == ["cli", "server"]
    assert (tmp_path / "server" / "checkpoint").exists()
    assert not (tmp_path / "cli" / "checkpoint").exists()
    assert opened_and_closed(tmp_path, "cli") == ["cli", "server"]
    assert len(read(tmp_path, "server")) == read(tmp_path, "server")[-1]["index"] + 1
    assert kinds(tmp_path, "server").count("intent") == 4


@pytest.mark.parametrize("origin", ["server", "another"])
def test_missing_though_there_are_signed_logs(tmp_path: Path, origin: str) -> None:
    """No log is opened, neither the old one nor a new one, and no new registry hides the loss."""
    opened_and_closed(tmp_path, "server")
    opened_and_closed(tmp_path, "cli")
    (tmp_path / REGISTRY).unlink()
    with pytest.raises(LogUnusable, match=r"is missing, though there are signed logs \(cli, server\). Restore it"):
        opened_and_closed(tmp_path, origin)
    assert not (tmp_path / REGISTRY).exists()


def test_rolled_back(tmp_path: Path) -> None:
    """A registry of the time before a log began does not let that log go on."""
    opened_and_closed(tmp_path, "cli")
    old = (tmp_path / REGISTRY).read_bytes()
    opened_and_closed(tmp_path, "server")
    (tmp_path / REGISTRY).write_bytes(old)
    with pytest.raises(LogUnusable, match="`server` has been signed, but does not stand in the registry"):
        opened_and_closed(tmp_path, "server")
    assert (tmp_path / REGISTRY).read_bytes() == old
    assert opened_and_closed(tmp_path, "cli") == ["cli"]


def test_signed_by_another_key(tmp_path: Path) -> None:
    """Of the same name or not: it is not this house's."""
    opened_and_closed(tmp_path, "server")
    text = SIGNER.public.verify((tmp_path / REGISTRY).read_text())
    for other in (Signer.generate(HOUSE), Signer.generate("another.example")):
        (tmp_path / REGISTRY).write_text(other.sign(text))
        with pytest.raises(LogUnusable, match="cannot be trusted: it is not signed by"):
            opened_and_closed(tmp_path, "server")


@pytest.mark.parametrize("damage", ["altered", "cut", "empty", "binary", "folder"])
def test_damaged(tmp_path: Path, damage: str) -> None:
    """A sentence, for whatever stands in its place."""
    opened_and_closed(tmp_path, "server")
    path = tmp_path / REGISTRY
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        wrong = {
            "altered": whole.replace(b"server 2", b"sarver 2"),
            "cut": whole[:-9],
            "empty": b"",
            "binary": b"\xff" * 99,
        }
        path.write_bytes(wrong[damage])
    with pytest.raises(LogUnusable, match=f"{path}, cannot be trusted: "):
        opened_and_closed(tmp_path, "server")


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{HEAD}\n",
        f"{HEAD}\n{HOUSE}",
        f"vestry origins v2\n{HOUSE}\n",
        f"{HEAD}\nanother.example\n",
        f"{HEAD}\n{HOUSE}\nserver\n",
        f"{HEAD}\n{HOUSE}\n server\n",
        f"{HEAD}\n{HOUSE}\nserver \n",
        f"{HEAD}\n{HOUSE}\nserver a\nserver b\n",
        f"{HEAD}\n{HOUSE}\n\n",
    ],
)
def test_texts_that_are_no_registry(text: str) -> None:
    """Even signed ones."""
    with pytest.raises(NoteRefused):
        parse(text, HOUSE)


def test_one_without_logs() -> None:
    """Is one."""
    assert parse(f"{HEAD}\n{HOUSE}\n", HOUSE) == {}


def test_processes_that_start_at_once_do_not_lose_each_other(tmp_path: Path) -> None:
    """A lock beside it; without it one would write what the other has not read."""
    names = [f"log-{number}" for number in range(12)]
    for name in names:
        (tmp_path / name).mkdir()
    starting = [
        threading.Thread(target=register, args=(tmp_path, name, SIGNER), kwargs={"files": Files(), "clock": Clock()})
        for name in names
    ]
    for each in starting:
        each.start()
    for each in starting:
        each.join(20)
    assert known(tmp_path) == sorted(names)
