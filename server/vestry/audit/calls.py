"""The three records of a call as structures: they are written for every call, and a structure costs a third of a dict.

What each field means, and which are always there, says the table in `fields.py`; the tests hold these classes to it.
A field with a default is left out where it has that value.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vestry.seams import Structure


class Content(Struct, omit_defaults=True, kw_only=True):
    """What is kept of a prompt or of an answer, and where: the record's `content`. Hashes are in hex."""

    size: int = 0
    left_out: int = 0
    commitment: str = ""
    hmac: str = ""
    texts: tuple[str, ...] = ()
    bundle: str = ""
    entry: int | None = None
    offset: int | None = None
    length: int | None = None
    sha256: str = ""
    auditor: str = ""
    lost: bool = False


class CallRecord(Structure, kw_only=True):
    """What all three have in common. Who called is empty where it is not known."""

    time: str
    began: str
    duration_us: int
    tenant: str = ""
    subject: str = ""
    key_id: str = ""
    role: str = ""
    break_glass: str = ""
    route: str
    operation: str
    method: str
    model: str = ""


class DecidedRecord(CallRecord, kw_only=True):
    """What is said where a call is decided on: what the client says of itself, and what was decided."""

    client_request_id: str = ""
    traceparent: str = ""
    source: str = ""
    user_agent: str = ""
    decision: str
    configuration_digest: str = ""
    issuer: str = ""


class IntentRecord(DecidedRecord, kw_only=True):
    """What is about to be done, and why it may be."""

    end_user: str = ""
    stream: bool
    sampling: dict[str, Any]
    revision: str = ""
    weights_digest: str = ""
    quantization: str = ""
    chat_template_digest: str = ""
    engine_version: str = ""
    rule: str
    content_mode: str
    content: Content | None = None


class OutcomeRecord(CallRecord, kw_only=True):
    """How it went."""

    status: int
    code: str = ""
    ending: str
    replica: str = ""
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    estimated: bool
    finish_reasons: tuple[str, ...]
    first_byte_us: int | None = None
    engine_us: int
    content_mode: str
    content: Content | None = None
    engine_work: list[dict[str, Any]] | None = None
    issuer: str = ""
    source: str = ""


class RefusalRecord(DecidedRecord, kw_only=True):
    """A call that was answered with a refusal: the one record of it, intent and outcome in one."""

    status: int
    code: str
    reason: str
    ending: str
    rule: str = ""
