"""The builders: what of a call stands in its records, and that strange input never breaks one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from msgspec.structs import replace

from fakes.audit import HandClock
from fakes.calls import GRANT, PRINCIPAL, call, head
from support import forks
from vestry.audit import fields, schema
from vestry.audit.calls import Content, IntentRecord, OutcomeRecord, RefusalRecord
from vestry.audit.canonical import LEAF_BYTES, leaf, placed
from vestry.audit.fields import FIELDS, RecordType
from vestry.audit.records import Records, microseconds_of, rfc3339, sampling
from vestry.errors import InvalidKey, InvalidRequest, Overloaded
from vestry.roles import Role
from vestry.seams import Record, Structure
from vestry.types import Ending, Outcome, Usage

ROOT = Path(__file__).parents[2]
VALIDATOR = Draft202012Validator(schema.document())


@pytest.fixture
def clock() -> HandClock:
    """Clocks that stand still: a quarter of a second after the sample request began."""
    hand = HandClock()
    hand.both(0.25)
    return hand


@pytest.fixture
def records(clock: HandClock) -> Records:
    """The builders of a process whose configuration is known."""
    return Records(configuration_digest="sha256:" + "c" * 64, clock=clock.clock)


def stored(record: Record) -> dict[str, Any]:
    """The record as the log would store it, checked against the schema."""
    encoded = leaf(placed(record, 7, "server"))
    assert len(encoded) <= LEAF_BYTES
    found: dict[str, Any] = json.loads(encoded)
    VALIDATOR.validate(found)
    return found


def test_an_intent(records: Records) -> None:
    """An intent says who asked for what, of which model, and why it may be: every field, in full."""
    asked = head(client_request_id="c-1", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    assert stored(records.intent(asked, PRINCIPAL, call(end_user="ward 3"), GRANT)) == {
        "schema": 1,
        "index": 7,
        "origin": "server",
        "type": "intent",
        "time": "2001-09-09T01:46:40.250000Z",
        "began": "2001-09-09T01:46:40.000000Z",
        "duration_us": 250_000,
        "request_id": "req-1",
        "client_request_id": "c-1",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "tenant": "default",
        "subject": "alice",
        "key_id": "k0123456789",
        "role": "user",
        "end_user": "ward 3",
        "source": "10.1.2.3",
        "user_agent": "tests/1",
        "route": "/v1/chat/completions",
        "operation": "chat",
        "method": "POST",
        "stream": False,
        "sampling": {"temperature": "0.7", "max_tokens": 16},
        "model": "small",
        "revision": "r1",
        "weights_digest": "sha256:" + "1" * 64,
        "quantization": "w8a8",
        "chat_template_digest": "sha256:" + "2" * 64,
        "engine_version": "0.32.0",
        "decision": "allow",
        "rule": "tenant default, every model",
        "configuration_digest": "sha256:" + "c" * 64,
        "content_mode": "metadata",
    }


def test_an_outcome(records: Records, clock: HandClock) -> None:
    """An outcome says how the call ended, in tokens and microseconds, and by which engine."""
    clock.both(0.75)
    done = Outcome(
        Ending.TRUNCATED,
        200,
        code="engine_error",
        usage=Usage(100, 20, 64, estimated=True),
        finish_reasons=("stop", "", "length"),
        replica="a",
        first_byte=100.5,
        attempts=2,
        engine_seconds=0.9,
    )
    found = stored(records.outcome(head(), PRINCIPAL, call(), GRANT, done))
    expected = {
        "type": "outcome",
        "duration_us": 1_000_000,
        "status": 200,
        "code": "engine_error",
        "ending": "truncated",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cached_tokens": 64,
        "estimated": True,
        "finish_reasons": ["stop", "length"],
        "replica": "a",
        "attempts": 2,
        "first_byte_us": 500_000,
        "engine_us": 900_000,
        "model": "small",
        "tenant": "default",
    }
    assert {name: found[name] for name in expected} == expected


def test_an_outcome_without_an_engine(records: Records) -> None:
    """A route that calls no engine has an outcome without model fields, and one that knows a name has the name."""
    done = Outcome(Ending.COMPLETE, 200)
    found = stored(records.outcome(head(), replace(PRINCIPAL, issuer="company"), None, None, done))
    assert "model" not in found
    assert (found["source"], found["issuer"]) == (head().source, "company")
    assert "source" not in stored(records.outcome(head(), PRINCIPAL, call(), GRANT, done))
    assert stored(records.outcome(head(), PRINCIPAL, call(model="a\nb"), None, done))["model"] == "a\\nb"


def test_a_refusal(records: Records) -> None:
    """A refusal holds status, code and sentence; who it was stands there only if it is known."""
    found = stored(records.refusal(head(), None, None, InvalidKey()))
    assert (found["status"], found["code"], found["decision"], found["ending"]) == (
        401,
        "invalid_api_key",
        "deny",
        "refused",
    )
    assert found["reason"].startswith("No valid API key")
    assert "tenant" not in found
    assert found["source"] == "10.1.2.3"
    known = stored(records.refusal(head(), PRINCIPAL, call(model="none/such"), Overloaded()))
    assert (known["key_id"], known["model"]) == ("k0123456789", "none/such")


@given(st.text(max_size=400), st.text(max_size=40))
def test_no_header_breaks_a_record(text: str, short: str) -> None:
    """Whatever a stranger sends in headers and names, both records of the call can be stored and fit the schema."""
    records = Records()
    asked = head(route=short, method=short, source=text, user_agent=text * 50, client_request_id=text, traceparent=text)
    sent = call(model=text, end_user=text, sampling={"stop": [text], "tool_choice": text})
    stored(records.intent(asked, PRINCIPAL, sent, GRANT))
    stored(records.refusal(asked, None, sent, InvalidRequest(text)))


@pytest.mark.parametrize("kind", [IntentRecord, OutcomeRecord, RefusalRecord], ids=lambda kind: kind.__name__)
def test_the_structures_follow_the_table(kind: type[Structure]) -> None:
    """Each structure has the fields of its type and no others; what is always there has no default."""
    name = RecordType(kind.__name__.removesuffix("Record").lower())
    assert set(kind.__struct_fields__) | {"cut"} == fields.allowed(name)
    needed = {field.name for field in msgspec.structs.fields(kind) if field.required}
    assert needed | {"index", "origin"} == fields.required(name) - _WHO.get(name, frozenset())
    for each in (kind, Content):  # the encoder relies on it
        assert list(each.__struct_fields__) == sorted(each.__struct_fields__)


_WHO = {RecordType.INTENT: {"tenant", "subject", "key_id", "role", "model"}}
"""Fields that an intent always has, and that all three structures share."""


def test_a_structure_is_canonical(records: Records) -> None:
    """A structure has the bytes that another implementation of RFC 8785 gives its fields, strange text included."""
    asked = head(user_agent='caf\u00e9 "\\\u2028', client_request_id="\ud800\x00")
    sent = call(end_user="\U0001f600", sampling={"top_p": "0.9", "max_tokens": 1, "seed": -(2**63), "n": 2})
    record = records.intent(asked, PRINCIPAL, sent, GRANT)
    assert leaf(placed(record, 2**53 - 1, "server")) == rfc8785.dumps(msgspec.to_builtins(record))
    tried = Outcome(Ending.COMPLETE, 200, usage=Usage(7, 2), replica="b", attempts=2, tried=("a",))
    kept = Content(size=7, texts=("00" * 32,), bundle="20260131-000001", entry=0)
    ended = records.outcome(asked, PRINCIPAL, sent, GRANT, tried, kept)
    assert ended.engine_work is not None
    assert leaf(placed(ended, 0, "server")) == rfc8785.dumps(msgspec.to_builtins(ended))


def test_one_calls_record_is_not_anothers(records: Records) -> None:
    """Calls of the same key to the same model share no value that one of them alone has."""
    first = stored(records.intent(head("a", user_agent="x", source=""), PRINCIPAL, call(end_user="e"), GRANT))
    second = stored(records.intent(head("b", user_agent=""), PRINCIPAL, call(stream=True), GRANT))
    assert (first["user_agent"], first["end_user"], first["stream"]) == ("x", "e", False)
    assert "source" not in first
    assert not {"user_agent", "end_user"} & second.keys()
    assert (second["request_id"], second["source"], second["stream"]) == ("b", "10.1.2.3", True)
    other = stored(
        records.intent(
            head("c"), replace(PRINCIPAL, roles=frozenset({Role.ADMIN})), call(), replace(GRANT, rule="another")
        )
    )
    assert (other["role"], other["rule"]) == ("admin", "another")


def test_sampling_holds_no_content() -> None:
    """Fractions become decimal text, huge integers text; lists, objects and long texts are only counted."""
    given_parameters = {
        "temperature": 0.7,
        "top_p": 1.0,
        "seed": 2**63,
        "max_tokens": 16,
        "logprobs": True,
        "tool_choice": "auto",
        "stop": ["secret", "words"],
        "logit_bias": {"5": 1.0},
        "guided": "x" * 65,
        "empty": "",
        "odd": object(),
        "huge": 10**5000,
        "user": None,
    }
    assert sampling(given_parameters) == {
        "temperature": "0.7",
        "top_p": "1.0",
        "seed": "9223372036854775808",
        "max_tokens": 16,
        "logprobs": True,
        "tool_choice": "auto",
        "stop": {"count": 2},
        "logit_bias": {"count": 1},
        "guided": {"count": 65},
        "empty": {"count": 0},
        "odd": {"count": 1},
        "huge": {"count": 1},
    }


def test_events(records: Records) -> None:
    """An event holds its details, bounded; empty ones are left out; server events carry the configuration's digest."""
    started = stored(records.event(RecordType.SERVER_START, version="0.1.0", origins=["server"]))
    assert (started["version"], started["configuration_digest"]) == ("0.1.0", "sha256:" + "c" * 64)
    revoked = records.event(
        RecordType.KEY_REVOKE, tenant="default", subject="a\nb", key_id="k1", actor="root", reason="", role=None
    )
    found = stored(revoked)
    assert found["subject"] == "a\\nb"
    assert "reason" not in found
    assert "configuration_digest" not in found


def test_events_are_checked(records: Records) -> None:
    """A detail that a type does not have, or one that it lacks, is a fault of the program and says which."""
    with pytest.raises(ValueError, match=r"server\.start has no field tenant"):
        records.event(RecordType.SERVER_START, version="1", tenant="x")
    with pytest.raises(ValueError, match=r"key\.create needs actor, key_id"):
        records.event(RecordType.KEY_CREATE, tenant="default", subject="alice")


def test_a_changed_model_is_seen(records: Records) -> None:
    """The fields of a model are those of the model that was granted, also after a model of that name was changed."""
    first = records.intent(head(), PRINCIPAL, call(), GRANT)
    changed = replace(GRANT, model=replace(GRANT.model, revision="r2"))
    assert (first.revision, records.intent(head(), PRINCIPAL, call(), changed).revision) == ("r1", "r2")


@given(st.integers(0, 4_000_000_000_000_000))
def test_times_can_be_read_back(moment: int) -> None:
    """A time in a record has always the same form, and is the moment that was meant."""
    assert len(rfc3339(moment)) == 27
    assert microseconds_of(rfc3339(moment)) == moment


def test_a_wall_clock_that_went_back_never_makes_a_duration_negative() -> None:
    """Durations are monotonic, and never below zero."""
    hand = HandClock()
    found = Records(clock=hand.clock).intent(head(began=101.0), PRINCIPAL, call(), GRANT)
    assert found.duration_us == 0


def test_the_schema_is_a_schema_and_closed() -> None:
    """The generated document is valid JSON Schema, and refuses a field that a type does not have."""
    Draft202012Validator.check_schema(schema.document())
    record = {**Records().event(RecordType.SERVER_STOP, version="1"), "index": 0, "origin": "server"}
    VALIDATOR.validate(record)
    with pytest.raises(ValidationError):
        VALIDATOR.validate({**record, "tenant": "x"})
    with pytest.raises(ValidationError):
        VALIDATOR.validate({name: value for name, value in record.items() if name != "time"})


@pytest.mark.parametrize(("form", "file"), [("json", "audit-records.json"), ("page", "audit-records.md")])
def test_the_reference_is_up_to_date(form: str, file: str) -> None:
    """The reference in docs/ is what `python -m vestry.audit.schema` prints today."""
    printed = forks.run(["-m", "vestry.audit.schema", form], env=os.environ)
    assert printed.returncode == 0, printed.stderr
    assert (ROOT / "docs/reference" / file).read_text() == printed.stdout, (
        f"the table of fields has changed: run `python -m vestry.audit.schema {form} > docs/reference/{file}`"
    )


def test_every_type_is_documented() -> None:
    """docs/audit.md names every type of record, and no type that there is not."""
    page = (ROOT / "docs/audit.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z.-]+)` \|", page, re.MULTILINE))
    assert named == set(RecordType)


def test_the_table_is_sound() -> None:
    """Every field belongs to a type, no name comes twice, and every type has the fields that give it its place."""
    names = [field.name for field in FIELDS]
    assert len(names) == len(set(names))
    assert all(field.always | field.maybe for field in FIELDS)
    for kind in RecordType:
        assert {"schema", "index", "origin", "type", "time"} <= fields.required(kind) <= fields.allowed(kind)
