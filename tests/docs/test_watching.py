"""docs/audit-export.md, "What to watch for": what a SIEM's rules are made of is what records have."""

from __future__ import annotations

import re
from pathlib import Path

from vestry import errors
from vestry.audit.fields import FIELDS, RecordType
from vestry.errors import Refusal
from vestry.roles import Role

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "audit-export.md").read_text(encoding="utf-8")
OTHERS = {"admin.", "difference", "vestry doctor"}  # how a route begins, a cause, a command


def test_every_name_is_one_of_records() -> None:
    """Each name in the section is a type of records, a field, an error's code or a role."""
    [section] = re.findall(r"### What to watch for\n(.*?)\n### ", PAGE, re.DOTALL)
    named = set(re.findall(r"`([^`]+)`", section))
    codes = {each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Refusal)}
    known = {*RecordType, *(each.name for each in FIELDS), *codes, *Role, *OTHERS}
    groups = {f"{kind.partition('.')[0]}.*" for kind in RecordType}
    assert named - known - groups == set()
    assert len(named) > 20
