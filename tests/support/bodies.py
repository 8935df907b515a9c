"""Bodies that tests send."""

from __future__ import annotations

from typing import Any


def tool(parameters: Any) -> dict[str, Any]:
    """The field `tools` with one tool."""
    return {"tools": [{"type": "function", "function": {"name": "look_up", "parameters": parameters}}]}


def structure(schema: Any) -> dict[str, Any]:
    """The field `response_format` with a JSON schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def deep_schema(levels: int) -> dict[str, Any]:
    """A schema of objects in objects."""
    found: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        found = {"type": "object", "properties": {"a": found}}
    return found
