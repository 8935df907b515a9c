"""The three records of a call as structures: they are written for every call, and a structure costs a fifth of a dict.

What each field means, and which are always there, says the table in `fields.py`. Fields stand in the order of their
names, as canonical JSON has them: an encoder that need not sort them takes half the time. The tests hold these classes
to both. A field with a default is left out where it has that value; who called is empty where it is not known.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vestry.seams import Structure


class Content(Struct, omit_defaults=True, kw_only=True):
    """What is kept of a prompt or of an answer, and where: the record's `content`. Hashes are in hex."""

    auditor: str = ""
    bundle: str = ""
    commitment: str = ""
    entry: int | None = None
    hmac: str = ""
    left_out: int = 0
    length: int | None = None
    lost: bool = False
    offset: int | None = None
    sha256: str = ""
    size: int = 0
    texts: tuple[str, ...] = ()


class IntentRecord(Structure, kw_only=True):
    """What is about to be done, and why it may be."""

    began: str
    break_glass: str = ""
    chat_template_digest: str = ""
    client_request_id: str = ""
    configuration_digest: str = ""
    content: Content | None = None
    content_mode: str
    decision: str
    duration_us: int
    end_user: str = ""
    engine_version: str = ""
    index: int = -1
    issuer: str = ""
    key_id: str = ""
    method: str
    model: str = ""
    operation: str
    origin: str = ""
    quantization: str = ""
    request_id: str
    revision: str = ""
    role: str = ""
    route: str
    rule: str
    sampling: dict[str, Any]
    schema: int
    source: str = ""
    stream: bool
    subject: str = ""
    tenant: str = ""
    time: str
    traceparent: str = ""
    type: str
    user_agent: str = ""
    weights_digest: str = ""


class OutcomeRecord(Structure, kw_only=True):
    """How it went."""

    attempts: int
    began: str
    break_glass: str = ""
    cached_tokens: int
    code: str = ""
    completion_tokens: int
    content: Content | None = None
    content_mode: str
    duration_us: int
    ending: str
    engine_us: int
    engine_work: list[dict[str, Any]] | None = None
    estimated: bool
    finish_reasons: tuple[str, ...]
    first_byte_us: int | None = None
    index: int = -1
    issuer: str = ""
    key_id: str = ""
    method: str
    model: str = ""
    operation: str
    origin: str = ""
    prompt_tokens: int
    replica: str = ""
    request_id: str
    role: str = ""
    route: str
    schema: int
    source: str = ""
    status: int
    subject: str = ""
    tenant: str = ""
    time: str
    type: str


class RefusalRecord(Structure, kw_only=True):
    """A call that was answered with a refusal: the one record of it, intent and outcome in one."""

    began: str
    break_glass: str = ""
    client_request_id: str = ""
    code: str
    configuration_digest: str = ""
    decision: str
    duration_us: int
    ending: str
    index: int = -1
    issuer: str = ""
    key_id: str = ""
    method: str
    model: str = ""
    operation: str
    origin: str = ""
    reason: str
    request_id: str
    role: str = ""
    route: str
    rule: str = ""
    schema: int
    source: str = ""
    status: int
    subject: str = ""
    tenant: str = ""
    time: str
    traceparent: str = ""
    type: str
    user_agent: str = ""
