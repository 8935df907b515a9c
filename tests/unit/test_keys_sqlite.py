"""The SQLite key store: what it keeps, how changes act across processes, and how its file can go wrong."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.house import until
from vestry.adapters import keys_sqlite
from vestry.adapters.key_format import PROBE, mint
from vestry.adapters.key_rows import Key, validate
from vestry.adapters.keys_sqlite import SqliteKeys, StoreFault, now
from vestry.errors import KeysUnavailable
from vestry.types import Limits

PEPPER = bytes(range(32))
HOUR = 3_600_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "keys.sqlite"


@pytest.fixture
def keys(path: Path) -> Iterator[SqliteKeys]:
    """A store with one key of somebody else in it."""
    store = SqliteKeys(path, PEPPER)
    store.create(owner="first", tenant="default")
    yield store
    store.close()


def made(keys: SqliteKeys, **rights: Any) -> str:
    """A new key's text."""
    return keys.create(**{"owner": "alice", "tenant": "default", **rights})[0]


def refused(keys: SqliteKeys, key: str) -> str:
    """Why the store cannot be read; empty if it can."""
    try:
        keys.look_up(key)
    except StoreFault as fault:
        return fault.why
    return ""


@contextlib.contextmanager
def because(word: str) -> Iterator[None]:
    """What is done here raises StoreFault, and the operator's sentence has this word."""
    with pytest.raises(StoreFault) as fault:
        yield
    assert word in fault.value.why


def found(keys: SqliteKeys, key: str) -> bool:
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


def test_calls_that_arrived_together_share_one_look(keys: SqliteKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark is read for the first of the calls that had arrived, and again for one that arrives afterwards."""
    key = made(keys)
    keys.look_up(key)
    reads: list[tuple[int, ...]] = []
    pread = os.pread

    def counted(*wanted: int) -> bytes:
        reads.append(wanted)
        return pread(wanted[0], wanted[1], wanted[2])

    monkeypatch.setattr(os, "pread", counted)
    arrived = time.monotonic()
    assert all(keys.look_up(key, arrived) is not None for _ in range(5))
    assert len(reads) == 1
    assert keys.look_up(key, time.monotonic()) is not None
    assert len(reads) == 2


def test_a_revocation_acts_on_the_call_that_arrives_next(keys: SqliteKeys, path: Path) -> None:
    """Another process's revocation that is done when a call arrives acts on it, whatever was looked at before."""
    key, key_id = keys.create(owner="alice", tenant="default")
    assert keys.look_up(key, time.monotonic()) is not None
    SqliteKeys(path, PEPPER).revoke(key_id)
    assert keys.look_up(key, time.monotonic()) is None


# What is kept.


def test_the_key_itself_is_nowhere(keys: SqliteKeys, path: Path) -> None:
    """Neither the key, nor its random part, nor a plain hash of it stands in any file of the store."""
    key = made(keys)
    assert keys.look_up(key) is not None
    content = b"".join(each.read_bytes() for each in path.parent.iterdir() if each.is_file())
    assert len(content) > 4096
    for trace in (key.encode(), key[4:47].encode(), hashlib.sha256(key.encode()).digest()):
        assert trace not in content
    assert hmac.digest(PEPPER, key.encode(), "sha256") in content
    assert PEPPER not in content


def test_files_are_the_users_alone(keys: SqliteKeys, path: Path) -> None:
    """The database and its companions have mode 0600, whatever the umask."""
    made(keys)
    assert keys.look_up(PROBE) is None
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes["keys.sqlite"] == 0o600
    assert set(modes.values()) == {0o600}


def test_list_tells_all_but_the_secret(keys: SqliteKeys) -> None:
    """A key is listed with everything it was made with, oldest first."""
    expires = now() + HOUR
    secret, key_id = keys.create(
        owner="Ärztin Ünal",
        tenant="radiology",
        role="admin",
        models=["small", "org/large.v2"],
        limits=Limits(2, 30),
        expires=expires,
    )
    first, second = keys.list()
    assert first.owner == "first"
    assert second == Key(
        key_id,
        "Ärztin Ünal",
        "radiology",
        "admin",
        frozenset({"small", "org/large.v2"}),
        Limits(2, 30),
        second.created,
        expires,
        None,
    )
    assert abs(second.created - now()) < 60 * 1_000_000
    assert secret not in repr(keys.list())


def test_the_next_expiry_is_that_of_an_active_key(keys: SqliteKeys) -> None:
    """Revoked and unlimited keys do not count."""
    assert keys.earliest_expiry() is None
    soon, later = now() + HOUR, now() + 2 * HOUR
    _, key_id = keys.create(owner="a", tenant="default", expires=soon)
    made(keys, expires=later)
    assert keys.earliest_expiry() == soon
    keys.revoke(key_id)
    assert keys.earliest_expiry() == later


def test_states_of_a_key(keys: SqliteKeys) -> None:
    """A key is active, then expired at its very microsecond, and revoked above all."""
    expires = now() + HOUR
    _, key_id = keys.create(owner="a", tenant="default", expires=expires)
    key = next(key for key in keys.list() if key.id == key_id)
    assert [key.state(at) for at in (expires - 1, expires)] == ["active", "expired"]
    keys.revoke(key_id)
    assert next(key for key in keys.list() if key.id == key_id).state(expires) == "revoked"


def test_a_found_key_can_be_identified(keys: SqliteKeys) -> None:
    """A leaked key leads to its id, revoked or not; what is no key leads nowhere."""
    secret, key_id = keys.create(owner="a", tenant="default")
    for _ in range(2):
        held = keys.identify(secret)
        assert held is not None
        assert held.id == key_id
        keys.revoke(key_id)
    assert keys.identify(mint()) is None
    assert keys.identify("vst_short") is None


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
        ({"role": "root"}, "role"),
        ({"models": []}, "models"),
        ({"models": ["a b"]}, "models"),
        ({"models": [f"m{number}" for number in range(257)]}, "models"),
        ({"limits": Limits(concurrency=0)}, "limit"),
        ({"limits": Limits(requests_per_minute=-1)}, "limit"),
        ({"limits": Limits(concurrency=100_001)}, "limit"),
        ({"expires": 1}, "expiry"),
    ],
)
def test_what_no_key_can_have_is_refused(keys: SqliteKeys, rights: dict[str, Any], word: str) -> None:
    """Owners, tenants, roles, models, limits and times outside their bounds make no key, and say why."""
    with pytest.raises(ValueError, match=word):
        made(keys, **rights)
    assert len(keys.list()) == 1


def test_validate_takes_what_is_at_the_bounds() -> None:
    """The greatest owner, tenant, model, limits are taken."""
    limits = Limits(100_000, 10_000_000)
    validate(Key("key_1", "x" * 128, "t" * 63, "user", frozenset({"m" * 128}), limits, 1, 2, None))


def test_a_pepper_must_be_long() -> None:
    """Fewer than 32 bytes of pepper are refused."""
    with pytest.raises(ValueError, match="32 bytes"):
        SqliteKeys(Path("unused"), b"x" * 31)


def test_a_long_pepper_is_hashed_as_hmac_says(path: Path) -> None:
    """A pepper beyond SHA-256's block is used as RFC 2104 tells."""
    pepper = bytes(200)
    keys = SqliteKeys(path, pepper)
    key = made(keys)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT hash FROM keys").fetchall() == [
            (hmac.digest(pepper, key.encode(), "sha256"),)
        ]


# Recording before doing.


class NotRecorded(Exception):  # noqa: N818 - stands for whatever a record raises
    pass


def refuse(_: Key) -> None:
    raise NotRecorded


def test_no_record_no_key(keys: SqliteKeys) -> None:
    """If recording fails, the key is not made, and the next change works."""
    with pytest.raises(NotRecorded):
        keys.create(owner="alice", tenant="default", record=refuse)
    assert len(keys.list()) == 1
    assert found(keys, made(keys))


def test_no_record_no_revocation(keys: SqliteKeys) -> None:
    """If recording fails, the key still works."""
    secret, key_id = keys.create(owner="alice", tenant="default")
    with pytest.raises(NotRecorded):
        keys.revoke(key_id, refuse)
    assert found(keys, secret)


def test_nothing_is_changed_before_it_is_recorded(keys: SqliteKeys, path: Path) -> None:
    """While the record is being written, no other reader sees the change yet."""
    reader = SqliteKeys(path, PEPPER)
    seen: list[int] = []
    secret, key_id = keys.create(owner="alice", tenant="default", record=lambda _: seen.append(len(reader.list())))
    assert seen == [1]
    keys.revoke(key_id, lambda _: seen.append(int(found(reader, secret))))
    assert seen == [1, 1]
    assert not found(reader, secret)


def test_revoking_twice_records_once(keys: SqliteKeys) -> None:
    """Only the revocation that does something is recorded; unknown ids are none."""
    _, key_id = keys.create(owner="alice", tenant="default")
    recorded: list[str] = []
    assert keys.revoke(key_id, lambda key: recorded.append(key.id))
    assert not keys.revoke(key_id, lambda key: recorded.append(key.id))
    assert not keys.revoke("key_unknown", lambda key: recorded.append(key.id))
    assert recorded == [key_id]


# Across processes.


def elsewhere(script: str, path: Path, *arguments: str) -> str:
    """Run a script in another process, with a store as `keys` and `arguments`."""
    head = (
        "import sys; from pathlib import Path; from vestry.adapters.keys_sqlite import SqliteKeys; "
        f"keys = SqliteKeys(Path(sys.argv[1]), bytes(range(32))); arguments = sys.argv[2:]; {script}"
    )
    done = subprocess.run([sys.executable, "-c", head, path, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_changes_of_another_process_act_on_the_next_call(keys: SqliteKeys, path: Path) -> None:
    """A key made elsewhere works at once; revoked elsewhere, it stops at once, though it was in memory."""
    assert keys.look_up(PROBE) is None
    secret, key_id = elsewhere("print(*keys.create(owner='bob', tenant='default'))", path).split()
    assert found(keys, secret)
    assert found(keys, secret)
    assert elsewhere("print(keys.revoke(arguments[0]))", path, key_id) == "True"
    assert not found(keys, secret)


@pytest.mark.parametrize("marked", [True, False])
def test_what_another_program_changes_acts_soon(keys: SqliteKeys, path: Path, marked: bool) -> None:
    """A key that SQLite's own shell revokes stops within a moment, with the mark's file there or removed."""
    key = made(keys)
    assert found(keys, key)
    if not marked:
        mark_of(path).unlink()
    with contextlib.closing(sqlite3.connect(path)) as shell, shell:
        shell.execute("UPDATE keys SET revoked = 1")
    until(lambda: not found(keys, key))


def test_a_lost_mark_costs_nothing_but_time(keys: SqliteKeys, path: Path) -> None:
    """Where there is no mark, be it removed or not writable, changes act all the same."""
    secret, key_id = keys.create(owner="a", tenant="default")
    assert found(keys, secret)
    mark_of(path).unlink()
    mark_of(path).mkdir()
    until(lambda: keys._mark_file < 0 or not found(keys, secret))
    assert keys.revoke(key_id)
    assert not found(keys, secret)
    mark_of(path).rmdir()
    assert found(keys, made(keys))


def mark_of(path: Path) -> Path:
    return path.with_name(path.name + "-mark")


def test_memory_holds_no_key(keys: SqliteKeys) -> None:
    """What is kept of a key between calls is neither the key nor the hash that the file has."""
    key = made(keys)
    assert found(keys, key)
    (kept,) = keys._cache
    assert kept not in {key.encode(), hmac.digest(PEPPER, key.encode(), "sha256")}


def test_a_process_that_dies_before_the_commit_changes_nothing(keys: SqliteKeys, path: Path) -> None:
    """A command killed between record and commit leaves no key, and no lock."""
    with pytest.raises(subprocess.CalledProcessError):
        elsewhere("import os; keys.create(owner='x', tenant='default', record=lambda key: os.abort())", path)
    assert len(keys.list()) == 1
    assert found(keys, made(keys))


def test_many_start_at_once_and_make_one_store(path: Path) -> None:
    """Threads that all find no store make one together, and every key works."""
    barrier = threading.Barrier(8)
    secrets: list[str] = []

    def run() -> None:
        store = SqliteKeys(path, PEPPER)
        barrier.wait()
        secrets.append(made(store))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    keys = SqliteKeys(path, PEPPER)
    assert len(secrets) == 8
    assert all(found(keys, each) for each in secrets)
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_preparing_a_store_that_is_there_leaves_it_alone(keys: SqliteKeys) -> None:
    """`prepare` makes a store once."""
    assert not keys.prepare()
    assert len(keys.list()) == 1


def test_memory_stays_bounded(keys: SqliteKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than the memory holds all work, and it does not grow."""
    monkeypatch.setattr(keys_sqlite, "CACHED", 3)
    secrets = [made(keys) for _ in range(7)]
    for _ in range(2):
        assert all(found(keys, each) for each in secrets)
    assert len(keys._cache) == 3


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
    spoil(path, "PRAGMA user_version = 2")


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
        (newer, "format 2"),
        (without_pepper_check, "key-hash"),
        (without_table, "no such table"),
    ],
)
def test_a_bad_file_refuses_and_a_good_one_serves_again(
    keys: SqliteKeys, path: Path, fault: Callable[[Path], None], word: str
) -> None:
    """Deleted, overwritten, emptied, replaced, newer: look-ups are refused, commands say why, a good file heals."""
    key = made(keys)
    copy = path.with_suffix(".copy")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    assert found(keys, key)
    fault(path)
    until(lambda: refused(keys, mint()), what="the fault to be noticed")
    assert word in refused(keys, mint())
    assert word in refused(keys, key)
    with because(word):
        keys.list()
    with because(word):
        keys.revoke("key_1")
    if path.is_dir():
        path.rmdir()
    for each in path.parent.glob("keys.sqlite-*"):
        each.unlink()
    copy.rename(path)
    until(lambda: found(keys, key), what="recovery")
    keys.integrity()


def test_what_a_client_is_told_names_no_path(keys: SqliteKeys, path: Path) -> None:
    """The operator's reason is not in the refusal that leaves the server."""
    deleted(path)
    assert str(path) in refused(keys, mint())
    with pytest.raises(StoreFault) as fault:
        keys.look_up(mint())
    assert str(path.parent).encode() not in fault.value.body()
    assert fault.value.status == 503


def test_a_store_that_was_made_anew_serves_its_own_keys(keys: SqliteKeys, path: Path) -> None:
    """After the file was deleted and made again by another process, old keys are nobody and new ones work."""
    old = made(keys)
    assert found(keys, old)
    deleted(path)
    new = elsewhere("print(keys.create(owner='bob', tenant='default')[0])", path)
    until(lambda: found(keys, new), what="the new store to be opened")
    assert not found(keys, old)
    assert refused(keys, old) == ""


def test_a_locked_store_refuses_soon_and_recovers(keys: SqliteKeys, path: Path) -> None:
    """While another program has the whole file to itself the event loop is not held up for long."""
    key = made(keys)
    keys.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in refused(keys, key)
        assert "locked" in refused(keys, key)
        other.execute("COMMIT")
    until(lambda: found(keys, key), what="recovery")


def test_a_writer_does_not_hold_up_readers(keys: SqliteKeys, path: Path) -> None:
    """While a command is changing the store, keys are found as before."""
    key = made(keys)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE keys SET revoked = 1")
        keys.close()
        assert found(keys, key)
        other.execute("ROLLBACK")


def test_a_command_waits_for_another_only_so_long(
    keys: SqliteKeys, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that cannot get the lock in time is refused, and nothing is recorded."""
    monkeypatch.setattr(keys_sqlite, "WRITE_WAIT_SECONDS", 0.05)
    recorded: list[Key] = []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with because("locked"):
            keys.create(owner="a", tenant="default", record=recorded.append)
    assert recorded == []


def test_another_pepper_is_refused(keys: SqliteKeys, path: Path) -> None:
    """A store opened with another secret says so, instead of knowing no key."""
    other = SqliteKeys(path, bytes(32))
    assert "key-hash" in refused(other, made(keys))
    with because("key-hash"):
        other.create(owner="a", tenant="default")


def test_a_damaged_row_refuses(keys: SqliteKeys, path: Path) -> None:
    """A list of models that cannot be read never becomes `all models`."""
    key = made(keys)
    for wrong in ("{}", "[1]", "nonsense", '"small"'):
        spoil(path, f"UPDATE keys SET models = '{wrong}'")
        assert "damaged" in refused(keys, key)
    with because("damaged"):
        keys.list()


def test_damage_further_down_is_found_by_the_full_check(keys: SqliteKeys, path: Path) -> None:
    """`integrity` reads what a look-up does not."""
    for number in range(60):
        made(keys, owner=f"owner {number}")
    keys.close()
    spoil(path, "PRAGMA user_version = 1")
    content = bytearray(path.read_bytes())
    content[4096 * 4 : 4096 * 5] = bytes(4096)
    path.write_bytes(content)
    with because("damaged"):
        keys.integrity()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where no store can be made, the reason is a sentence."""
    (tmp_path / "file").write_text("")
    with because("cannot be used"):
        SqliteKeys(tmp_path / "file" / "keys.sqlite", PEPPER).create(owner="a", tenant="default")


def test_a_full_disk_makes_no_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that could not be built whole is not there at all."""

    def fail(draft: Path, _: bytes) -> None:
        shutil.copy(__file__, draft)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(keys_sqlite, "build", fail)
    with because("full"):
        SqliteKeys(path, PEPPER).prepare()
    assert list(path.parent.iterdir()) == []
