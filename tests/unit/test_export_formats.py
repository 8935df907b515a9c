"""The formats of the export: OCSF that the real schema accepts, CEF and syslog that no text breaks."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.audit import HandClock
from fakes.calls import GRANT, PRINCIPAL, call, head
from support.receivers import Message, frames
from vestry.audit import fields
from vestry.audit.canonical import leaf, placed
from vestry.audit.export import cef, formats, ocsf, syslog
from vestry.audit.fields import FIELDS, RecordType
from vestry.audit.records import Records
from vestry.audit.scan import LogDamaged
from vestry.errors import InvalidRequest
from vestry.seams import Record
from vestry.syslog import framed
from vestry.types import Ending, Operation, Outcome, Usage

SCHEMA = json.loads((Path(__file__).parents[1] / "ocsf" / "schema.json").read_text("utf-8"))
VALIDATORS = {
    int(uid): jsonschema.Draft202012Validator({**shape, "$defs": SCHEMA["objects"]})
    for uid, shape in SCHEMA["classes"].items()
}
TEXT = st.text(max_size=300)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A machine that does much else is no fault of what is tested."""


def bytes_of(record: Record) -> bytes:
    return leaf(placed(record, 7, "server"))


def valid(event: dict[str, Any]) -> dict[str, Any]:
    """The event, which the real schema of its class accepts."""
    VALIDATORS[event["class_uid"]].validate(event)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["metadata"]["version"] == SCHEMA["version"] == ocsf.VERSION
    return event


def mapped(record: Record) -> dict[str, Any]:
    return valid(json.loads(formats.as_ocsf(bytes_of(record))))


def value_of(form: dict[str, Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - a form each
    """Values that fit a field's form in the table."""
    if "const" in form or "enum" in form:
        return st.sampled_from([str(each) for each in form["enum"]] if "enum" in form else [form["const"]])
    if "anyOf" in form:
        return st.one_of(*map(value_of, form["anyOf"]))
    if "pattern" in form:
        return st.just("f" * 64 if "f]" in form["pattern"] else "2026-01-31T23:59:59.000001Z")
    match form["type"]:
        case "integer":
            return st.integers(form["minimum"], form["maximum"])
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(value_of(form["items"]), max_size=min(3, form["maxItems"]))
        case "object":
            required = {name: value_of(each) for name, each in form.get("properties", {}).items()}
            return st.fixed_dictionaries(required)
    alphabet = st.characters(codec="utf-8")
    return st.text(alphabet, min_size=form["minLength"], max_size=min(60, form["maxLength"]))


def records_of(kind: RecordType) -> st.SearchStrategy[dict[str, Any]]:
    """Anything that the table lets a record of this type hold."""
    needed = {each.name: value_of(each.form) for each in FIELDS if kind in each.always}
    more = {each.name: value_of(each.form) for each in FIELDS if kind in each.maybe}
    return st.fixed_dictionaries({**needed, "type": st.just(kind.value)}, optional=more)


@pytest.mark.parametrize("kind", list(RecordType))
def test_every_type_of_record_maps_to_ocsf(kind: RecordType) -> None:
    """Whatever the table allows in a record, the OCSF event of it is valid by the real schema."""

    @unhurried
    @given(records_of(kind))
    def check(record: dict[str, Any]) -> None:
        raw = bytes_of(record)
        event = valid(json.loads(formats.as_ocsf(raw)))
        assert event["raw_data_hash"]["value"] == hashlib.sha256(raw).hexdigest()
        assert event["metadata"]["uid"] == "server#7"

    check()


@pytest.mark.parametrize("kind", list(RecordType))
def test_nothing_is_lost_in_ocsf(kind: RecordType) -> None:
    """Every text and number that a record of any type can hold stands somewhere in its event."""
    record: dict[str, Any] = {"type": kind.value, "time": "2026-01-31T23:59:59.000001Z", "schema": 1}
    for number, field in enumerate(FIELDS):
        if kind in field.always | field.maybe and field.name not in {*record, "index", "origin"}:
            if field.form.get("type") == "integer":
                record[field.name] = 77_000_000 + number
            elif field.form.get("type") == "string" and "pattern" not in field.form:
                record[field.name] = f"<{field.name}>"
    said = json.dumps(mapped(record))
    lost = {name for name, value in record.items() if name != "schema" and json.dumps(value) not in said}
    assert lost == set()


@unhurried
@given(TEXT, TEXT, st.sampled_from(list(Operation)), st.sampled_from(list(Ending)), st.integers(0, 599))
def test_what_the_builders_make_maps(text: str, short: str, operation: Operation, ending: Ending, status: int) -> None:
    """Calls with whatever a stranger sends become valid events."""
    records = Records()
    asked = head(
        route=short, method=short, source=short, user_agent=text, client_request_id=text, traceparent=text,
        operation=operation,
    )  # fmt: skip
    mapped(records.intent(asked, PRINCIPAL, call(model=text, end_user=text), GRANT))
    mapped(records.refusal(asked, None, call(model=text), InvalidRequest(text)))
    done = Outcome(ending, status, code=short, usage=Usage(1, 2), finish_reasons=(text,), replica=short)
    mapped(records.outcome(asked, PRINCIPAL, call(), GRANT, done))


def test_a_call_as_api_activity() -> None:
    """An outcome says who, what, which model with which tokens, and how it went, where OCSF has places for it."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    asked = head("req-1", traceparent=trace, source="2001:db8::1")
    done = Outcome(Ending.TRUNCATED, 200, code="engine_died", usage=Usage(12, 5), attempts=1)
    intent = mapped(Records().intent(asked, PRINCIPAL, call(), GRANT))
    assert (intent["class_uid"], intent["status"], intent["trace"]["uid"]) == (6003, "Allowed", trace[3:35])
    assert intent["metadata"]["profiles"] == ["ai_operation", "trace"]
    assert intent["src_endpoint"] == {"ip": "2001:db8::1"}
    assert intent["ai_model"]["version"] == "r1"
    event = mapped(Records().outcome(asked, PRINCIPAL, call(), GRANT, done))
    assert (event["status_id"], event["status_code"], event["status_detail"]) == (2, "200", "engine_died")
    assert event["actor"]["user"]["name"] == "alice"
    assert event["actor"]["user"]["programmatic_credentials"][0]["uid"] == "k0123456789"
    assert event["metadata"]["tenant_uid"] == "default"
    assert event["metadata"]["correlation_uid"] == event["api"]["request"]["uid"] == "req-1"
    context = event["message_context"]
    assert (context["prompt_tokens"], context["completion_tokens"], context["total_tokens"]) == (12, 5, 17)
    assert event["unmapped"]["ending"] == "truncated"


def event_of(kind: RecordType, **details: Any) -> dict[str, Any]:
    return mapped(Records(clock=HandClock().clock).event(kind, **details))


def test_what_is_no_call() -> None:
    """Keys, the server's life and the log's own events have their classes."""
    who = {"tenant": "default", "subject": "alice", "key_id": "k1", "actor": "root"}
    created, revoked = event_of(RecordType.KEY_CREATE, **who), event_of(RecordType.KEY_REVOKE, **who, reason="lost")
    assert [(each["class_uid"], each["activity_name"]) for each in (created, revoked)] == [
        (3004, "Create"),
        (3004, "Delete"),
    ]
    assert (revoked["comment"], revoked["actor"]["user"]["name"], revoked["entity"]["uid"]) == ("lost", "root", "k1")
    started = event_of(RecordType.SERVER_START, version="1.2", origins=["server"])
    assert (started["class_uid"], started["activity_id"], started["app"]["version"]) == (6002, 3, "1.2")
    read = event_of(RecordType.LOG_READ, actor="root", command="audit export --format cef", filter="all", records=3)
    assert (read["class_uid"], read["activity_name"], read["log_name"]) == (1008, "Export", "server")


@pytest.mark.parametrize("kind", ["log.prune", "log.hold", "content.erase", "server.what", "key.other", "new"])
def test_types_to_come_are_exported_as_well(kind: str) -> None:
    """A type that this version does not know becomes a valid event with all that it holds."""
    event = mapped({"schema": 1, "type": kind, "time": "2026-01-31T23:59:59.000001Z", "subject_digest": {"a": [1]}})
    assert event["metadata"]["event_code"] == kind
    assert event["unmapped"]["subject_digest"] == {"a": [1]}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"1", b"{}", b"\xff", b'{"index":"1"}',
        b'{"index":1,"origin":"x","type":"intent","time":"2026-13-01T00:00:00.000000Z"}',
        b'{"index":1,"origin":[],"type":"intent","time":"2026-01-01T00:00:00.000000Z"}',
        b'{"index":1,"origin":"x","type":"intent","time":5}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", list(formats.FORMATS))
def test_what_is_no_record_is_said(line: bytes, form: str) -> None:
    """Damage becomes a sentence, never a crash and never an event."""
    with pytest.raises(LogDamaged, match="damaged"):
        formats.FORMATS[form](line)


@unhurried
@given(st.dictionaries(st.sampled_from([each.name for each in FIELDS]), st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), TEXT, st.lists(TEXT, max_size=2),
    st.dictionaries(st.text("ab", max_size=3), TEXT, max_size=2),
)))  # fmt: skip
def test_values_of_strange_types_do_not_break_an_export(record: dict[str, Any]) -> None:
    """A copy of a log may hold anything in its fields: what has the wrong type stays in `unmapped`."""
    raw = json.dumps(
        {**record, "index": 1, "origin": "x", "time": "2026-01-01T00:00:00.000000Z", "type": "outcome"},
        ensure_ascii=False,
    ).encode("utf-8", "surrogatepass")
    try:
        event = json.loads(formats.as_ocsf(raw))
    except LogDamaged:
        return
    valid(event)
    parse_cef(formats.as_cef(raw).decode())


# CEF


def parse_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """Header and extension of a CEF line, as a strict reader takes them apart."""
    assert line.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    head = re.fullmatch(r"((?:[^|\\]|\\[|\\])*)" + r"\|((?:[^|\\]|\\[|\\])*)" * 6 + r"\|(.*)", line)
    assert head is not None, line
    *header, extension = head.groups()
    assert header[0] == "CEF:0"
    found: dict[str, str] = {}
    parts = re.split(r"(?:^| )([A-Za-z0-9]+)=", extension)
    assert parts[0] == ""
    for key, value in zip(parts[1::2], parts[2::2], strict=True):
        assert re.fullmatch(r"(?:[^=\\]|\\[=\\rn])*", value), (key, value)
        assert key not in found
        found[key] = re.sub(r"\\(.)", lambda each: {"n": "\n", "r": "\r"}.get(each[1], each[1]), value)
    return [re.sub(r"\\(.)", r"\1", each) for each in header], found


@unhurried
@given(st.text(max_size=200))
def test_no_text_leaves_its_field(text: str) -> None:
    """A hostile text stays one value: no second line, no second field, no other header."""
    raw = bytes_of(
        {
            "schema": 1, "type": "refusal", "time": "2026-01-31T23:59:59.000001Z", "reason": text, "user_agent": text,
            "tenant": text, "subject": text, "route": text, "code": text,
        }
    )  # fmt: skip
    header, extension = parse_cef(cef.line(raw))
    assert header[4:] == ["refusal", "call refused", "4"]
    plain = re.sub(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
    if "=" not in text:
        assert extension.get("msg") == plain
        assert extension.get("suser", "") == plain
    assert extension["externalId"] == "7"


@unhurried
@given(st.text(max_size=100))
def test_escapes_of_cef(text: str) -> None:
    """What is escaped reads back, but for control characters, which become spaces."""
    plain = re.sub(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
    assert re.sub(r"\\(.)", lambda e: {"n": "\n", "r": "\r"}.get(e[1], e[1]), cef.in_extension(text)) == plain
    assert re.sub(r"\\(.)", r"\1", cef.in_header(text)) == re.sub(r"[\r\n]", " ", plain)


def test_a_hostile_text_in_cef() -> None:
    """The worst in one text, spelt out."""
    assert cef.in_extension("a=b\\c\nd|e\x1b") == "a\\=b\\\\c\\nd|e "
    assert cef.in_header("a=b\\c\nd|e\x1b") == "a=b\\\\c d\\|e "


@pytest.mark.parametrize(("source", "key"), [("10.1.2.3", "src"), ("2001:db8::1", "c6a2"), ("nonsense", "rt")])
def test_addresses_in_cef(source: str, key: str) -> None:
    """IPv4 is `src`, IPv6 has the field that CEF keeps for it, and what is no address is neither."""
    _, extension = parse_cef(cef.line(bytes_of(Records().intent(head(source=source), PRINCIPAL, call(), GRANT))))
    assert key in extension
    assert ("src" in extension) == (key == "src")


# Syslog


@unhurried
@given(st.text(max_size=200), st.text(max_size=300), st.sampled_from([each.value for each in RecordType]))
def test_messages_of_rfc_5424(text: str, host: str, kind: str) -> None:
    """Any text and any host name make one message that a strict reader takes, and reads back."""
    raw = bytes_of({"schema": 1, "type": kind, "time": "2026-01-31T23:59:59.000001Z", "reason": text})
    message = syslog.message(raw, raw, host)
    found, rest = frames(framed([message, message]))
    assert (found, rest) == ([message, message], b"")
    assert Message(message).text.encode() == raw
    assert Message(message).kind == kind


def test_what_is_worth_a_warning() -> None:
    """A call that failed is a warning, one that ended well is not."""
    for ending, severity in ((Ending.COMPLETE, 6), (Ending.FAILED, 4)):
        raw = bytes_of(Records().outcome(head(), PRINCIPAL, call(), GRANT, Outcome(ending, 200)))
        assert Message(syslog.message(raw, raw, "h")).severity == severity


def test_the_schema_is_the_real_one() -> None:
    """The derived schema has the profile and refuses what OCSF does not have; every class of the export is in it."""
    assert set(VALIDATORS) == {6003, 6002, 3004, 1008, 0}
    assert "ai_model" in SCHEMA["classes"]["6003"]["properties"]
    assert "Apache License 2.0" in SCHEMA["notice"]
    event = mapped(Records().intent(head(), PRINCIPAL, call(), GRANT))
    for broken in (
        {**event, "vendor_field": 1},
        {**event, "severity_id": 17},
        {**event, "actor": {}},
        {name: value for name, value in event.items() if name != "api"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            valid(broken)


def test_names_for_every_type() -> None:
    """Every type of record that there is has a name of its own in CEF."""
    assert {kind.value for kind in RecordType} <= cef._NAMES.keys()
    assert fields.SCHEMA == 1
