"""`vestry break-glass`: look at what is asked for and lent, and end it. Asking and approving take two people, who show
who they are to the administration.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from vestry.admin.break_glass import Shown
from vestry.admin.pages import PAGE, paged
from vestry.administration import ChangeRefused, Office, change, look
from vestry.commands.common import settings_of
from vestry.commands.directory.common import Listing, as_json, tell, told
from vestry.errors import NotFound


def _cell(*place: str) -> Callable[[dict[str, Any]], str]:
    """What stands there; `-` where nothing does."""

    def cell(row: dict[str, Any]) -> str:
        found: Any = row
        for name in place:
            found = None if found is None else found.get(name)
        return str(found or "-")

    return cell


COLUMNS = {
    "ID": _cell("id"),
    "STATE": _cell("state"),
    "ROLE": _cell("role"),
    "TENANT": _cell("asker", "tenant"),
    "ASKER": _cell("asker", "subject"),
    "APPROVER": _cell("approver", "subject"),
    "UNTIL": _cell("until"),
    "REASON": lambda row: str(row.get("reason") or row.get("damaged") or "-"),
}


@click.command("list", short_help="List asks and grants.")
@as_json
@click.pass_obj
def listed(config: Path | None, as_json: bool) -> None:
    """List what was asked for, by id: what is open, and what was over within the last weeks.

    \b
    Example:
      vestry break-glass list
    """

    async def go(office: Office) -> None:
        shown = Listing(COLUMNS, as_json=as_json)

        def page(after: str) -> Awaitable[list[Shown]]:
            return office.break_glass.page(office.actor, after, PAGE)

        async for each in paged(page, lambda each: each.id):
            shown.row(_described(each))
        shown.end("Nobody has asked for a role.")

    with told():
        look(settings_of(config), go)


@click.command("end", short_help="End a grant, or an ask.")
@click.argument("grant_id", metavar="ID")
@click.option("--reason", default="", help="Why. It stands in the record.")
@as_json
@click.pass_obj
def end(config: Path | None, grant_id: str, reason: str, as_json: bool) -> None:
    """Take a role back that was lent, or make an ask void. It is recorded first; a running server acts on it at once.
    What is damaged goes with it.

    \b
    Example:
      vestry break-glass end bgl_3f0c9a4be1d27756c0a1b2d3 --reason "not known to anybody"
    """

    async def do(office: Office) -> tuple[Shown, bool]:
        try:
            return await office.break_glass.end(office.actor, grant_id, reason=reason)
        except NotFound:
            raise ChangeRefused("There is no such ask or grant. See: vestry break-glass list") from None

    with told():
        shown, changed = change(settings_of(config), do)
    said = f"{shown.id}: ended" if changed else f"{shown.id}: is {shown.state} already"
    tell({**_described(shown), "changed": changed}, said, as_json=as_json)


def _described(shown: Shown) -> dict[str, Any]:
    said = {"damaged": shown.damaged} if shown.grant is None else shown.grant.model_dump(mode="json")
    return {"id": shown.id, "version": shown.version, "state": shown.state, **said}
