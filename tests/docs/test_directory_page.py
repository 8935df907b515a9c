"""What the page on the directory says is true: its SQL on a real PostgreSQL, its figures, its settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from support.directories import PEPPER, postgres_directory
from support.keys import ran
from support.postgres import Postgres, postgres
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
