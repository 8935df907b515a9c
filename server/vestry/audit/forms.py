"""Forms that a record's values have, in JSON Schema's words, and how much one record holds at most."""

from __future__ import annotations

from typing import Any

from vestry.audit.canonical import SAFE_INTEGER

OPEN_INTENTS_EACH = 400
"""Open intents that one `segment.begin` record lists at most; with ids of 64 characters it stays below a leaf."""
SUMMARY_COUNTS = 256
"""Rows that one `refusals.summary` record holds at most."""
RECONCILED_EACH = 48
"""Replicas that one `log.reconciled` record holds at most."""
ENGINES_TRIED = 2
"""Engines that one call is sent to at most."""
ORIGINS = 256
"""Logs of a house that one `server.start` record names at most."""

INTEGER: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": SAFE_INTEGER}
SIGNED: dict[str, Any] = {"type": "integer", "minimum": -SAFE_INTEGER, "maximum": SAFE_INTEGER}
FLAG: dict[str, Any] = {"type": "boolean"}
TIME: dict[str, Any] = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
}


def text(limit: int) -> dict[str, Any]:
    """A text of 1 to `limit` characters."""
    return {"type": "string", "minLength": 1, "maxLength": limit}


def choice(*words: str) -> dict[str, Any]:
    """One of these words."""
    return {"enum": list(words)}


def listed(items: dict[str, Any], most: int) -> dict[str, Any]:
    """A list of at most `most` of these."""
    return {"type": "array", "items": items, "maxItems": most}


def closed(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with no field but these; any of them may be missing."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


SAMPLING: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [SIGNED, FLAG, text(64), {**closed(count=INTEGER), "required": ["count"]}],
    },
}
HASH: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
CONTENT: dict[str, Any] = closed(
    size=INTEGER,
    left_out=INTEGER,
    commitment=HASH,
    hmac=HASH,
    texts=listed(HASH, 32),
    bundle={"type": "string", "pattern": "^[0-9]{8}-[0-9]{6}$"},
    entry=INTEGER,
    offset=INTEGER,
    length=INTEGER,
    sha256=HASH,
    auditor={"type": "string", "pattern": "^[0-9a-f]{16}$"},
    lost=FLAG,
)
"""What a record says of the prompt or answer that is kept beside it (`audit/content/`)."""
WORK: dict[str, Any] = {"type": "array", "items": INTEGER, "minItems": 3, "maxItems": 3}
"""Amounts of an engine's work: prompt tokens, completion tokens, requests (`completeness.Work`)."""
RECONCILIATION: dict[str, Any] = {
    **closed(
        replica=text(128),
        readable=FLAG,
        engine=WORK,
        least=WORK,
        most=WORK,
        unexplained=WORK,
        uncounted=WORK,
        restarts=INTEGER,
        counters=WORK,
        read=TIME,
        started=TIME,
    ),
    "required": ["replica", "readable", "engine", "least", "most", "unexplained", "uncounted", "restarts"],
}
"""What a reconciliation found of one replica (`audit/reconciling.py`)."""
