"""The operations port: `/livez`, `/readyz` and `/metrics`, and nothing else. It is never the API's port."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException

from vestry.errors import InternalError, MethodNotAllowed, NotFound, Refusal
from vestry.meter.calls import Meter

Readiness = Callable[[], dict[str, str]]


def build_ops(meter: Meter, readiness: Readiness) -> FastAPI:
    """The application. `readiness` gives a reason for each part that is not ready; empty is ready."""
    registry = CollectorRegistry()
    registry.register(meter)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    app = FastAPI(title="Vestry operations", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        missing = readiness()
        status = 503 if missing else 200
        return JSONResponse({"status": "not ready" if missing else "ready", "missing": missing}, status)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except Exception:  # noqa: BLE001 - prometheus_client's own, of whatever kind, where a version is no number
            encode, content_type = choose_encoder("")
        return Response(encode(registry), media_type=content_type)

    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _refuse)
    return app


async def _refuse(_: Request, fault: Exception) -> Response:
    """Errors in the one shape that this server has."""
    refusal: Refusal = InternalError()
    if isinstance(fault, HTTPException):
        refusal = MethodNotAllowed("GET") if fault.status_code == 405 else NotFound()
    headers = {name.decode(): value.decode() for name, value in refusal.headers()}
    return Response(refusal.body(), refusal.status, headers, media_type="application/json")
