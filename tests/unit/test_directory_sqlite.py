"""The directory in SQLite: what it keeps, how changes act across processes, and how its file can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import shutil
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from support import forks
from support.house import until
from support.keys import NOBODYS, Keys, OpenKeys, sqlite_directory
from vestry.adapters.directory import sqlite_file
from vestry.adapters.directory.faults import DamageFault, DirectoryFault
from vestry.adapters.directory.mark import LOOK_SECONDS, FileFreshness
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.rows import NO_OBJECT, validate
from vestry.adapters.directory.sqlite import Sqlite
from vestry.adapters.directory.store import SqlDirectory
from vestry.adapters.key_format import mint
from vestry.adapters.memory import wall
from vestry.errors import KeysUnavailable
from vestry.types import Key, Kind, Limits

PEPPER = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "keys.sqlite"


@pytest.fixture
def office(path: Path) -> Keys:
    """Whoever makes and revokes keys, in a directory with one key of somebody else."""
    office = Keys.of(path, PEPPER)
    office.create(owner="first")
    return office


@pytest.fixture
def keys(path: Path, office: Keys) -> Iterator[OpenKeys]:
    """The keys, as a server has them open."""
    store = OpenKeys(sqlite_directory(path, PEPPER))
    yield store
    store.close()


def refused(keys: OpenKeys, key: str) -> str:
    """Why the store cannot be read; empty if it can."""
    try:
        keys.look_up(key)
    except DirectoryFault as fault:
        return fault.why
    return ""


@contextlib.contextmanager
def because(word: str) -> Iterator[None]:
    """What is done here raises DirectoryFault, and the operator's sentence has this word."""
    with pytest.raises(DirectoryFault) as fault:
        yield
    assert word in fault.value.why


def found(keys: OpenKeys, key: str) -> bool:
    """Whether the store can be read and knows the key."""
    try:
        return keys.look_up(key) is not None
    except KeysUnavailable:
        return False


def spoil(path: Path, statement: str, *, wal: bool = True) -> None:
    """Change the file behind the store's back."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        if wal:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# What is in memory.


def test_calls_that_arrived_together_share_one_look(
    keys: OpenKeys, office: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is read for the first of the calls that had arrived, and again for one that arrives afterwards."""
    key, _ = office.create()
    keys.look_up(key)
    keys.look_up(key)
    reads: list[tuple[int, ...]] = []
    pread = os.pread

    def counted(*wanted: int) -> bytes:
        reads.append(wanted)
        return pread(wanted[0], wanted[1], wanted[2])

    monkeypatch.setattr(os, "pread", counted)
    arrived = time.monotonic()
    assert all(keys.known(key, arrived) is not None for _ in range(5))
    assert len(reads) == 1
    assert keys.known(key, time.monotonic()) is not None
    assert len(reads) == 2


def test_a_revocation_acts_on_the_call_that_arrives_next(keys: OpenKeys, office: Keys) -> None:
    """Another process's revocation that is done when a call arrives acts on it, whatever was looked at before."""
    key, key_id = office.create()
    assert keys.look_up(key) is not None
    assert keys.known(key) is not None
    office.revoke(key_id)
    assert keys.look_up(key) is None


def test_what_is_noted_of_use_empties_no_memory(keys: OpenKeys, office: Keys) -> None:
    """Keys stay in memory while their use is noted, by this process or another, once SQLite's own counter was seen."""
    key, key_id = office.create()
    assert keys.look_up(key) is not None
    assert keys.known(key) is not None

    async def elsewhere() -> None:
        directory = sqlite_directory(keys.directory.backend.path, PEPPER)  # type: ignore[attr-defined]
        await directory.note_used([key_id], wall())
        await directory.close()

    threading_run(elsewhere)
    keys.run(keys.credentials.note_use())
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        assert keys.known(key) is not None
    assert next(each for each in office.list() if each.id == key_id).last_used is not None


def threading_run(work: Callable[[], Any]) -> None:
    """Run this in a loop of another thread."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()


# What is kept.


def test_the_key_itself_is_nowhere(keys: OpenKeys, office: Keys, path: Path) -> None:
    """Neither the key, nor its random part, nor a plain hash of it stands in any file of the store."""
    key, _ = office.create()
    assert keys.look_up(key) is not None
    content = b"".join(each.read_bytes() for each in path.parent.iterdir() if each.is_file())
    assert len(content) > 4096
    for trace in (key.encode(), key[4:47].encode(), hashlib.sha256(key.encode()).digest()):
        assert trace not in content
    assert hmac.digest(PEPPER, key.encode(), "sha256") in content
    assert PEPPER not in content


def test_files_are_the_users_alone(keys: OpenKeys, office: Keys, path: Path) -> None:
    """The database and its companions have mode 0600, whatever the umask."""
    office.create()
    assert keys.look_up(NOBODYS) is None
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes["keys.sqlite"] == 0o600
    assert set(modes.values()) == {0o600}


def test_a_change_is_in_a_plain_copy_of_the_file(office: Keys, keys: OpenKeys, path: Path) -> None:
    """While the store is open, the file alone has every change that is done, its log left out."""
    assert keys.look_up(NOBODYS) is None
    key, _ = office.create()
    copy = path.with_name("copy.sqlite")
    shutil.copy(path, copy)
    assert Keys.of(copy, PEPPER).holder(key) is not None


@pytest.mark.parametrize(
    ("rights", "word"),
    [
        ({"owner": ""}, "owner"),
        ({"owner": "x" * 129}, "owner"),
        ({"owner": " padded"}, "owner"),
        ({"owner": "line\nbreak"}, "owner"),
        ({"owner": "right\u202eleft"}, "owner"),
        ({"owner": "half \ud800"}, "owner"),
        ({"tenant": "Upper"}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "x" * 64}, "tenant"),
        ({"project": "Upper"}, "project"),
        ({"roles": []}, "role"),
        ({"models": []}, "models"),
        ({"models": ["a b"]}, "models"),
        ({"models": [f"m{number}" for number in range(257)]}, "models"),
        ({"routes": frozenset({"/v1/models"})}, "routes"),
        ({"routes": frozenset()}, "routes"),
        ({"limits": Limits(concurrency=0)}, "limit"),
        ({"limits": Limits(requests_per_minute=-1)}, "limit"),
        ({"limits": Limits(concurrency=100_001)}, "limit"),
        ({"expires": 1}, "expiry"),
        ({"made_by": "a\nb"}, "who made it"),
        ({"replaces": "me"}, "replaces"),
    ],
)
def test_what_no_key_can_have_is_refused(office: Keys, rights: dict[str, Any], word: str) -> None:
    """Owners, tenants, roles, models, limits and times outside their bounds make no key, and say why."""
    with pytest.raises(ValueError, match=word):
        office.create(**rights)
    assert len(office.list()) == 1


def test_validate_takes_what_is_at_the_bounds() -> None:
    """The greatest owner, tenant, model, limits are taken."""
    limits = Limits(100_000, 10_000_000)
    validate(Key("key_1", "t" * 63, "x" * 128, 1, models=frozenset({"m" * 128}), limits=limits, expires=2))


def test_a_pepper_must_be_long() -> None:
    """Fewer than 32 bytes of pepper are refused."""
    with pytest.raises(ValueError, match="32 bytes"):
        Pepper(b"x" * 31)


def test_a_long_pepper_is_hashed_as_hmac_says(path: Path) -> None:
    """A pepper beyond SHA-256's block is used as RFC 2104 tells."""
    pepper = bytes(200)
    key, _ = Keys.of(path, pepper).create()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT hash FROM keys").fetchall() == [
            (hmac.digest(pepper, key.encode(), "sha256"),)
        ]


# Across processes.


def elsewhere(script: str, path: Path, *arguments: str) -> str:
    """Run a script in another process, with a store as `keys` and `arguments`."""
    head = (
        "import sys; from pathlib import Path; from support.keys import Keys; "
        f"keys = Keys.of(Path(sys.argv[1]), bytes(range(32))); arguments = sys.argv[2:]; {script}"
    )
    done = forks.run(["-c", head, path, *arguments], env=os.environ)
    done.check_returncode()
    return done.stdout.strip()


def test_changes_of_another_process_act_on_the_next_call(keys: OpenKeys, path: Path) -> None:
    """A key made elsewhere works at once; revoked elsewhere, it stops at once, though it was in memory."""
    assert keys.look_up(NOBODYS) is None
    secret, key_id = elsewhere("print(*keys.create(owner='bob'))", path).split()
    assert found(keys, secret)
    assert found(keys, secret)
    elsewhere("keys.revoke(arguments[0])", path, key_id)
    assert not found(keys, secret)


@pytest.mark.parametrize("marked", [True, False])
def test_what_another_program_changes_acts_soon(keys: OpenKeys, office: Keys, path: Path, marked: bool) -> None:
    """A key that SQLite's own shell revokes stops within a moment, with the mark's file there or removed."""
    key, _ = office.create()
    assert found(keys, key)
    if not marked:
        mark_of(path).unlink()
    with contextlib.closing(sqlite3.connect(path)) as shell, shell:
        shell.execute("UPDATE keys SET revoked = 1")
    until(lambda: not found(keys, key))


def test_a_lost_mark_costs_nothing_but_time(keys: OpenKeys, office: Keys, path: Path) -> None:
    """Where there is no mark, be it removed or not writable, changes act all the same."""
    secret, key_id = office.create()
    assert found(keys, secret)
    mark_of(path).unlink()
    mark_of(path).mkdir()
    freshness = keys.directory.backend.freshness
    assert isinstance(freshness, FileFreshness)
    until(lambda: found(keys, secret) and freshness._mark_file < 0)
    office.revoke(key_id)
    assert not found(keys, secret)
    mark_of(path).rmdir()
    assert found(keys, office.create()[0])


def mark_of(path: Path) -> Path:
    return path.with_name(path.name + "-mark")


def test_a_process_that_dies_before_the_commit_changes_nothing(keys: OpenKeys, office: Keys, path: Path) -> None:
    """A command killed between record and commit leaves no key, and no lock."""
    script = (
        "import asyncio, os; from support.keys import sqlite_directory; from vestry.types import Key; "
        "from vestry.adapters.key_format import mint, mint_id\n"
        "async def main():\n"
        "    async with sqlite_directory(Path(sys.argv[1]), bytes(range(32))).changing() as change:\n"
        "        await change.add_key(Key(mint_id(), 'default', 'x', 1), mint())\n"
        "        os.abort()\n"
        "asyncio.run(main())"
    )
    with pytest.raises(subprocess.CalledProcessError) as died:
        elsewhere(script, path)
    assert died.value.returncode == -6
    assert len(office.list()) == 1
    assert found(keys, office.create()[0])


def test_many_start_at_once_and_make_one_store(path: Path) -> None:
    """Threads that all find no store make one together, and every key works."""
    barrier = threading.Barrier(8)
    secrets: list[str] = []

    def run() -> None:
        office = Keys.of(path, PEPPER)
        barrier.wait()
        secrets.append(office.create()[0])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    office = Keys.of(path, PEPPER)
    assert len(secrets) == 8
    assert all(office.holder(each) is not None for each in secrets)
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_preparing_a_store_that_is_there_leaves_it_alone(office: Keys, path: Path) -> None:
    """`prepare` makes a store once."""
    before = path.stat()
    office.prepare()
    assert len(office.list()) == 1
    assert path.stat().st_ino == before.st_ino


# Faults of the file.


def deleted(path: Path) -> None:
    for each in path.parent.glob("keys.sqlite*"):
        each.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def replaced_by_folder(path: Path) -> None:
    deleted(path)
    path.mkdir()


def other_database(path: Path) -> None:
    deleted(path)
    spoil(path, "CREATE TABLE other (x)", wal=False)


def newer(path: Path) -> None:
    spoil(path, "PRAGMA user_version = 3")


def older(path: Path) -> None:
    spoil(path, "PRAGMA user_version = 1")


def without_pepper_check(path: Path) -> None:
    spoil(path, "DELETE FROM store")


def without_table(path: Path) -> None:
    spoil(path, "DROP TABLE keys")


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (deleted, "does not exist"),
        (garbage, "damaged"),
        (emptied, "restore it from a copy"),
        (replaced_by_folder, "cannot be used"),
        (other_database, "not a key store"),
        (newer, "format 3"),
        (older, "vestry store migrate"),
        (without_pepper_check, "key-hash"),
        (without_table, "no such table"),
    ],
)
def test_a_bad_file_refuses_and_a_good_one_serves_again(
    keys: OpenKeys, office: Keys, path: Path, fault: Callable[[Path], None], word: str
) -> None:
    """Deleted, overwritten, emptied, replaced, newer: look-ups are refused, a change says why, a good file heals."""
    key, _ = office.create()
    copy = path.with_suffix(".copy")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    assert found(keys, key)
    fault(path)
    until(lambda: refused(keys, key), what="the fault to be noticed")
    assert word in refused(keys, key)
    assert word in refused(keys, mint())
    stranger = OpenKeys(sqlite_directory(path, PEPPER))
    with because(word):
        stranger.run(stranger.directory.keys(None, "", 9))
    with because(word):
        stranger.run(revoked(stranger.directory))
    stranger.close()
    if path.is_dir():
        path.rmdir()
    for each in path.parent.glob("keys.sqlite-*"):
        each.unlink()
    copy.rename(path)
    until(lambda: found(keys, key), what="recovery")
    keys.run(keys.directory.integrity())


async def revoked(directory: SqlDirectory) -> None:
    async with directory.changing() as change:
        await change.key("key_1")


def test_what_a_client_is_told_names_no_path(keys: OpenKeys, path: Path) -> None:
    """The operator's reason is not in the refusal that leaves the server."""
    deleted(path)
    assert str(path) in refused(keys, mint())
    with pytest.raises(DirectoryFault) as fault:
        keys.look_up(mint())
    assert str(path.parent).encode() not in fault.value.body()
    assert fault.value.status == 503


def test_a_store_that_was_made_anew_serves_its_own_keys(keys: OpenKeys, office: Keys, path: Path) -> None:
    """After the file was deleted and made again by another process, old keys are nobody and new ones work."""
    old, _ = office.create()
    assert found(keys, old)
    deleted(path)
    new = elsewhere("print(keys.create(owner='bob')[0])", path)
    until(lambda: found(keys, new), what="the new store to be opened")
    time.sleep(LOOK_SECONDS)  # until then what is in memory may be of the file that was replaced
    assert not found(keys, old)
    assert refused(keys, old) == ""


def test_a_locked_store_refuses_soon_and_recovers(keys: OpenKeys, office: Keys, path: Path) -> None:
    """While another program has the whole file to itself nobody waits for long."""
    key, _ = office.create()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert "locked" in refused(keys, key)
        assert "locked" in refused(keys, key)
        assert time.monotonic() - began < 8
        other.execute("COMMIT")
    until(lambda: found(keys, key), what="recovery")


class Belated(SqlDirectory):
    """One whose transactions begin just as whoever asked for them has gone."""

    async def _begin(self) -> AsyncConnection:
        connection = await super()._begin()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return connection


def test_a_transaction_that_nobody_waits_for_any_more_is_given_back(office: Keys, path: Path) -> None:
    """It had begun when its caller was gone: the lock is not kept."""

    async def work() -> None:
        secret = Pepper(PEPPER)
        belated = Belated(Sqlite(path, secret), secret)
        task = asyncio.create_task(revoked(belated))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            await revoked(sqlite_directory(path, PEPPER))
        await belated.close()

    asyncio.run(work())


def test_a_writer_does_not_hold_up_readers(keys: OpenKeys, office: Keys, path: Path) -> None:
    """While a command is changing the store, keys are found as before."""
    key, _ = office.create()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE keys SET revoked = 1")
        assert found(keys, key)
        other.execute("ROLLBACK")


def test_a_command_waits_for_another_only_so_long(office: Keys, path: Path) -> None:
    """A change that cannot get the lock in time is refused before anything is recorded."""
    secret = Pepper(PEPPER)
    hasty = OpenKeys(SqlDirectory(Sqlite(path, secret, lock_seconds=0.05), secret))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with because("locked"):
            hasty.run(revoked(hasty.directory))
    hasty.run(revoked(hasty.directory))
    hasty.close()


def test_another_pepper_is_refused(office: Keys, path: Path) -> None:
    """A store opened with another secret says so, instead of knowing no key."""
    key, _ = office.create()
    other = OpenKeys(sqlite_directory(path, bytes(32)))
    assert "key-hash" in refused(other, key)
    with because("key-hash"):
        other.run(other.directory.prepare())
    with because("key-hash"):
        other.run(revoked(other.directory))
    other.close()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("models", ["{}", "[1]", "nonsense", '"small"']),
        ("routes", ["{}", "[1]"]),
        ("sources", ["[]", '["nowhere"]', "{}"]),
        ("roles", ["root", "user,root"]),
    ],
)
def test_a_damaged_row_refuses(keys: OpenKeys, office: Keys, path: Path, column: str, values: list[str]) -> None:
    """What cannot be read of a key's bounds never becomes `no bounds`."""
    key, _ = office.create()
    for wrong in values:
        spoil(path, f"UPDATE keys SET {column} = '{wrong}'")
        until(lambda: refused(keys, key) or "", what="the change to be seen")
        assert "damaged" in refused(keys, key)
    for shown in office.list():
        assert (bool(shown.damaged), shown.roles, shown.models) == (True, frozenset(), frozenset())


def test_a_damaged_row_spoils_no_other(keys: OpenKeys, office: Keys, path: Path) -> None:
    """Keys are looked up together: one that cannot be read is told as such, and the others are found."""
    (bad, damaged), (secret, key) = office.create(), office.create()
    spoil(path, f"UPDATE keys SET roles = 'root' WHERE id = '{damaged}'")
    both = keys.run(keys.directory.identify_all([bad, secret, mint(), "no key"]))
    assert set(both) == {bad, secret}
    assert isinstance(both[bad], DirectoryFault)
    right = both[secret]
    assert isinstance(right, Key)
    assert right.id == key


def test_a_key_of_an_older_version_works_from_its_network(keys: OpenKeys, office: Keys, path: Path) -> None:
    """Networks of IPv4 were kept as they were written, be it as IPv6; addresses are compared as IPv4."""
    secret, key = office.create()
    spoil(path, f"""UPDATE keys SET sources = '["::ffff:10.0.0.0/104"]' WHERE id = '{key}'""")
    held = keys.look_up(secret)
    assert held is not None
    assert held.sources == (ip_network("10.0.0.0/8"),)


def test_a_damaged_document_is_told_from_none(keys: OpenKeys, path: Path) -> None:
    """A body that is no JSON object comes as what no form takes, so that it can be replaced. Of a kind that there is
    not nothing can be made.
    """

    async def put() -> None:
        async with keys.directory.changing() as change:
            await change.put(Kind.TENANT, "", "radiology", {})

    keys.run(put())
    for wrong in ("[]", "{", "", "[" * 100_000, "9" * 5000):
        spoil(path, f"UPDATE documents SET body = '{wrong}'")
        (found,) = keys.run(keys.directory.standing())
        assert (found.name, found.body) == ("radiology", NO_OBJECT)
    spoil(path, "UPDATE documents SET kind = 'nonsense'")
    with pytest.raises(DamageFault) as fault:
        keys.run(keys.directory.standing())
    assert "damaged" in fault.value.why


def test_a_user_that_is_no_json_belongs_to_no_project(keys: OpenKeys, path: Path) -> None:
    """Who else does is told all the same, so that a project can be removed."""

    async def work() -> tuple[list[str], list[str]]:
        async with keys.directory.changing() as change:
            return await change.members("ward", "letters", 10)

    async def put() -> None:
        async with keys.directory.changing() as change:
            for name in ("uma", "zoe"):
                await change.put(Kind.USER, "ward", name, {"project": "letters"})

    keys.run(put())
    spoil(path, "UPDATE documents SET body = '{' WHERE name = 'zoe'")
    assert keys.run(work()) == ([], ["uma"])


def test_damage_further_down_is_found_by_the_full_check(keys: OpenKeys, office: Keys, path: Path) -> None:
    """`integrity` reads what a look-up does not."""

    async def fill() -> None:
        async with keys.directory.changing() as change:
            for number in range(60):
                await change.put(Kind.USER, "default", f"user-{number}", {"filling": "x" * 200})

    keys.run(fill())
    keys.run(keys.directory.close())
    spoil(path, "PRAGMA user_version = 2")
    content = bytearray(path.read_bytes())
    content[4096 * 10 : 4096 * 12] = bytes(4096 * 2)
    path.write_bytes(content)
    with because("damaged"):
        keys.run(keys.directory.integrity())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where no store can be made, the reason is a sentence."""
    (tmp_path / "file").write_text("")
    with because("cannot be used"):
        Keys.of(tmp_path / "file" / "keys.sqlite", PEPPER).create()


def test_a_full_disk_makes_no_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that could not be built whole is not there at all."""

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_file, "_in_one", fail)
    with because("full"):
        Keys.of(path, PEPPER).prepare()
    assert list(path.parent.iterdir()) == []


def test_a_count_of_changes_that_was_damaged_by_hand_keeps_nobody_from_changing(
    keys: OpenKeys, office: Keys, path: Path
) -> None:
    """What is done is not told as a failure, and acts with the next call."""
    spoil(path, "UPDATE store SET changes = -5")
    secret, key = office.create()
    assert found(keys, secret)
    office.revoke(key)
    assert not found(keys, secret)


def test_a_restored_copy_is_told_from_the_file_that_it_is_older_than(
    keys: OpenKeys, office: Keys, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that runs, and one that starts, say so once: a revoked key works again. After the next change of the
    directory nobody is told any more.
    """
    secret, key = office.create()
    copy = path.with_name("copy.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as held, contextlib.closing(sqlite3.connect(copy)) as copied:
        held.backup(copied)
    office.revoke(key)
    assert not found(keys, secret)
    assert "older than it was" not in caplog.text
    for each in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(each).unlink(missing_ok=True)
    copy.rename(path)
    until(lambda: found(keys, secret) and "older than it was" in caplog.text, what="the copy to be noticed")
    assert caplog.text.count("older than it was") == 1
    another = OpenKeys(sqlite_directory(path, PEPPER))
    assert (found(another, secret), caplog.text.count("older than it was")) == (True, 2)
    another.close()
    office.create()
    another = OpenKeys(sqlite_directory(path, PEPPER))
    assert (found(another, secret), caplog.text.count("older than it was")) == (True, 2)
    another.close()


@pytest.mark.parametrize("tenant", [None, "radiology"])
def test_a_page_is_read_where_it_stands_and_nothing_is_sorted_for_it(path: Path, tenant: str | None) -> None:
    """From the index, between its bounds: for a list of a hundred thousand users all were sorted for each page."""
    asked: list[tuple[str, Any]] = []

    async def work() -> None:
        directory = sqlite_directory(path, PEPPER)
        await directory.prepare()
        engine = (await directory.backend.engine(reading=True)).sync_engine
        event.listen(engine, "before_cursor_execute", lambda *said: asked.append((said[2], said[3])))
        await directory.page(Kind.USER, tenant, "radiology/ada", 100)
        await directory.close()

    asyncio.run(work())
    statement, values = asked[-1]
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    bounds = "<expr>>?" if tenant is None else "<expr>>? AND <expr><?"
    assert plan == [f"SEARCH documents USING INDEX documents_by_path (kind=? AND {bounds})"]
