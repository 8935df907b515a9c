"""The OpenAPI 3.1 document of the administration, made from the table of routes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from vestry import __version__
from vestry.edge.administration.table import ROOT, Parameter, Row
from vestry.errors import (
    AuditUnavailable,
    BodyTooLarge,
    ConcurrencyLimited,
    HeadersTooLarge,
    InternalError,
    InvalidKey,
    InvalidRequest,
    KeysUnavailable,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PermissionDenied,
    RateLimited,
    Refusal,
    RequestTimeout,
    Stopping,
    UnsupportedField,
    UnsupportedMedia,
)
from vestry.settings.section import Section

REF = "#/components/schemas/{model}"
EVERY: tuple[type[Refusal], ...] = (
    InvalidRequest, UnsupportedField, MalformedRequest, InvalidKey, PermissionDenied, RateLimited, ConcurrencyLimited,
    HeadersTooLarge, InternalError, Overloaded, Stopping, AuditUnavailable, KeysUnavailable,
)  # fmt: skip
"""What every route may refuse with."""
WITH_BODY: tuple[type[Refusal], ...] = (RequestTimeout, BodyTooLarge, UnsupportedMedia)
ABOUT = """\
Tenants, projects, users, keys, policy, break-glass, the state of the server, and its records. Every change is a record
of the audit log before it is done; every reading is one before it is shown. Errors are OpenAI's error object. Lists
come in pages: `after` takes `next` of the page before. A change names the version that it is for in `If-Match`; what
is already as it shall be is left alone, and answered with 200.\
"""
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
HEADERS: dict[str, Any] = {
    "request-id": {"description": "This server's id of the request.", "schema": {"type": "string"}},
    "etag": {"description": "The version, for `If-Match`.", "schema": {"type": "string", "pattern": '^"[0-9]+"$'}},
    "location": {"description": "Where it is from now on.", "schema": {"type": "string"}},
    "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
    "allow": {"description": "The methods that the path has.", "schema": {"type": "string"}},
    "www-authenticate": {"description": "How to show a credential.", "schema": {"type": "string"}},
}
_REQUEST_ID = {"x-request-id": {"$ref": "#/components/headers/request-id"}}


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The document of these routes."""
    forms = {form for row in rows for form in (row.answer, row.body) if form is not None}
    _, made = models_json_schema(
        [(form, "validation") for form in sorted(forms, key=lambda each: each.__name__)], ref_template=REF
    )
    paths: dict[str, Any] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row)
    for path, operations in paths.items():
        operations["parameters"] = [_in_path(name) for name in _parts(path)]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vestry administration", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(_tag(row) for row in rows)],
        "security": [{"credential": []}],
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR, **made["$defs"]},
            "headers": HEADERS,
            "securitySchemes": {
                "credential": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key or a token; a client certificate does as well, where it is set up.",
                }
            },
        },
    }


def _tag(row: Row) -> str:
    return row.name.split(".")[1]


def _parts(path: str) -> list[str]:
    return [each[1:-1] for each in path.removeprefix(ROOT).split("/") if each.startswith("{")]


def _in_path(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    }


def _operation(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": row.name,
        "summary": row.summary,
        "description": f"Needs the permission `{row.permission.value}`.",
        "tags": [_tag(row)],
        "responses": _responses(row),
    }
    parameters = [*map(_in_query, row.query), *_in_headers(row)]
    if parameters:
        found["parameters"] = parameters
    if row.body is not None:
        content: dict[str, Any] = {"schema": _ref(row.body)}
        if row.example:
            content["example"] = dict(row.example)
        found["requestBody"] = {"required": not row.bodiless, "content": {"application/json": content}}
    return found


def _in_query(each: Parameter) -> dict[str, Any]:
    schema = {"type": "array", "items": each.form, "maxItems": 64} if each.repeated else each.form
    return {"name": each.name, "in": "query", "description": each.meaning, "schema": schema}


def _in_headers(row: Row) -> Iterable[dict[str, Any]]:
    text = {"type": "string", "maxLength": 256}
    if row.matched:
        said = "The `ETag` of what is changed, or `*`."
        yield {"name": "If-Match", "in": "header", "description": said, "schema": text, "example": '"1"'}
    if row.matched and row.method == "PUT":
        said = "`*`: only if it is new."
        yield {"name": "If-None-Match", "in": "header", "description": said, "schema": {"const": "*"}}
    if row.tokened:
        said = "Asked again with the same one, what was made then is shown, without its text."
        schema = {"type": "string", "minLength": 1, "maxLength": 128}
        yield {"name": "Idempotency-Key", "in": "header", "description": said, "schema": schema}


def _responses(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in row.statuses:
        headers = dict(_REQUEST_ID)
        if row.versioned:
            headers["ETag"] = {"$ref": "#/components/headers/etag"}
        if status == 201 and row.method == "POST":
            headers["Location"] = {"$ref": "#/components/headers/location"}
        answer: dict[str, Any] = {"description": row.summary, "headers": headers}
        if row.answer is not None:
            answer["content"] = {"application/json": {"schema": _ref(row.answer)}}
        found[str(status)] = answer
    by_status: dict[int, list[type[Refusal]]] = {}
    for each in refusals(row):
        by_status.setdefault(each.status, []).append(each)
    found.update({str(status): _refused(kinds) for status, kinds in sorted(by_status.items())})
    return found


def refusals(row: Row) -> tuple[type[Refusal], ...]:
    """Every refusal that a route may answer with."""
    body = WITH_BODY if row.body is not None else ()
    place = (NotFound,) if "{" in row.path else ()
    return (*EVERY, *body, *place, *row.refusals)


def _refused(kinds: list[type[Refusal]]) -> dict[str, Any]:
    made = [MethodNotAllowed("GET") if kind is MethodNotAllowed else kind() for kind in kinds]
    headers = dict(_REQUEST_ID)
    if kinds[0].status in {429, 503}:
        headers["Retry-After"] = {"$ref": "#/components/headers/retry-after"}
    if kinds[0].status == 401:
        headers["WWW-Authenticate"] = {"$ref": "#/components/headers/www-authenticate"}
    examples = {
        kind.__name__: {
            "summary": inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " "),
            "value": {"error": {"message": each.reason, "type": each.kind, "param": None, "code": each.code}},
        }
        for kind, each in zip(kinds, made, strict=True)
    }
    codes = ", ".join(f"`{code}`" for code in dict.fromkeys(kind.code for kind in kinds))
    return {
        "description": codes,
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "examples": examples}},
    }


def _ref(form: type[Section]) -> dict[str, str]:
    return {"$ref": REF.format(model=form.__name__)}
