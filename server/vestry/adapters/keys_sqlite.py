"""API keys in one SQLite file, shared by the server and the command line.

Fails closed. What the file holds of a key is HMAC-SHA256(pepper, key), never the key; the pepper is a secret kept
elsewhere, so a stolen file alone yields nothing that could be guessed against. Looking a key up by its HMAC
compares no secret byte by byte.

What `find` has in memory is used only while nothing has changed. Whoever changes the store through this class writes
a new mark into a small file beside it once the change is committed, and `find` uses a key only if that mark was read
after the call had arrived: so a revocation acts on the next call after `vestry keys revoke` has said that it is done.
Calls that had arrived together share one read. That another program has
committed something (`PRAGMA data_version`, https://sqlite.org/pragma.html), or that a file was removed or replaced, is
noticed within LOOK_SECONDS: asking SQLite costs ten times what the mark does, and stat(2) as much as the mark.

Times are integer microseconds since the epoch, by the wall clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from msgspec import Struct

from vestry.adapters.key_format import LENGTH, mint, mint_id, well_formed
from vestry.adapters.key_rows import APPLICATION_ID, INSERT, ROWS, SCHEMA_VERSION, Key, build, key_of, row_of, validate
from vestry.errors import KeysUnavailable
from vestry.roles import read_roles
from vestry.types import Head, Limits, Principal

CACHED = 16_384
READ_WAIT_SECONDS = 0.02
WRITE_WAIT_SECONDS = 5.0
RETRY_SECONDS = 0.1
LOOK_SECONDS = 0.25
MARK_BYTES = 16
UNLIMITED = Limits()


class StoreFault(KeysUnavailable):
    """The store cannot be used. `why` is for the operator; the message, for the client, does not hold it."""

    def __init__(self, why: str):
        super().__init__()
        self.why = why


class _Unfit(Exception):  # noqa: N818 - caught where it becomes a StoreFault
    """The file is a database, but not one that can be used. `str()` says why."""


class _Held(Struct, frozen=True):
    principal: Principal
    expires: int | None


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def _unrecorded(key: Key) -> None:
    """The default of `record`: tells nobody."""


class SqliteKeys:
    """The key store (seams.KeyStore), and what the command line does to it.

    Opens nothing before it is used. `find` belongs to one thread; the other methods use connections of their own.
    """

    def __init__(self, path: Path, pepper: bytes):
        if len(pepper) < 32:
            raise ValueError("the pepper needs 32 bytes or more")
        self._path = path.absolute()
        self._hmac = hmac.new(pepper, digestmod="sha256")
        self._salt = os.urandom(16)
        self._cache: dict[bytes, _Held] = {}
        self._identity: tuple[int, ...] = ()
        self._version: tuple[int, ...] = ()
        self._mark_path = self._path.with_name(self._path.name + "-mark")
        self._mark_file = -1
        self._mark = b""
        self._reading: sqlite3.Connection | None = None
        self._look_at = 0.0
        self._seen = 0.0
        self._why = ""
        self._closed_until = 0.0

    # The hot path.

    def known(self, head: Head) -> Principal | None:
        """As seams.Credentials."""
        return None if head.credential is None else self.look_up(head.credential, head.began)

    async def find(self, head: Head) -> Principal | None:
        """As seams.Credentials: `known` has looked already."""

    def look_up(self, presented: str, arrived: float = math.inf) -> Principal | None:
        """Who holds a key, if it was good when the call arrived (monotonic).

        Raises StoreFault (a KeysUnavailable) where the store cannot be read.
        """
        if len(presented) != LENGTH or not presented.isascii():
            return None
        masked = self._masked(presented)
        if masked not in self._cache and not well_formed(presented):
            return None
        try:
            reading = self._reading
            if reading is None or self._seen <= arrived:
                reading = self._see()
            held = self._cache.get(masked) or self._look_up(reading, presented, masked)
        except (sqlite3.Error, OSError, ValueError, _Unfit) as error:
            raise self._lost(error) from error
        if held is None or (held.expires is not None and held.expires <= now()):
            return None
        return held.principal

    def _look_up(self, reading: sqlite3.Connection, presented: str, masked: bytes) -> _Held | None:
        row = reading.execute(ROWS + " WHERE hash = ? AND revoked IS NULL", (self._hashed(presented),)).fetchone()
        if row is None:
            return None
        key = key_of(row)
        held = _Held(
            Principal(key.id, key.tenant, key.owner, read_roles(key.role), key.models, key.limits), key.expires
        )
        if len(self._cache) >= CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[masked] = held
        return held

    def _masked(self, presented: str) -> bytes:
        """What the memory knows a key by: a hash, salted at random for this process. A fifth of the HMAC's cost."""
        return hashlib.blake2b(presented.encode("ascii"), salt=self._salt).digest()

    def _see(self) -> sqlite3.Connection:
        """Make sure that what is in memory holds, as of now."""
        now_is = time.monotonic()
        reading = self._reading
        if (
            reading is None
            or now_is >= self._look_at
            or self._mark_file < 0
            or os.pread(self._mark_file, MARK_BYTES, 0) != self._mark
        ):
            reading = self._look()
        self._seen = now_is
        return reading

    def _look(self) -> sqlite3.Connection:
        """Open the file, unless it is the one that is open; forget what is in memory if anything has changed."""
        self._read_mark()  # first: a change that comes after it shows at the next call
        status = self._path.stat()
        identity = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        moment = time.monotonic()
        self._look_at = moment + LOOK_SECONDS
        if self._reading is None or identity != self._identity:
            if moment < self._closed_until:
                raise StoreFault(self._why)
            reading = self._open(identity)
        else:
            reading = self._reading
        version = next(reading.execute("PRAGMA data_version"))
        if version != self._version:
            self._cache.clear()
            self._version = version
        return reading

    def _read_mark(self) -> None:
        """Read the mark from the file that now has its name. Where there is none every call asks SQLite."""
        try:
            named = self._mark_path.stat()
            if self._mark_file < 0 or not os.path.samestat(named, os.fstat(self._mark_file)):
                self._close_mark()
                self._mark_file = os.open(self._mark_path, os.O_RDONLY | os.O_CLOEXEC)
            self._mark = os.pread(self._mark_file, MARK_BYTES, 0)
        except OSError:
            self._close_mark()

    def _close_mark(self) -> None:
        if self._mark_file >= 0:
            os.close(self._mark_file)
        self._mark_file = -1

    def _set_mark(self) -> None:
        """Say that the store has changed. If that fails, readers notice within LOOK_SECONDS."""
        with contextlib.suppress(OSError):
            mark = os.open(self._mark_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(mark, os.urandom(MARK_BYTES), 0)
            finally:
                os.close(mark)

    def _open(self, identity: tuple[int, ...]) -> sqlite3.Connection:
        """Open the file. Its identity was taken before, so that a change in between shows at the next look."""
        reading = self._connect(READ_WAIT_SECONDS)
        try:
            reading.execute("PRAGMA query_only = ON")
            self._verify(reading)
        except BaseException:
            reading.close()
            raise
        self.close()  # after the other is open: the last connection to be closed would copy the log, and wait for it
        self._reading, self._identity = reading, identity
        return reading

    def _lost(self, error: Exception) -> StoreFault:
        """Forget everything. A bad file is not opened again at once: opening may wait for a lock."""
        self.close()
        fault = self._explained(error)
        if not isinstance(error, FileNotFoundError):
            self._why, self._closed_until = fault.why, time.monotonic() + RETRY_SECONDS
        return fault

    def close(self) -> None:
        """Close the reading connection. The next `find` opens it again."""
        reading, self._reading = self._reading, None
        self._identity, self._version = (), ()
        self._cache.clear()
        self._close_mark()
        if reading is not None:
            with contextlib.suppress(sqlite3.Error):
                reading.close()

    # What the operator does.

    def create(
        self,
        *,
        owner: str,
        tenant: str,
        role: str = "user",
        models: Collection[str] | None = None,
        limits: Limits = UNLIMITED,
        expires: int | None = None,
        record: Callable[[Key], None] = _unrecorded,
    ) -> tuple[str, str]:
        """Make a key; the store is made at need. Returns the key, which cannot be read again, and its id.

        `record` is called when nothing but the commit is left to do; what it raises passes on, and there is no key.
        Raises ValueError for an argument that no key can have, StoreFault where it cannot be stored.
        """
        allowed = None if models is None else frozenset(models)
        key = Key(mint_id(), owner, tenant, role, allowed, limits, now(), expires, None)
        validate(key)
        self.prepare()
        secret = mint()
        hashed = self._hashed(secret)
        with self._writing() as writing:
            writing.execute(INSERT, row_of(key, hashed))
            record(key)
        return secret, key.id

    def revoke(self, key_id: str, record: Callable[[Key], None] = _unrecorded) -> bool:
        """Revoke a key, for every reader at once. False if there is none such, or it was revoked before.

        `record` is as in `create`. Raises StoreFault.
        """
        with self._writing() as writing:
            row = writing.execute(ROWS + " WHERE id = ? AND revoked IS NULL", (key_id,)).fetchone()
            if row is None:
                return False
            writing.execute("UPDATE keys SET revoked = ? WHERE id = ?", (now(), key_id))
            record(key_of(row))
        return True

    def list(self) -> tuple[Key, ...]:
        """Every key, revoked and expired ones included, oldest first. Raises StoreFault."""
        with self._looking() as reading:
            return tuple(map(key_of, reading.execute(ROWS + " ORDER BY created, id")))

    def identify(self, presented: str) -> Key | None:
        """The key with this text, be it revoked or expired: for a key that was found where it should not be."""
        if not well_formed(presented):
            return None
        hashed = self._hashed(presented)
        with self._looking() as reading:
            row = reading.execute(ROWS + " WHERE hash = ?", (hashed,)).fetchone()
        return None if row is None else key_of(row)

    def earliest_expiry(self) -> int | None:
        """When the next of the active keys expires, in microseconds since the epoch. Raises StoreFault."""
        moment = now()
        expiries = [key.expires for key in self.list() if key.expires is not None and key.state(moment) == "active"]
        return min(expiries, default=None)

    def integrity(self) -> None:
        """Read the whole file. Raises StoreFault if it is damaged."""
        with self._looking() as reading:
            if (said := reading.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise self._explained(_Unfit(f"is damaged ({said}): restore it from a copy"))

    def prepare(self) -> bool:
        """Make an empty store where there is none. True if it was made. Raises StoreFault.

        It is built beside its place, whole and durable, and linked into it only if nothing stands there.
        """
        if os.path.lexists(self._path):
            return False
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".keys-", dir=self._path.parent) as folder:
                draft = Path(folder, "keys.sqlite")
                os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                build(draft, self._pepper_check())
                os.link(draft, self._path)
        except FileExistsError:
            return False
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error
        return True

    # Connections.

    @contextlib.contextmanager
    def _looking(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(self._connect(WRITE_WAIT_SECONDS)) as reading:
                self._verify(reading)
                yield reading
        except (sqlite3.Error, OSError, ValueError, _Unfit) as error:
            raise self._explained(error) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable when it ends; undone by whatever is raised in it, which passes on."""
        try:
            writing = self._connect(WRITE_WAIT_SECONDS)
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error
        with contextlib.closing(writing):
            try:
                self._verify(writing)
                writing.execute("PRAGMA synchronous = FULL")
                writing.execute("BEGIN IMMEDIATE")
                yield writing
                writing.execute("COMMIT")
                self._set_mark()
            except (sqlite3.Error, _Unfit) as error:
                raise self._explained(error) from error
            with contextlib.suppress(sqlite3.Error):  # so that a plain copy of the file has the change
                writing.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _connect(self, wait_seconds: float) -> sqlite3.Connection:
        self._path.stat()
        uri = f"{self._path.as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, timeout=wait_seconds, isolation_level=None, check_same_thread=False)

    def _verify(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise _Unfit("is not a key store of this program: restore it from a copy")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise _Unfit(f"has format {version}, and this program reads {SCHEMA_VERSION}: use the program that made it")
        row = connection.execute("SELECT pepper_check FROM store").fetchone()
        if row is None or not hmac.compare_digest(row[0], self._pepper_check()):
            raise _Unfit("was made with another `key-hash` secret: restore the secret that belongs to it")

    def _pepper_check(self) -> bytes:
        return self._hashed("vestry key store")

    def _hashed(self, text: str) -> bytes:
        """HMAC-SHA256 of an ASCII text. A copy of the keyed state costs half of `hmac.digest`."""
        keyed = self._hmac.copy()
        keyed.update(text.encode("ascii"))
        return keyed.digest()

    def _explained(self, error: Exception) -> StoreFault:
        """The operator's sentence for what went wrong."""
        match error:
            case _Unfit():
                said = str(error)
            case FileNotFoundError():
                said = "does not exist: restore it, or make a key with `vestry keys create`"
            case OSError():
                said = f"cannot be used ({error.strerror}): look at its folder and permissions"
            case sqlite3.OperationalError():
                said = f"cannot be used at the moment ({error})"
            case _:
                said = f"is damaged ({error}): restore it from a copy"
        return StoreFault(f"the key store {self._path} {said}")
