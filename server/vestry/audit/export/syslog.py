"""Messages of RFC 5424.

Facility 13 (log audit), severity 6, or 4 for what somebody should look at. MSGID is the record's type. The message is
the record in the chosen format; where it is not ASCII it begins with a byte order mark, as RFC 5424 section 6.4 asks.
"""

from __future__ import annotations

from vestry import __version__
from vestry.audit.export.ocsf import decoded
from vestry.syslog import FACILITY, printable

INFORMATIONAL, WARNING = 6, 4
BOM = b"\xef\xbb\xbf"
WARNED = frozenset({"refusal", "refusals.summary", "intent.closed", "log.trim", "log.recovered", "clock.jump"})


def message(leaf: bytes, text: bytes, host: str) -> bytes:
    """One SYSLOG-MSG: `text` says in some format what `leaf` holds. Raises LogDamaged for what is no record."""
    record = decoded(leaf)
    kind = record["type"]
    bad = kind in WARNED or (kind == "outcome" and record.get("ending") != "complete")
    priority = FACILITY * 8 + (WARNING if bad else INFORMATIONAL)
    head = (
        f"<{priority}>1 {record['time']} {printable(host, 255)} vestry - {printable(kind, 32)} "
        f'[origin software="vestry" swVersion="{__version__}"] '
    )
    return head.encode("ascii") + (b"" if text.isascii() else BOM) + text
