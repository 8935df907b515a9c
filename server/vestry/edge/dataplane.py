"""The data plane: OpenAI's routes, as pure ASGI, inside the FastAPI application.

A new endpoint is one row in `ROUTES`. What is not in the table is refused, counted and recorded like any refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from vestry.authorize import may_use
from vestry.edge.arrival import Arrival, Rules
from vestry.edge.bodies import Parser, parse_chat, parse_completion
from vestry.errors import MethodNotAllowed, ModelNotFound, NotFound, Refusal
from vestry.pipeline import Corridor
from vestry.settings import Tenant
from vestry.types import Operation, Principal, ServedModel

MODEL_PATH = re.compile(r"^/v1/models/((?:[A-Za-z0-9._~:/@-]|%2[Ff]){1,256})$")


class Route(Struct, frozen=True):
    """One row of the route table. `parser` is None where a route has no body."""

    method: str
    name: str
    operation: Operation
    parser: Parser | None = None


ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Route("POST", "chat.completions", Operation.CHAT, parse_chat),
    "/v1/completions": Route("POST", "completions", Operation.TEXT_COMPLETION, parse_completion),
    "/v1/models": Route("GET", "models", Operation.MODELS),
}
ONE_MODEL = Route("GET", "model", Operation.MODELS)
NO_ROUTE = Route("", "none", Operation.NONE)


class DataPlane:
    """An ASGI application for HTTP: the routes of the table, and 404 or 405 for the rest."""

    def __init__(self, *, corridor: Corridor, rules: Rules) -> None:
        self._corridor = corridor
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["raw_path"].decode("ascii")
        route = ROUTES.get(path) or (ONE_MODEL if MODEL_PATH.match(path) else None)
        if route is None:
            await self._turn_away(scope, receive, send, NO_ROUTE, NotFound())
        elif scope["method"] != route.method:
            await self._turn_away(scope, receive, send, route, MethodNotAllowed(route.method))
        elif route.parser is not None:
            await self._corridor.walk(self._arrival(scope, receive, send, route))
        else:
            answer = self._list if route is not ONE_MODEL else self._describe(unquote(path.removeprefix("/v1/models/")))
            await self._corridor.look(self._arrival(scope, receive, send, route), answer)

    def _arrival(self, scope: Scope, receive: Receive, send: Send, route: Route) -> Arrival:
        return Arrival(
            self._rules, scope, receive, send, route=route.name, operation=route.operation, parser=route.parser
        )

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send, route: Route, refusal: Refusal) -> None:
        """Refuse what no route takes; like every refusal it is counted and recorded."""
        await self._corridor.turn_away(self._arrival(scope, receive, send, route), refusal)

    def _list(self, principal: Principal, tenant: Tenant) -> bytes:
        models = [_entry(model) for model in self._corridor.models.values() if may_use(principal, tenant, model.name)]
        return msgspec.json.encode({"object": "list", "data": models})

    def _describe(self, name: str) -> Callable[[Principal, Tenant], bytes]:
        def answer(principal: Principal, tenant: Tenant) -> bytes:
            model = self._corridor.models.get(name)
            if model is None or not may_use(principal, tenant, model.name):
                raise ModelNotFound(param="model")
            return msgspec.json.encode(_entry(model))

        return answer


def _entry(model: ServedModel) -> dict[str, object]:
    """OpenAI's model object."""
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "vestry"}
