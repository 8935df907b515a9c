"""What the page on the directory says is true: its SQL on a real PostgreSQL, its figures, its settings."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.directories import PEPPER, postgres_directory
from support.keys import ran, sqlite_directory
from support.postgres import BIN, USER, Postgres, postgres
from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.directory.mark import LOOK_SECONDS
from vestry.adapters.directory.schemas import REVISIONS
from vestry.adapters.key_format import mint, mint_id
from vestry.adapters.memory import wall
from vestry.composition.store import key_with
from vestry.errors import KeysUnavailable
from vestry.settings.store import Store
from vestry.types import Key, Kind

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "directory.md").read_text(encoding="utf-8")


def statements(server: Postgres) -> str:
    """Run the page's SQL, with names of our own in its place; the database."""
    [sql] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    name = server.database()
    server.execute(f"DROP DATABASE {name}", database="postgres")
    before, after = sql.replace("vestry", name).split(f"\\c {name}\n")
    for part, database in ((before, "postgres"), (after, name)):
        for each in part.strip().rstrip(";").split(";\n"):
            server.execute(each, database=database)
    return name


def test_the_grants_on_the_page_are_enough_and_no_more() -> None:
    """The owner migrates; the servers' role reads and changes everything, and cannot change what tables there are."""
    server = postgres()
    name = statements(server)
    owner = postgres_directory(server, name, pepper=PEPPER, user=f"{name}_owner")
    user = postgres_directory(server, name, pepper=PEPPER, user=name)

    async def work() -> None:
        await owner.asked(lambda backend: backend.migrate())
        await user.prepare()
        async with user.backend.attending():
            secret = mint()
            async with user.changing() as change:
                key = await change.add_key(Key(mint_id(), "default", "alice", wall()), secret)
                await change.put_key(key)
                await change.put(Kind.TENANT, "", "radiology", {})
                await change.put(Kind.TENANT, "", "radiology", {})
                await change.remove(Kind.TENANT, "", "radiology")
            await user.note_used([key.id], 1)
            assert await key_with(user, secret) is not None
            with pytest.raises(DirectoryFault) as fault:
                await user.asked(lambda backend: backend.downgrade("v1"))
            assert "does not let this user do that" in fault.value.why
        await user.close()
        await owner.close()

    ran(work())


def test_what_is_in_sqlite_is_copied_to_postgresql_by_the_script_on_the_page(tmp_path: Path) -> None:
    """Keys work there and documents are the same, whatever their texts hold; what is made next has a new version."""
    [script] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    server = postgres()
    name = server.database()
    old, new = sqlite_directory(tmp_path / "keys.sqlite", PEPPER), postgres_directory(server, name, pepper=PEPPER)
    secret, odd = mint(), 'back\\slash "quoted" \\. \\N é 😀'
    body = {"description": "a\tb\n\\.\r\\N é 😀", "disabled": False}

    def copy() -> None:
        argv = [sys.executable, "-c", script, str(tmp_path / "keys.sqlite")]
        rows = subprocess.run(argv, check=True, capture_output=True).stdout
        psql = [
            str(BIN / "psql"),
            "--set",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            str(server.port),
            "-U",
            USER,
            name,
        ]
        subprocess.run(psql, input=rows, check=True, capture_output=True)

    async def work() -> None:
        await old.prepare()
        async with old.changing() as change:
            made = Key(mint_id(), "default", odd, wall(), models=frozenset({"a/b"}), made_by=odd)
            await change.put_key(await change.add_key(made, secret))
            await change.add_key(Key(mint_id(), "default", "bob", wall(), revoked=7), mint())
            for kind, tenant, called in ((Kind.TENANT, "", "radiology"), (Kind.USER, "default", odd)):
                await change.put(kind, tenant, called, body)
        await new.asked(lambda backend: backend.migrate())
        await asyncio.to_thread(copy)
        assert await new.keys(None, "", 9) == await old.keys(None, "", 9)
        assert await new.standing() == await old.standing()
        assert await new.read(Kind.USER, "default", odd) == await old.read(Kind.USER, "default", odd)
        assert (await key_with(new, secret)) == (await key_with(old, secret)) is not None
        async with old.changing() as mine, new.changing() as theirs:
            versions = [(await each.put(Kind.TENANT, "", "next", body)).version for each in (mine, theirs)]
        assert versions[0] == versions[1]
        await old.close()
        await new.close()

    ran(work())


def test_the_example_is_a_store() -> None:
    """The settings shown there are taken."""
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    store = Store.model_validate(yaml.safe_load(example)["store"])
    assert store.encrypted


def test_figures_on_the_page() -> None:
    """The delays, defaults and revisions are those of the code."""
    store = Store()
    assert f"within {LOOK_SECONDS * 1000:.0f} ms" in PAGE
    assert f"`store.stale_seconds` ({store.stale_seconds:.0f})" in PAGE
    assert f"`statement_seconds` ({store.connect_seconds + store.statement_seconds:.0f})" in PAGE
    assert re.findall(r"^\| `(v\d+)` \|", PAGE, re.MULTILINE) == list(REVISIONS)
    assert f"{KeysUnavailable.status} is `{KeysUnavailable.code}`" in PAGE
