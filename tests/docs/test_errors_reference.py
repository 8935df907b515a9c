"""Every refusal is documented, with what it means and what to do about it, and no page names one that there is not."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House
from vestry import errors
from vestry.errors import EngineFailed, InvalidKey, MethodNotAllowed, Refusal
from vestry.roles import Role

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
NAMED = re.compile(r"\b([45]\d\d)\s+`([a-z_]+)`")


def every(kind: type[Refusal] = Refusal) -> list[type[Refusal]]:
    """All classes of refusals below one, but for those that other modules make of them."""
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [*below, *(found for each in below for found in every(each))]


KINDS = every()


def section(kind: type[Refusal]) -> str:
    """The part of the page about this class's code."""
    heading = f"\n## {kind.status} `{kind.code}`\n"
    assert PAGE.count(heading) == 1
    return PAGE.partition(heading)[2].partition("\n## ")[0]


def made(kind: type[Refusal]) -> Refusal:
    """One of each."""
    if kind is MethodNotAllowed:
        return MethodNotAllowed("POST")
    return kind("closed") if issubclass(kind, EngineFailed) else kind()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_refusal_stands_on_the_page(kind: type[Refusal]) -> None:
    """Its section has the message that clients get, the meaning and the mend of its own docstring, and its headers."""
    assert kind.__doc__, "say what it means, and after `Mend:` what to do"
    meaning, *more = [" ".join(each.split()) for each in inspect.cleandoc(kind.__doc__).split("\n\n")]
    [mend] = [each.removeprefix("Mend: ") for each in more if each.startswith("Mend: ")]
    assert meaning.endswith(".")
    assert mend.endswith(".")
    text = section(kind)
    for said in (made(kind).reason, meaning, mend):
        assert said in text
    for name, value in made(kind).headers():
        assert name == b"connection" or f"`{name.decode()}: {value.decode()}`" in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_table_says_what_clients_do(kind: type[Refusal]) -> None:
    """One row a code: its type, whether OpenAI's clients retry it, whether the connection closes."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {kind.status} | [`{kind.code}`]")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    retried = kind.status in {408, 429} or kind.status >= 500 if kind.retry is None else kind.retry
    assert cells[2:] == [f"`{kind.kind}`", "yes" if retried else "no", "closes" if kind.close else "may stay open"]


def test_the_page_has_nothing_else() -> None:
    """A refusal that is gone leaves no section behind."""
    wanted = {(str(kind.status), kind.code) for kind in KINDS}
    assert set(re.findall(r"^## (\d+) `(\w+)`$", PAGE, re.MULTILINE)) == wanted


def test_what_is_refused_with_401_stands_on_the_page(tmp_path: Path) -> None:
    """A key that is frozen, used from elsewhere, or whose tenant or project is disabled: each is 401, and a cause that
    the section names.
    """
    told = section(InvalidKey)
    with FakeEngine() as engine, House(tmp_path, [engine]) as house:
        admin = Desk(house, Role.ADMIN)
        for where in ("/tenants/clinic", "/tenants/clinic/projects/trial", "/tenants/shut"):
            assert admin.put(where, {}, if_none_match="*").status_code == 201
        frozen, frozen_id = house.keys.create(tenant="clinic")
        elsewhere, _ = house.keys.create(tenant="clinic", sources=("10.20.0.0/16",))
        project, _ = house.keys.create(tenant="clinic", project="trial")
        tenant, _ = house.keys.create(tenant="shut")
        assert admin.post(f"/keys/{frozen_id}/freeze").status_code == 200
        for where in ("/tenants/clinic/projects/trial", "/tenants/shut"):
            assert admin.put(where, {"disabled": True}, if_match="*").status_code == 200
        causes = {"frozen": frozen, "from a network": elsewhere, "project": project, "disabled": tenant}
        for cause, key in causes.items():
            answer = house.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, InvalidKey.code), cause
            assert cause in told


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_codes_in_pages_are_real(page: Path) -> None:
    """Wherever a page names a status and a code, that refusal exists, with that status."""
    statuses = defaultdict(set)
    for kind in KINDS:
        statuses[kind.code].add(str(kind.status))
    strange = [
        (status, code)
        for status, code in NAMED.findall(page.read_text(encoding="utf-8"))
        if status not in statuses[code]
    ]
    assert strange == []
