"""Two servers on one PostgreSQL: what one changes the other knows, and what both do when it is gone, or hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from msgspec.structs import replace

from fakes.engine import FakeEngine
from support.cable import Cable
from support.directories import postgres_directory
from support.house import PEPPER, PLAIN, House, chat, until
from support.keys import ran
from support.postgres import USER, Postgres, postgres
from vestry.adapters.directory.store import SqlDirectory
from vestry.adapters.key_format import mint
from vestry.types import Kind

STALE_SECONDS = 3
LISTENING = "SELECT 1 FROM pg_stat_activity WHERE usename = '{}' AND query LIKE 'SELECT%'"
T = TypeVar("T")


@pytest.fixture
def server() -> Iterator[Postgres]:
    """PostgreSQL, in order again afterwards."""
    found = postgres()
    yield found
    found.thaw()


@pytest.fixture
def database(server: Postgres) -> str:
    """A database with our tables."""
    name = server.database()
    ran(migrated(server, name))
    return name


async def migrated(server: Postgres, database: str) -> None:
    """Make the tables, as `vestry store migrate` does."""
    directory = postgres_directory(server, database, pepper=PEPPER)
    await directory.asked(lambda backend: backend.migrate())
    await directory.close()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine of their own."""
    with FakeEngine() as engine:
        yield engine


def house(
    folder: Path, engine: FakeEngine, url: str, *, wait: bool = True, key: str | None = None, **store: Any
) -> House:
    """A server on this database."""
    settings = {"url": url, "stale_seconds": STALE_SECONDS, "connect_seconds": 1, "statement_seconds": 1, **store}
    return House(folder, [engine], wait=wait, key=key, store=settings)


@pytest.fixture
def houses(tmp_path: Path, engine: FakeEngine, server: Postgres, database: str) -> Iterator[tuple[House, House]]:
    """Two servers on one database, which wait for it."""
    url = server.url(database)
    patient: dict[str, Any] = {"connect_seconds": 10, "statement_seconds": 10, "stale_seconds": 30}
    with house(tmp_path / "one", engine, url, **patient) as one, house(tmp_path / "two", engine, url, **patient) as two:
        yield one, two


@pytest.fixture
def hasty(tmp_path: Path, engine: FakeEngine, server: Postgres, database: str) -> Iterator[tuple[House, House]]:
    """Two that soon give it up."""
    url = server.url(database)
    with house(tmp_path / "one", engine, url) as one, house(tmp_path / "two", engine, url) as two:
        yield one, two


def on(house: House, work: Callable[[SqlDirectory], Coroutine[Any, Any, T]]) -> T:
    """Do this in the server's own process, as its administration does."""
    return asyncio.run_coroutine_threadsafe(work(house.server._directory), house.loop).result(20)


def status(house: House, key: str) -> int:
    """What a call with this key is answered with."""
    return house.post(json=chat(), headers={"authorization": f"Bearer {key}"}).status_code


async def revoke(directory: SqlDirectory, key_id: str) -> None:
    """Revoke a key."""
    async with directory.changing() as change:
        key = await change.key(key_id)
        assert key is not None
        await change.put_key(replace(key, revoked=time.time_ns() // 1000))


def test_a_key_made_on_one_works_on_the_other_at_once(houses: tuple[House, House]) -> None:
    """The very first call with it."""
    one, two = houses
    for here, there in ((one, two), (two, one)):
        key, _ = here.keys.create()
        assert status(there, key) == 200
        assert status(here, key) == 200


def test_a_key_revoked_on_one_is_refused_by_the_other_within_two_seconds(houses: tuple[House, House]) -> None:
    """Where it was revoked the next call is refused; both had it in memory. Other keys go on working."""
    one, two = houses
    for here, there in ((one, two), (two, one)):
        (key, key_id), (other, _) = here.keys.create(), here.keys.create()
        assert [status(each, key) for each in (here, there, there)] == [200] * 3
        on(here, lambda directory, key_id=key_id: revoke(directory, key_id))  # type: ignore[misc]
        done = time.monotonic()
        assert status(here, key) == 401
        until(lambda there=there, key=key: status(there, key) == 401, seconds=2, what="the other's refusal")  # type: ignore[misc]
        assert time.monotonic() - done < 2
        assert [status(each, other) for each in houses] == [200, 200]


def test_a_tenant_made_on_one_is_known_to_the_other_within_two_seconds(houses: tuple[House, House]) -> None:
    """A key of a tenant that there is not is none; it works once the tenant is there, and stops when it goes."""
    one, two = houses
    key, _ = one.keys.create(tenant="oncology")
    assert status(two, key) == 401

    async def add(directory: SqlDirectory) -> None:
        async with directory.changing() as change:
            await change.put(Kind.TENANT, "", "oncology", {})

    async def remove(directory: SqlDirectory) -> None:
        async with directory.changing() as change:
            await change.remove(Kind.TENANT, "", "oncology")

    on(one, add)
    until(lambda: status(two, key) == 200, seconds=2, what="the tenant")
    on(one, remove)
    until(lambda: status(two, key) == 401, seconds=2, what="its end")


def test_what_an_operator_changes_by_hand_is_heard(
    houses: tuple[House, House], server: Postgres, database: str
) -> None:
    """A statement in psql notifies as well: the database itself does it."""
    key, key_id = houses[0].keys.create()
    assert [status(each, key) for each in houses] == [200, 200]
    server.execute(f"UPDATE keys SET revoked = 1 WHERE id = '{key_id}'", database=database)
    for each in houses:
        until(lambda each=each: status(each, key) == 401, seconds=2, what="the refusal")  # type: ignore[misc]


REPLACED = """DO $$ BEGIN
    CREATE TABLE copied (LIKE keys INCLUDING ALL);
    DROP TABLE keys;
    ALTER TABLE copied RENAME TO keys;
END $$"""


@pytest.mark.parametrize("statement", ["TRUNCATE keys", REPLACED], ids=["truncated", "restored"])
def test_a_table_that_somebody_emptied_or_replaced_is_noticed(
    houses: tuple[House, House], server: Postgres, database: str, statement: str
) -> None:
    """No row changes then, and nothing notifies; and what was in memory is forgotten all the same, each time."""
    for _ in range(2):
        key, _ = houses[0].keys.create()
        assert [status(each, key) for each in houses] == [200, 200]
        server.execute(statement, database=database)
        for each in houses:
            until(lambda each=each, key=key: status(each, key) == 401, seconds=2, what="the refusal")  # type: ignore[misc]


WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = '{}')"


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_who_waits_for_another_change_sees_it_whatever_the_database_isolates(
    server: Postgres, database: str, isolation: str
) -> None:
    """Two administrators at once, where transactions see by default what was there when they began: none is refused."""
    server.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'", database=database)

    async def add(directory: SqlDirectory, name: str) -> None:
        async with directory.changing() as change:
            await change.put(Kind.TENANT, "", name, {})

    async def both() -> list[str]:
        one, two = (postgres_directory(server, database, pepper=PEPPER) for _ in range(2))
        async with one.changing() as change:
            await change.put(Kind.TENANT, "", "first", {})
            second = asyncio.create_task(add(two, "second"))
            while not server.execute(WAITING.format(database), database=database):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await second
        names = [each.name for each in await one.standing()]
        await one.close()
        await two.close()
        return names

    assert ran(both()) == ["first", "second"]


NOTING = (
    "CREATE TABLE noted (said text)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN INSERT INTO noted VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
    "CREATE TRIGGER noting AFTER INSERT ON documents FOR EACH ROW EXECUTE FUNCTION note()",
)


@pytest.mark.parametrize(("usual", "wanted"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_a_change_is_durable_when_it_is_done_whatever_the_database_waits_for(
    server: Postgres, database: str, usual: str, wanted: str
) -> None:
    """Where commits are not waited for by default those of changes are; where more is waited for, so it is for them."""
    server.execute(f"ALTER DATABASE {database} SET synchronous_commit = '{usual}'", database=database)
    for each in NOTING:
        server.execute(each, database=database)

    async def change() -> None:
        directory = postgres_directory(server, database, pepper=PEPPER)
        async with directory.changing() as changing:
            await changing.put(Kind.TENANT, "", "first", {})
        await directory.close()

    ran(change())
    assert [tuple(each) for each in server.execute("SELECT said FROM noted", database=database)] == [(wanted,)]


class Load:
    """Callers who do nothing but call, each with a key of its own; what they were answered, when, and how fast."""

    def __init__(self, calls: list[tuple[str, str]]) -> None:
        self._calls = calls
        self._end = threading.Event()
        self.answers: list[tuple[str, float, int, float]] = []
        self.codes: set[tuple[int, str]] = set()
        self._threads = [threading.Thread(target=self._run, args=each) for each in calls]

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for each in self._threads:
            each.join()

    def _run(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, verify=PLAIN, timeout=30) as client:
            while not self._end.is_set():
                began = time.monotonic()
                answer = client.post("/v1/chat/completions", json=chat())
                self.answers.append((key, began, answer.status_code, time.monotonic() - began))
                if answer.status_code != 200:
                    self.codes.add((answer.status_code, answer.json()["error"]["code"]))
                self._end.wait(0.02)

    def statuses(self, key: str, begin: float, end: float = float("inf")) -> Counter[int]:
        """How the calls with this key were answered that began in this time."""
        return Counter(code for who, began, code, _ in self.answers if who == key and begin <= began < end)


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_an_outage_under_load(hasty: tuple[House, House], server: Postgres, fault: str) -> None:
    """PostgreSQL is stopped, or hangs, with both servers busy. Both are ready, and keys in memory are served, until
    `stale_seconds`, then refused with 503; keys that are not in memory, at once. A key that is none is never served. No
    call hangs. When PostgreSQL is back so are they, by themselves.
    """
    one = hasty[0]
    (known, _), (revoked, revoked_id), (late, _) = (one.keys.create() for _ in range(3))
    assert [status(each, known) for each in hasty] == [200, 200]
    one.keys.revoke(revoked_id)
    until(lambda: {status(each, revoked) for each in hasty} == {401}, what="the revocation")
    calls = [(each.url, key) for each in hasty for key in (known, revoked, mint())]
    unknown = {key for _, key in calls} - {known, revoked}
    with Load(calls) as load:
        time.sleep(0.3)
        begun = time.monotonic()  # a stop takes leave of its clients at its begin, and then may write for a while
        if fault == "stopped":
            server.stop()
        else:
            server.freeze()
        gone = time.monotonic()
        if fault == "stopped":
            until(lambda: all("vestry_directory_up 0.0" in each.metrics() for each in hasty), what="notice")
            ready = [each.get_ops("/readyz").status_code for each in hasty]
            assert ready == [200, 200] or time.monotonic() - begun > STALE_SECONDS - 1
        time.sleep(max(0, gone + 1 - time.monotonic()))
        assert [status(each, late) for each in hasty] == [503, 503]
        for each in hasty:
            until(lambda each=each: "keys" in each.get_ops("/readyz").json()["missing"], what="readiness")  # type: ignore[misc]
        until(lambda: {status(each, known) for each in hasty} == {503}, what="the end of what is remembered")
        stale = time.monotonic()
        time.sleep(0.3)
        mended = time.monotonic()
        if fault == "stopped":
            server.start()
        else:
            server.thaw()
        back = time.monotonic()
        until(lambda: {status(each, late) for each in hasty} == {200}, what="recovery")
        until(lambda: {each.get_ops("/readyz").status_code for each in hasty} == {200}, what="readiness")
        recovered = time.monotonic()
        time.sleep(0.3)
    assert load.codes == {(401, "invalid_api_key"), (503, "authentication_unavailable")}
    assert stale - begun > STALE_SECONDS - 1
    assert set(load.statuses(known, begun, begun + STALE_SECONDS - 2)) == {200}
    assert set(load.statuses(known, stale, mended)) == {503}
    assert set(load.statuses(known, recovered)) == {200}
    for key in (revoked, *unknown):
        assert set(load.statuses(key, 0)) == {401, 503}
        assert set(load.statuses(key, recovered)) == {401}
    assert recovered - back < 5
    assert max(seconds for *_, seconds in load.answers) < 5


def test_postgresql_that_is_heard_and_cannot_be_read_is_an_outage(
    tmp_path: Path, engine: FakeEngine, server: Postgres, database: str
) -> None:
    """It lets the server have one connection, which listens: nobody is served, and that shows in the metric, and in
    readiness when `stale_seconds` are over. Once there are connections again all is well by itself.
    """
    role = database.replace("test", "role")
    server.execute(f"CREATE ROLE {role} LOGIN IN ROLE {USER}", database=database)
    with house(tmp_path / "one", engine, server.url(database), user=role) as one:
        key, _ = one.keys.create()
        assert status(one, key) == 200
        server.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1", database=database)
        server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'", database=database
        )
        until(lambda: server.execute(LISTENING.format(role), database=database), what="the listener")
        until(lambda: status(one, key) == 503, what="the outage")
        until(lambda: "\nvestry_directory_stale_seconds 0." in one.metrics(), what="its being heard")
        assert "\nvestry_directory_up 0.0\n" in one.metrics()
        until(lambda: "keys" in one.get_ops("/readyz").json()["missing"], what="readiness")
        assert status(one, key) == 503
        server.execute(f"ALTER ROLE {role} CONNECTION LIMIT 9", database=database)
        until(lambda: status(one, key) == 200, what="recovery")
        assert one.get_ops("/readyz").status_code == 200
        assert "\nvestry_directory_up 1.0\n" in one.metrics()


def test_a_server_that_hears_nothing_forgets_in_time(
    tmp_path: Path, engine: FakeEngine, server: Postgres, database: str
) -> None:
    """A key is revoked on one server while the other is cut off from PostgreSQL: that one may serve it until
    `stale_seconds`, never after; and not for one call once it hears again.
    """
    with (
        Cable("127.0.0.1", server.port) as cable,
        house(tmp_path / "one", engine, server.url(database)) as one,
        house(tmp_path / "two", engine, f"postgresql://127.0.0.1:{cable.port}/{database}") as two,
    ):
        key, key_id = one.keys.create()
        assert [status(each, key) for each in (one, two)] == [200, 200]
        cable.cut()
        on(one, lambda directory: revoke(directory, key_id))
        revoked = time.monotonic()
        assert status(one, key) == 401
        while (said := status(two, key)) == 200:
            assert time.monotonic() - revoked < STALE_SECONDS + 2
            time.sleep(0.05)
        assert said == 503
        cable.join()
        until(lambda: _refused(status(two, key)), what="the refusal")


def _refused(status: int) -> bool:
    """Whether it is refused at last; served it must not be."""
    assert status in {401, 503}
    return status == 401


def test_a_server_that_starts_without_postgresql_waits_for_it(
    tmp_path: Path, engine: FakeEngine, server: Postgres, database: str
) -> None:
    """It is live and not ready, refuses with 503, and serves when PostgreSQL comes."""
    with house(tmp_path / "first", engine, server.url(database)) as first:
        key = first.key
    with Cable("127.0.0.1", server.port) as cable:
        url = f"postgresql://127.0.0.1:{cable.port}/{database}"
        late = house(tmp_path / "late", engine, url, wait=False, key=key)
        cable.cut()
        with late:
            assert late.get_ops("/livez").status_code == 200
            assert "keys" in late.get_ops("/readyz").json()["missing"]
            assert status(late, key) == 503
            cable.join()
            until(lambda: late.get_ops("/readyz").status_code == 200, what="readiness")
            assert status(late, key) == 200


def test_a_server_stops_while_postgresql_hangs(
    tmp_path: Path, engine: FakeEngine, server: Postgres, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With connections that lie idle, and a use of a key to write down: it gives up on them, and ends in order, with no
    traceback in its log."""
    with house(tmp_path / "one", engine, server.url(database)) as one:
        assert status(one, one.key) == 200
        on(one, asked_at_once)
        server.freeze()
        began = time.monotonic()
        one.stop()
        assert time.monotonic() - began < 7
        server.thaw()
    assert one.fault is None
    assert [each.getMessage() for each in caplog.records if each.exc_info] == []


async def asked_at_once(directory: SqlDirectory) -> None:
    """Ask so much at one time that there are several connections."""
    await asyncio.gather(*(directory.standing() for _ in range(20)))


def test_when_keys_were_used_is_noted_at_the_end(tmp_path: Path, engine: FakeEngine, server: Postgres) -> None:
    """A server that stops notes what it has not noted yet; a key that was only refused is not used."""
    name = server.database()
    ran(migrated(server, name))
    with house(tmp_path / "one", engine, server.url(name)) as one:
        (used, used_id), (_, idle_id) = one.keys.create(), one.keys.create()
        before = time.time_ns() // 1000
        assert status(one, used) == 200
        keys = one.keys
    found = {key.id: key.last_used for key in keys.list()}
    assert (found[used_id] or 0) >= before
    assert found[idle_id] is None
