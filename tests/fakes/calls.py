"""Sample calls and their records. Nothing here needs more than the product itself."""

from __future__ import annotations

from typing import Any

from vestry.audit.calls import IntentRecord, OutcomeRecord
from vestry.audit.records import Records
from vestry.types import (
    Call,
    Ending,
    Grant,
    Head,
    Limits,
    Operation,
    Outcome,
    Principal,
    Replica,
    ServedModel,
    Usage,
)

MODEL = ServedModel(
    name="small",
    created=1_735_689_600,
    context_length=2048,
    vocabulary=49152,
    replicas=(Replica("a", "http://127.0.0.1:8100"),),
    revision="r1",
    weights_digest="sha256:" + "1" * 64,
    quantization="w8a8",
    chat_template_digest="sha256:" + "2" * 64,
    engine_version="0.32.0",
)
PRINCIPAL = Principal(key_id="k0123456789", tenant="default", subject="alice")
GRANT = Grant(PRINCIPAL, MODEL, "tenant default, every model", Limits())


def head(request_id: str = "req-1", **changes: Any) -> Head:
    """A request's head; the clocks stand at 100 s and at the billennium."""
    fields: dict[str, Any] = {
        "request_id": request_id,
        "route": "/v1/chat/completions",
        "operation": Operation.CHAT,
        "method": "POST",
        "source": "10.1.2.3",
        "user_agent": "tests/1",
        "client_request_id": "",
        "traceparent": "",
        "credential": None,
        "began": 100.0,
        "began_wall": 1_000_000_000_000_000,
    }
    return Head(**{**fields, **changes})


def call(**changes: Any) -> Call:
    """A parsed chat request."""
    fields: dict[str, Any] = {
        "model": "small",
        "stream": False,
        "include_usage": False,
        "choices": 1,
        "body": b"{}",
        "prompt_bytes": 20,
        "sampling": {"temperature": "0.7", "max_tokens": 16},
    }
    return Call(**{**fields, **changes})


def intent(request_id: str, records: Records | None = None) -> IntentRecord:
    """An intent record."""
    return (records or Records()).intent(head(request_id), PRINCIPAL, call(), GRANT)


def outcome(request_id: str, records: Records | None = None) -> OutcomeRecord:
    """The outcome of a good call."""
    done = Outcome(Ending.COMPLETE, 200, usage=Usage(12, 5), finish_reasons=("stop",), replica="a", attempts=1)
    return (records or Records()).outcome(head(request_id), PRINCIPAL, call(), GRANT, done)
