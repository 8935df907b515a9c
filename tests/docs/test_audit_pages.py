"""What pages for auditors would have them type and run: on a copy of a server's record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.office import CANARY, WORDS, Office
from support.server import ROOT


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A server that keeps content, and runs."""
    with FakeEngine() as engine:
        engine.behave(words=WORDS)
        office = Office(tmp_path, engine)
        with office.server:
            office.server.start()
            yield office


def block(page: str, language: str, heading: str) -> str:
    """The first block of a page in this language below a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {heading}\n.*?^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_kept_content_opens_by_its_page_alone(office: Office) -> None:
    """The page's own program opens what was sealed and what is plain, and refuses what was changed or erased."""
    code = block("audit-formats.md", "python", "Kept content")
    assert "vestry." not in code.replace('"vestry', "")
    names: dict[str, object] = {}
    exec(compile(code, "audit-formats.md", "exec"), names)
    opened, key = names["opened"], office.key.read_text()
    assert callable(opened)
    calls = {office.ask(), office.complete()}
    records = [each for each in office.server.records() if each.get("request_id") in calls]
    assert len(records) == 4
    for record in records:
        assert CANARY.encode() in opened(office.audit / "server", record, key)
        other = {**record, "content": {**record["content"], "size": 1}}
        with pytest.raises(AssertionError, match="another division"):
            opened(office.audit / "server", other, key)
    assert office.erase("--subject", "tester").exit_code == 0
    with pytest.raises(AssertionError, match="erased"):
        opened(office.audit / "server", records[0], key)
