"""Records as lines of ArcSight's Common Event Format (CEF version 0, as in Micro Focus' implementation standard).

    CEF:0|Vestry|Vestry|VERSION|TYPE|NAME|SEVERITY|EXTENSION

In the header `\\` and `|` are escaped; in the extension's values `\\`, `=` and line ends. Other control characters,
which no record has, become spaces: a value never makes a second line or a second field.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from vestry import __version__
from vestry.audit.export.ocsf import decoded
from vestry.audit.records import microseconds_of

_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_NAMES = {
    "intent": "call allowed",
    "outcome": "call ended",
    "refusal": "call refused",
    "refusals.summary": "calls refused in a flood",
    "intent.closed": "call without outcome closed",
    "server.start": "server started",
    "server.stop": "server stopped",
    "key.create": "key made",
    "key.revoke": "key revoked",
    "key.change": "key changed",
    "tenant.change": "tenant changed",
    "project.change": "project changed",
    "user.change": "user changed",
    "policy.change": "policy changed",
    "break-glass.ask": "emergency role asked for",
    "break-glass.approve": "emergency role given",
    "break-glass.end": "emergency role ended",
    "segment.begin": "log goes on in a new file",
    "log.trim": "unacknowledged tail of the log cut off",
    "log.recovered": "log can be written again",
    "log.read": "log was read",
    "clock.jump": "wall clock jumped",
    "log.prune": "old records removed",
    "log.reconciled": "log compared with the engines' counters",
    "content.erase": "content erased",
}
_SEVERITIES = {
    "refusal": 4, "refusals.summary": 4, "intent.closed": 4, "key.create": 3, "key.revoke": 3, "log.read": 3,
    "key.change": 3, "tenant.change": 4, "project.change": 3, "user.change": 4, "policy.change": 5,
    "break-glass.ask": 7, "break-glass.approve": 9, "break-glass.end": 5,
    "log.prune": 5, "content.erase": 5, "log.trim": 6, "log.recovered": 7, "clock.jump": 6,
}  # fmt: skip
_PLAIN = {
    "suid": "key_id", "spriv": "role", "requestMethod": "method", "request": "route", "outcome": "ending",
    "requestClientApplication": "user_agent", "msg": "reason", "cnt": "total", "fname": "segment",
}  # fmt: skip
"""Keys of CEF's dictionary, and the fields that they hold."""
_OWN = (
    ("cs1", "tenant", "tenant"), ("cs2", "model", "model"), ("cs3", "requestId", "request_id"), ("cs4", "code", "code"),
    ("cs5", "command", "command"), ("cs6", "filter", "filter"), ("cn1", "promptTokens", "prompt_tokens"),
    ("cn2", "completionTokens", "completion_tokens"), ("cn3", "status", "status"),
)  # fmt: skip
"""CEF's own fields for what its dictionary has no key for, with their labels."""


def line(leaf: bytes) -> str:
    """A record as a CEF line, without a line end. Raises LogDamaged for what is no record."""
    record = decoded(leaf)
    kind = record["type"]
    ended_badly = kind == "outcome" and record.get("ending") != "complete"
    severity = 4 if ended_badly else _SEVERITIES.get(kind, 1)
    head = ["CEF:0", "Vestry", "Vestry", __version__, kind, _NAMES.get(kind, kind), str(severity)]
    extension = " ".join(f"{key}={in_extension(value)}" for key, value in _extension(record).items())
    return f"{'|'.join([head[0], *map(in_header, head[1:])])}|{extension}"


def _extension(record: dict[str, Any]) -> dict[str, str]:
    at = microseconds_of(record["time"]) // 1000
    found = {
        "rt": str(at),
        "externalId": str(record["index"]),
        "deviceExternalId": record["origin"],
        "deviceProcessName": "vestry",
    }
    for key, name in _PLAIN.items():
        _put(found, key, record.get(name))
    _put(found, "suser", record.get("subject") or record.get("actor"))
    if record.get("actor") and record.get("subject"):
        _put(found, "suser", record["actor"])
        _put(found, "duser", record["subject"])
    for key, label, name in _OWN:
        if name in record:
            _put(found, key, record[name])
            found[f"{key}Label"] = label
    _source(found, record.get("source"))
    return found


def _source(found: dict[str, str], source: Any) -> None:
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return
    if address.version == 4:
        found["src"] = str(address)
    else:
        found |= {"c6a2": str(address), "c6a2Label": "Source IPv6 Address"}


def _put(found: dict[str, str], key: str, value: Any) -> None:
    if value is not None and not isinstance(value, dict | list):
        found[key] = str(value).lower() if isinstance(value, bool) else str(value)


def in_header(text: str) -> str:
    """A text as a field of the header."""
    return _CONTROLS.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|")


def in_extension(text: str) -> str:
    """A text as a value of the extension."""
    escaped = text.replace("\\", "\\\\").replace("=", "\\=").replace("\r", "\\r").replace("\n", "\\n")
    return _CONTROLS.sub(" ", escaped)
