"""Keys and documents as rows, and back; and what no key can have."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from ipaddress import ip_network
from typing import Any

from vestry.adapters.directory.faults import Damaged
from vestry.addresses import network
from vestry.roles import Role, named, read_roles
from vestry.types import Document, Key, Kind, Limits, Network

_ID = re.compile(r"key_[0-9A-Za-z]{1,64}")
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
NO_OBJECT = {"damaged": "what is kept here is no JSON object"}
"""Stands for such a body. No form has this field, so nobody goes by it; but it can be shown, replaced and removed."""
LAST_MOMENT = 253_402_300_799_999_999
"""Microseconds since the epoch at the end of the year 9999: what comes later, no calendar has."""
TOLD = 200
NAMELESS = "?"
_ROUTE = re.compile(r"[a-z][a-z0-9._-]{0,63}")


def validate(key: Key) -> None:
    """Raises ValueError, with a sentence, for what no key can have."""
    if not _plain(key.owner):
        raise ValueError("an owner is 1 to 128 printable characters, with no space at either end")
    if not _LABEL.fullmatch(key.tenant):
        raise ValueError("a tenant's name is 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`")
    if key.project and not _LABEL.fullmatch(key.project):
        raise ValueError("a project's name is 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`")
    if not key.roles or not all(isinstance(each, Role) for each in key.roles):
        raise ValueError(f"a role is one of {', '.join(Role)}")
    if not _names(key.models, _MODEL):
        raise ValueError("models are 1 to 256 names of 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `/` and `-`")
    if not _names(key.routes, _ROUTE):
        raise ValueError("routes are 1 to 256 names such as chat.completions")
    _bounded(key)


def _bounded(key: Key) -> None:
    if len(key.sources) > 256:
        raise ValueError("sources are at most 256 networks")
    for bound, most in ((key.limits.concurrency, 100_000), (key.limits.requests_per_minute, 10_000_000)):
        if bound is not None and not 0 < bound <= most:
            raise ValueError("a limit is a positive number: at most 100000 calls at once, 10000000 a minute")
    if (key.made_by and not _plain(key.made_by, 256)) or not _ID.fullmatch(key.id):
        raise ValueError("a key's id begins with key_, and who made it is 1 to 256 printable characters")
    if key.replaces and not _ID.fullmatch(key.replaces):
        raise ValueError("what a key replaces is the id of a key")


def _plain(text: str, most: int = 128) -> bool:
    return 0 < len(text) <= most and text.isprintable() and text == text.strip()


def _names(names: Collection[str] | None, form: re.Pattern[str]) -> bool:
    return names is None or (0 < len(names) <= 256 and all(map(form.fullmatch, names)))


def storable(*texts: str) -> bool:
    """Whether a database can hold these at all: what it cannot hold is not there, and need not be asked for."""
    return all("\0" not in text and _encodable(text) for text in texts)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def row_of(key: Key) -> dict[str, Any]:
    """A key as its row, but for its hash."""
    return {
        "id": key.id,
        "owner": key.owner,
        "tenant": key.tenant,
        "project": key.project,
        "roles": named(key.roles),
        "models": _list(key.models),
        "routes": _list(key.routes),
        "sources": json.dumps([str(each) for each in key.sources]) if key.sources else None,
        "concurrency": key.limits.concurrency,
        "requests_per_minute": key.limits.requests_per_minute,
        "created": key.created,
        "expires": key.expires,
        "revoked": key.revoked,
        "frozen": key.frozen,
        "last_used": key.last_used,
        "replaces": key.replaces,
        "made_by": key.made_by,
        "version": key.version,
    }


def key_of(row: Mapping[Any, Any]) -> Key:
    """The key of a row. One that no program has written is `damaged`: it never becomes one with more rights, and keeps
    nobody from the others.
    """
    try:
        models, routes = _names_of(row["models"]), _names_of(row["routes"])
        key = Key(
            id=row["id"],
            tenant=row["tenant"],
            owner=row["owner"],
            created=_within_calendar(row["created"]),
            roles=read_roles(row["roles"]),
            project=row["project"],
            models=None if models is None else frozenset(models),
            routes=None if routes is None else frozenset(routes),
            sources=_networks(row["sources"]),
            limits=Limits(row["concurrency"], row["requests_per_minute"]),
            expires=_kept(row["expires"]),
            revoked=_kept(row["revoked"]),
            frozen=_kept(row["frozen"]),
            last_used=_kept(row["last_used"]),
            replaces=row["replaces"],
            made_by=row["made_by"],
            version=row["version"],
        )
        validate(key)
    except (ValueError, RecursionError) as error:
        return _damaged(row, str(error)[:TOLD])
    return key


def _damaged(row: Mapping[Any, Any], why: str) -> Key:
    """A key without a right, of a row that is not one's: but whose it is, and whether it is revoked."""
    return Key(
        id=row["id"],
        tenant=row["tenant"][:TOLD] or NAMELESS,
        owner=row["owner"][:TOLD] or NAMELESS,
        created=_within_calendar(row["created"]),
        roles=frozenset(),
        project=row["project"][:TOLD],
        models=frozenset(),
        routes=frozenset(),
        expires=_kept(row["expires"]),
        revoked=_kept(row["revoked"]),
        frozen=_kept(row["frozen"]),
        last_used=_kept(row["last_used"]),
        replaces=row["replaces"][:TOLD],
        made_by=row["made_by"][:TOLD],
        version=row["version"],
        damaged=why,
    )


def _kept(moment: int | None) -> int | None:
    return None if moment is None else _within_calendar(moment)


def _within_calendar(moment: int) -> int:
    """A time of a row, or the next one that there is: so no key lives longer by it."""
    return min(max(moment, 0), LAST_MOMENT)


def json_of(text: str) -> Any:
    """What a document's text says; None for what is no JSON, or what no answer can say again (half of a surrogate pair,
    as an escape), so that whoever has the row can say whose it is.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if "\\ud" not in text.lower() or _encodable(json.dumps(said, ensure_ascii=False)) else None


def document_of(row: Mapping[Any, Any]) -> Document:
    """The document of a row. A body that is no JSON object comes as NO_OBJECT. Raises Damaged for a kind that there
    is not.
    """
    try:
        kind = Kind(row["kind"])
    except ValueError:
        place = f"{row['tenant']}/{row['name']}"[:TOLD]
        raise Damaged(
            f"is damaged (the document {place} is of a kind `{row['kind']}`): restore it from a copy"
        ) from None
    body = row["body"] if isinstance(row["body"], dict) else dict(NO_OBJECT)
    created, updated = (_within_calendar(row[name]) for name in ("created", "updated"))
    return Document(kind, row["tenant"], row["name"], body, row["version"], created, updated)


def _list(names: Collection[str] | None) -> str | None:
    return None if names is None else json.dumps(sorted(names))


def _names_of(text: str | None) -> list[str] | None:
    """Raises ValueError for what is no list of names."""
    if text is None:
        return None
    names = json.loads(text)
    if not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise ValueError("a list of names is something else")
    return names


def _networks(text: str | None) -> tuple[Network, ...]:
    names = _names_of(text)
    if names is None:
        return ()
    if not names:
        raise ValueError("a list of networks is empty")
    return tuple(network(str(ip_network(each))) for each in names)  # older versions kept IPv4 as IPv6 has it, too
