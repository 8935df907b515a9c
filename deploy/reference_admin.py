"""Writes the reference of the administration: its OpenAPI document, and the page that is made from it."""

from __future__ import annotations

import json

from vestry.edge.administration.openapi import document
from vestry.edge.administration.routes import ROUTES
from vestry.edge.administration.table import Row

HEAD = """\
# The administration API

<!-- Made by deploy/docs.py from server/vestry/edge/administration/. Change it there. -->

Every route of `/admin/v1`, which [the administration](../administration.md) shows in use. The same as an OpenAPI 3.1
document, with the form of every body and answer, is [admin-api.json](admin-api.json); a running server serves its own
at `/admin/v1/openapi.json`. Which role has which permission says `GET /admin/v1/roles`.
"""
COMMON = """\
## What every answer has

- `x-request-id` names the request; records of it have the same id. `cache-control: no-store`.
- `ETag`, where there is one, is the version that `If-Match` of a change names. `PUT` of what is there already as it
  shall be changes nothing, whatever `If-Match` says, and answers 200 with the same `ETag`.
- Errors are [OpenAI's error object](errors.md). Another tenant's things are 404, like what is not there.
- 405 has `Allow`. `HEAD` is `GET` without the body.
- Lists: `{"object": "list", "data": [...], "has_more": true, "next": "..."}`; `limit` is 1 to 500, 100 unless given.
"""


def text() -> str:
    """`docs/reference/admin-api.json`."""
    return json.dumps(document(ROUTES), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def page() -> str:
    """`docs/reference/admin-api.md`."""
    parts = [HEAD, _table(), "", COMMON]
    parts += [_section(row) for row in ROUTES]
    return "\n".join(parts)


def _table() -> str:
    lines = ["| route | needs | does |", "|---|---|---|"]
    lines += [
        f"| [`{row.method} {row.path}`](#{_anchor(row)}) | `{row.permission.value}` | {row.summary} |" for row in ROUTES
    ]
    return "\n".join(lines)


def _anchor(row: Row) -> str:
    return row.name.replace(".", "")


def _section(row: Row) -> str:
    statuses = ", ".join(map(str, row.statuses))
    lines = [f"## `{row.name}`", "", f"`{row.method} {row.path}`", "", f"{row.summary}. Answers {statuses}.", ""]
    if row.query:
        lines += ["| parameter | meaning |", "|---|---|"]
        lines += [f"| `{each.name}`{' (several)' if each.repeated else ''} | {each.meaning} |" for each in row.query]
        lines.append("")
    takes = []
    if row.matched:
        takes.append("`If-Match`, `If-None-Match: *`" if row.method == "PUT" else "`If-Match`")
    if row.tokened:
        takes.append("`Idempotency-Key`")
    if takes:
        lines += [f"Headers: {', '.join(takes)}.", ""]
    if row.body is not None:
        left_out = " It may be left out." if row.bodiless else ""
        lines += [f"Body: `{row.body.__name__}`.{left_out} For instance:", ""]
        lines += ["```json", json.dumps(dict(row.example)), "```", ""]
    if row.refusals:
        codes = dict.fromkeys(f"{each.status} `{each.code}`" for each in row.refusals)
        lines += [f"Refuses with {', '.join(codes)} beside what every route may.", ""]
    return "\n".join(lines)
