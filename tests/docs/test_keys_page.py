"""What the page on keys says of their format is true."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House
from vestry.adapters.directory.mark import LOOK_SECONDS
from vestry.adapters.key_format import mint
from vestry.errors import KeysUnavailable
from vestry.roles import Role

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")


def test_the_scanner_on_the_page_finds_keys_and_nothing_else() -> None:
    """The code shown there, run as it stands, finds real keys in a text and passes over what only looks like one."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    scan: Callable[[str], list[str]] = names["keys_in"]
    keys = [mint() for _ in range(50)]
    assert scan(" and ".join(keys)) == keys
    assert scan(" ".join(key[:-1] + ("0" if key[-1] != "0" else "1") for key in keys)) == []
    assert scan("vst_" + "a" * 49) == []


def test_figures_and_codes_on_the_page() -> None:
    """The delay and the error code named there are those of the code."""
    assert f"within {LOOK_SECONDS * 1000:.0f} ms" in PAGE
    assert f"{KeysUnavailable.status}\n`{KeysUnavailable.code}`" in PAGE


def test_a_copy_is_made_beside_a_server_and_restored(tmp_path: Path) -> None:
    """The command on the page, run where the state is while a server has the file open; put in place as it says, the
    copy has the keys and tenants of that moment, and no later ones.
    """
    [command] = re.findall(r"```sh\n *(python3 .*)\n", PAGE)
    state = tmp_path / "state"
    with FakeEngine() as engine:
        with House(state, [engine]) as house:
            assert Desk(house, Role.ADMIN).put("/tenants/ward", {}, if_none_match="*").status_code == 201
            key = house.new_key(tenant="ward")
            subprocess.run(["bash", "-ec", command], cwd=state, check=True)
            late = house.new_key(tenant="ward")
            assert house.get("/v1/models", headers={"x-api-key": late}).status_code == 200
        for suffix in ("-wal", "-shm"):
            (state / f"keys.sqlite{suffix}").unlink(missing_ok=True)
        (state / "copy.sqlite").replace(state / "keys.sqlite")
        with House(state, [engine], key=key) as house:
            assert house.get("/v1/models").status_code == 200
            assert house.get("/v1/models", headers={"x-api-key": late}).status_code == 401
