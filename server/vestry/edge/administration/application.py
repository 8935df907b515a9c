"""The FastAPI application of the administration: one route a row, and one answer to what no row takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from vestry.edge.administration.desk import Desk
from vestry.edge.administration.table import Row
from vestry.errors import MethodNotAllowed, NotFound


def build(desk: Desk, rows: Sequence[Row]) -> ASGIApp:
    """The application. Paths are matched as they stand in the request, before anything in them is decoded."""
    app = FastAPI(
        title="Vestry administration", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for row in rows:
        app.add_api_route(row.path, _endpoint(desk, row), methods=methods(row), name=row.name, response_model=None)

    async def elsewhere(request: Request, _fault: Exception) -> Response:
        allowed = allow(rows, request.scope["path"])
        return await desk.turn_away(request, MethodNotAllowed(allowed) if allowed else NotFound())

    app.add_exception_handler(HTTPException, elsewhere)

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        await app(scope, receive, send)

    return raw


def methods(row: Row) -> list[str]:
    """What a route is asked with: `HEAD` is `GET` without the body (RFC 9110, section 9.3.2)."""
    return ["GET", "HEAD"] if row.method == "GET" else [row.method]


def allow(rows: Iterable[Row], path: str) -> str:
    """The methods that a path has, as `Allow` lists them; empty for a path that is not there."""
    found = {method for row in rows if compile_path(row.path)[0].match(path) for method in methods(row)}
    return ", ".join(sorted(found))


def _endpoint(desk: Desk, row: Row) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await desk.serve(request, row)

    return endpoint
