"""What the page on keys says of their format is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vestry.adapters.directory.mark import LOOK_SECONDS
from vestry.adapters.key_format import mint
from vestry.errors import KeysUnavailable

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
