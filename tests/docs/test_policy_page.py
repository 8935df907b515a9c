"""The rules on the page on policy are valid, and decide as the page says; the page on roles has the table."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.docs import roles_table

from fakes.calls import call, head
from support.house import served_model
from vestry.audit.content.sealing import new_private
from vestry.authorize import authorize
from vestry.errors import PermissionDenied
from vestry.house import House
from vestry.roles import TABLE, Permission, Role
from vestry.settings.tree import Settings
from vestry.types import ContentMode, Document, Grant, Kind, Principal

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "policy.md").read_text(encoding="utf-8")
TENANTS = ("radiology", "library", "oncology", "ward")
PROJECT = {"models": None, "concurrency": None, "requests_per_minute": None, "disabled": False}


def house() -> House:
    """A house with every rule of the page's examples, in their order."""
    blocks = re.findall(r"```yaml\n(    - .*?)```", PAGE, re.DOTALL)
    rules = [rule for block in blocks for rule in yaml.safe_load(block)]
    assert len(rules) == 6
    content = {"default": "metadata", "auditor": str(auditor())}
    tree = {
        "models": {"small": {}},
        "tenants": {name: {"content": content} for name in TENANTS},
        "audit": {"auditor": str(auditor())},
        "policy": {"rules": rules},
    }
    return House.of(Settings.model_validate(tree), [Document(Kind.PROJECT, "oncology", "trial-7", PROJECT)])


def auditor() -> Any:
    return new_private()[1]


def ask(tenant: str, subject: str = "alice", *, at: str = "2027-01-04T12:00:00+01:00", **more: Any) -> Grant:
    """What becomes of a call. Raises PermissionDenied."""
    principal = Principal("key_1", tenant, subject, project=more.pop("project", ""))
    wall = round(datetime.fromisoformat(at).timestamp() * 1_000_000)
    shown = head(route="chat.completions", began_wall=wall, source=more.pop("source", "10.20.3.4"))
    return authorize(principal, shown, call(**more), {"small": served_model("small")}, house())


def test_the_examples_do_what_the_page_says() -> None:
    """Each allows what it is to allow, under its name."""
    assert ask("radiology", "triage-batch", at="2027-01-04T23:00:00+01:00").rule == "night-batch"
    assert ask("radiology", "triage-batch", at="2027-01-05T05:59:00+01:00").rule == "night-batch"
    assert ask("library").max_tokens == 512
    assert ask("oncology", project="trial-7").content == ContentMode.SEALED
    assert ask("oncology").content == ContentMode.METADATA
    assert ask("ward").rule == "ward"


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"tenant": "radiology", "subject": "triage-batch"}, "no-batch-by-day"),
        ({"tenant": "library", "tools": True}, "library-reads"),
        ({"tenant": "library", "choices": 2}, "library-reads"),
        ({"tenant": "ward", "source": "10.21.0.1"}, "ward-elsewhere"),
    ],
)
def test_the_examples_deny_what_the_page_says(asked: dict[str, Any], rule: str) -> None:
    """Each denies what it is to deny, under its name."""
    with pytest.raises(PermissionDenied) as refused:
        ask(**asked)
    assert refused.value.rule == rule


def test_the_first_rule_on_the_page_is_valid() -> None:
    """With the heading lines that a settings file has."""
    [block] = re.findall(r"```yaml\n(policy:.*?)```", PAGE, re.DOTALL)
    settings = Settings.model_validate({**yaml.safe_load(block), "tenants": {"radiology": {}}})
    assert (settings.policy.default, settings.policy.rules[0].tools) == ("deny", False)


def test_the_page_on_roles_has_the_table() -> None:
    """Every permission and every role, as the program has them."""
    assert roles_table() in (DOCS / "roles.md").read_text(encoding="utf-8")
    given = {
        (role, permission)
        for line, permission in zip(roles_table().splitlines()[2:], Permission, strict=True)
        for role, cell in zip(Role, line.split("|")[2:-1], strict=True)
        if cell.strip()
    }
    assert given == {(role, permission) for role, held in TABLE.items() for permission in held}
