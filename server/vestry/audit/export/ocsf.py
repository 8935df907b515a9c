"""Records as OCSF events (Open Cybersecurity Schema Framework 1.8.0).

| record | class |
|---|---|
| a call (`intent`, `outcome`, `refusal`, `refusals.summary`, `intent.closed`) | API Activity (6003), profiles `ai_operation` and `trace` |
| `server.*` | Application Lifecycle (6002) |
| `key.*`, `tenant.*`, `project.*`, `user.*`, `policy.*`, `break-glass.*` | Entity Management (3004) |
| `log.*`, `segment.begin` | Event Log Activity (1008) |
| any other | Base Event (0) |

What has no place of its own in OCSF stands in `unmapped` under the record's own names. `metadata.uid` is the record's
origin and index, `raw_data_hash` the SHA-256 of its bytes: from an event one finds the record, and can prove it.
A record is what stands on a disk: nothing here trusts the types of its values.
"""  # noqa: E501

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from vestry.audit.records import microseconds_of
from vestry.audit.scan import LogDamaged

VERSION = "1.8.0"
PRODUCT = {"name": "Vestry", "vendor_name": "Vestry"}
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
Event = dict[str, Any]
INFORMATIONAL, LOW, MEDIUM = (1, "Informational"), (2, "Low"), (3, "Medium")
_CLASSES = {
    6003: ("API Activity", 6, "Application Activity"),
    6002: ("Application Lifecycle", 6, "Application Activity"),
    3004: ("Entity Management", 3, "Identity & Access Management"),
    1008: ("Event Log Activity", 1, "System Activity"),
    0: ("Base Event", 0, "Uncategorized"),
}
_STATUSES = {0: "Unknown", 1: "Success", 2: "Failure"}
_ENDINGS = {"complete": 1, "truncated": 2, "failed": 2, "refused": 2, "unknown": 0}


class Source:
    """A record, whose fields are taken out as they find a place; the rest is `unmapped`."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self._taken = {"schema", "time", "type", "index", "origin"}

    def text(self, name: str) -> str:
        """A text; empty where there is none."""
        value = self.record.get(name)
        if not isinstance(value, str):
            return ""
        self._taken.add(name)
        return value

    def number(self, name: str) -> int | None:
        """A whole number that is not negative; None where there is none."""
        value = self.record.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return None
        self._taken.add(name)
        return value

    def keep(self, *names: str) -> None:
        """These are to stand in `unmapped` as well."""
        self._taken.difference_update(names)

    def rest(self) -> Event:
        return {name: value for name, value in self.record.items() if name not in self._taken}


def event(leaf: bytes) -> Event:
    """A record as an OCSF event. Raises LogDamaged for what is no record."""
    record = decoded(leaf)
    kind = str(record["type"])
    source = Source(record)
    built = _BUILDERS.get(kind) or _FAMILIES.get(kind.partition(".")[0]) or _other
    made = built(source, kind)
    metadata: Event = {
        "version": VERSION,
        "product": PRODUCT,
        "uid": f"{record['origin']}#{record['index']}",
        "event_code": kind,
        "log_name": record["origin"],
        "log_provider": "vestry",
        "sequence": record["index"],
        "original_time": record["time"],
        **made.pop("metadata", {}),
    }
    return {
        "time": microseconds_of(record["time"]) // 1000,
        **made,
        "metadata": metadata,
        "raw_data_hash": {"algorithm_id": 3, "algorithm": "SHA-256", "value": hashlib.sha256(leaf).hexdigest()},
        **({"unmapped": rest} if (rest := source.rest()) else {}),
    }


def decoded(leaf: bytes) -> Event:
    """A record's fields, the ones that every record has made sure of. Raises LogDamaged."""
    try:
        record = msgspec.json.decode(leaf)
        at, origin, time, kind = (record[name] for name in ("index", "origin", "time", "type"))
        microseconds_of(time)
    except (ValueError, OverflowError, KeyError, TypeError, RecursionError) as error:
        raise LogDamaged(f"A record of the log is damaged: {error}.") from error
    if not (isinstance(at, int) and all(isinstance(each, str) for each in (origin, time, kind))):
        raise LogDamaged("A record of the log is damaged: a field that every record has is of another type.")
    return dict(record)


def _base(class_uid: int, activity: tuple[int, str], status: int | tuple[int, str], severity: tuple[int, str]) -> Event:
    name, category, category_name = _CLASSES[class_uid]
    activity_id, activity_name = activity
    status_id, status_name = status if isinstance(status, tuple) else (status, _STATUSES[status])
    return {
        "activity_id": activity_id,
        "activity_name": activity_name,
        "category_uid": category,
        "category_name": category_name,
        "class_uid": class_uid,
        "class_name": name,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": f"{name}: {activity_name}",
        "severity_id": severity[0],
        "severity": severity[1],
        "status_id": status_id,
        "status": status_name,
    }


# Calls.


def _call(source: Source, kind: str) -> Event:
    operation = source.text("operation") or "unknown"
    status, severity = _standing(source, kind)
    made = _base(6003, _activity(operation), status, severity)
    metadata: Event = {"profiles": ["ai_operation"]}
    _who(source, made, metadata)
    _http(source, made, metadata, operation)
    _model(source, made)
    _times(source, made)
    if found := TRACEPARENT.fullmatch(str(source.record.get("traceparent", ""))):
        made["trace"] = {"uid": found[1]}
        metadata["profiles"].append("trace")
    made["metadata"] = metadata
    return made


def _standing(source: Source, kind: str) -> tuple[int | tuple[int, str], tuple[int, str]]:
    """Status and severity of a call's record."""
    if kind == "intent":
        return (99, "Allowed"), INFORMATIONAL
    ending = source.text("ending")
    source.keep("ending")
    if kind == "refusals.summary":
        return 2, LOW
    status = _ENDINGS.get(ending)
    if status is None:
        return (99, ending.capitalize() or "Other"), LOW
    return status, INFORMATIONAL if status == 1 else LOW


def _activity(operation: str) -> tuple[int, str]:
    if operation == "models":
        return 2, "Read"
    if operation in {"none", "unknown"}:
        return 0, "Unknown"
    return 99, operation


def _who(source: Source, made: Event, metadata: Event) -> None:
    subject, key, tenant, role = (source.text(name) for name in ("subject", "key_id", "tenant", "role"))
    if subject or key:
        user: Event = {"type_id": _user_type(role), "type": role or "unknown"}
        user |= {"name": subject} if subject else {}
        user |= {"programmatic_credentials": [{"uid": key, "type": "API key"}]} if key else {}
        user |= {"org": {"name": tenant, "uid": tenant}} if tenant else {}
        user |= {} if subject else {"uid": key}
        made["actor"] = {"user": user}
    else:
        made["actor"] = {"app_name": "client without an accepted key"}
    if tenant:
        metadata["tenant_uid"] = tenant
    made["src_endpoint"] = _endpoint(source.text("source"))


def _user_type(roles: str) -> int:
    """OCSF's type of a user: Admin for whoever administers anything, User, Unknown or Other."""
    named = set(roles.split(","))
    if named & {"admin", "tenant-admin", "operator"}:
        return 2
    return 1 if named == {"user"} else 99 if roles else 0


def _endpoint(address: str) -> Event:
    try:
        return {"ip": str(ipaddress.ip_address(address))}
    except ValueError:
        return {"name": address or "not in this record"}


def _http(source: Source, made: Event, metadata: Event, operation: str) -> None:
    request_id, route, method = source.text("request_id"), source.text("route"), source.text("method")
    agent, client_id = source.text("user_agent"), source.text("client_request_id")
    status, code, reason = source.number("status"), source.text("code"), source.text("reason")
    api: Event = {"operation": operation, "service": {"name": "vestry"}}
    if request_id:
        api["request"] = {"uid": request_id}
        metadata["correlation_uid"] = request_id
    if status is not None:
        api["response"] = {"code": status}
        api["response"] |= {"error": code} if code else {}
        api["response"] |= {"error_message": reason} if reason else {}
        made["http_response"] = {"code": status}
        made["status_code"] = str(status)
    elif code or reason:
        source.keep("code", "reason")
    if detail := reason or code:
        made["status_detail"] = detail
    made["api"] = api
    request: Event = {"http_method": method} if method in METHODS else {}
    if method not in METHODS:
        source.keep("method")
    request |= {"url": {"path": route}} if route else {}
    request |= {"user_agent": agent} if agent else {}
    request |= {"uid": client_id} if client_id else {}
    if request:
        made["http_request"] = request


def _model(source: Source, made: Event) -> None:
    model, revision, weights = source.text("model"), source.text("revision"), source.text("weights_digest")
    if model:
        made["ai_model"] = {"name": model, "ai_provider": "Vestry"}
        made["ai_model"] |= {"version": revision} if revision else {}
        made["ai_model"] |= {"uid": weights} if weights else {}
    else:
        source.keep("revision", "weights_digest")
    prompt, completion = source.number("prompt_tokens"), source.number("completion_tokens")
    if prompt is not None and completion is not None:
        made["message_context"] = {
            "service": {"name": "vestry"},
            "ai_role_id": 2,
            "ai_role": "Assistant",
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
    else:
        source.keep("prompt_tokens", "completion_tokens")


def _times(source: Source, made: Event) -> None:
    began, duration = source.text("began"), source.number("duration_us")
    source.keep("duration_us")
    try:
        start = microseconds_of(began) // 1000
    except (ValueError, OverflowError):
        source.keep("began")
        return
    made["start_time"] = start
    made["end_time"] = microseconds_of(str(source.record["time"])) // 1000
    if duration is not None:
        made["duration"] = duration // 1000
    if (total := source.number("total")) is not None:
        made["count"] = total


# The rest.


def _server(source: Source, kind: str) -> Event:
    activity = {"server.start": (3, "Start"), "server.stop": (4, "Stop")}.get(kind, (99, kind))
    version = source.text("version")
    return {
        **_base(6002, activity, 1, INFORMATIONAL),
        "app": {**PRODUCT, **({"version": version} if version else {})},
    }


def _key(source: Source, kind: str) -> Event:
    activity = {"key.create": (1, "Create"), "key.revoke": (4, "Delete")}.get(kind, (99, kind))
    key, subject, tenant = source.text("key_id"), source.text("subject"), source.text("tenant")
    made = _base(3004, activity, 1, LOW)
    made["entity"] = {"name": key or "unknown", "type": "API key", **({"uid": key} if key else {})}
    if subject:
        made["entity"]["user"] = {"name": subject, **({"org": {"name": tenant, "uid": tenant}} if tenant else {})}
    _why(source, made, tenant)
    return made


_CHANGES = {"create": (1, "Create"), "update": (3, "Update"), "remove": (4, "Delete")}


def _change(source: Source, kind: str) -> Event:
    """A change to the directory, or a role that is given in an emergency."""
    family, _, what = kind.partition(".")
    change = source.text("change")
    severity = MEDIUM if family in {"policy", "break-glass"} else LOW
    made = _base(3004, _CHANGES.get(change, (99, change or what or kind)), 1, severity)
    name, tenant = source.text("name"), source.text("tenant")
    made["entity"] = {"name": name or "unknown", "type": family.replace("-", " ")}
    _why(source, made, tenant)
    return made


_LOG_ACTIVITIES = {
    "segment.begin": ((5, "Rotate"), INFORMATIONAL),
    "log.prune": ((2, "Delete"), MEDIUM),
    "log.trim": ((99, "Trim"), MEDIUM),
    "log.recovered": ((8, "Restart"), MEDIUM),
}


def _log(source: Source, kind: str) -> Event:
    activity, severity = _LOG_ACTIVITIES.get(kind, ((99, kind), INFORMATIONAL))
    if kind == "log.read":
        activity = (3, "Export") if "export" in str(source.record.get("command")) else (99, "Read")
    made = _base(1008, activity, 1, severity)
    made |= {"log_name": str(source.record["origin"]), "log_provider": "vestry"}
    if segment := source.text("segment"):
        made["file"] = {"name": segment, "type_id": 1, "type": "Regular File"}
    _actor(source, made)
    return made


def _other(_source: Source, kind: str) -> Event:
    made = _base(0, (99, kind), (99, "Recorded"), MEDIUM if kind == "clock.jump" else INFORMATIONAL)
    return {**made, "message": f"{kind} in the audit log of Vestry"}


def _why(source: Source, made: Event, tenant: str) -> None:
    """For which reason, by whom, and in which tenant something was changed."""
    if reason := source.text("reason"):
        made["comment"] = reason
    _actor(source, made)
    if tenant:
        made["metadata"] = {"tenant_uid": tenant}


def _actor(source: Source, made: Event) -> None:
    if actor := source.text("actor"):
        made["actor"] = {"user": {"name": actor, "type_id": 0, "type": "unknown"}}


Builder = Callable[[Source, str], Event]
_BUILDERS: dict[str, Builder] = dict.fromkeys(
    ("intent", "outcome", "refusal", "refusals.summary", "intent.closed"), _call
)
_FAMILIES: dict[str, Builder] = {"server": _server, "key": _key, "log": _log, "segment": _log}
_FAMILIES |= dict.fromkeys(("tenant", "project", "user", "policy", "break-glass"), _change)
