"""The operations port: `/livez`, `/readyz` and `/metrics`, and nothing else. It is never the API's port."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from copy import copy

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric, Sample
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from vestry.errors import InternalError, MethodNotAllowed, NotFound, Refusal
from vestry.meter.calls import Meter

Readiness = Callable[[], dict[str, str]]
AT_ONCE = 1000
"""Samples that are written in one piece: some milliseconds, in which nobody is served."""
HEAD = re.compile(rb"\A(?:# [^\n]*\n)+")
"""What stands before the samples of a family: once, however many parts it has."""
EOF = b"# EOF\n"
"""The last line of OpenMetrics."""


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
        return Response(await _page(registry, encode), media_type=content_type)

    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _refuse)
    return app


class _Part(Collector):
    """Some of the samples of a family, as an encoder takes them."""

    def __init__(self, family: Metric, samples: list[Sample]) -> None:
        self._family = copy(family)
        self._family.samples = samples

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


async def _page(registry: CollectorRegistry, encode: Callable[[Collector], bytes]) -> bytes:
    """All that is collected, with a turn for everybody else after so many samples: a large house has tens of thousands
    of them.
    """
    page: list[bytes] = []
    before, end, written = "", b"", 0
    for family in registry.collect():
        for begin in range(0, max(1, len(family.samples)), AT_ONCE):
            samples = family.samples[begin : begin + AT_ONCE]
            text = encode(_Part(family, samples))
            end = EOF if text.endswith(EOF) else b""
            text = text.removesuffix(end)
            page.append(HEAD.sub(b"", text) if family.name == before else text)
            before = family.name
            written += len(samples)
            if written >= AT_ONCE:
                written = 0
                await asyncio.sleep(0)
    return b"".join(page) + end


async def _refuse(_: Request, fault: Exception) -> Response:
    """Errors in the one shape that this server has."""
    refusal: Refusal = InternalError()
    if isinstance(fault, HTTPException):
        refusal = MethodNotAllowed("GET") if fault.status_code == 405 else NotFound()
    headers = {name.decode(): value.decode() for name, value in refusal.headers()}
    return Response(refusal.body(), refusal.status, headers, media_type="application/json")
