"""docs/roles.md shows the table that the program has."""

from __future__ import annotations

from pathlib import Path

from vestry.roles import TABLE, Permission, Role

PAGE = (Path(__file__).parents[2] / "docs/roles.md").read_text(encoding="utf-8")


def test_the_table_is_the_programs() -> None:
    """One row a permission, one column a role, `yes` where the role has it."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `") or "| user" in line]
    head, *body = [[cell.strip(" `") for cell in row] for row in rows]
    assert head[1:] == [role.value for role in Role]
    assert [row[0] for row in body] == [permission.value for permission in Permission]
    for row in body:
        held = {role for role, cell in zip(Role, row[1:], strict=True) if cell == "yes"}
        assert held == {role for role in Role if Permission(row[0]) in TABLE[role]}, row[0]
