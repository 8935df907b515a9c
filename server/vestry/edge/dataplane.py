"""The data plane: OpenAI's routes, as pure ASGI, inside the FastAPI application.

A new endpoint is one row in `ROUTES`. What is not in the table is refused, counted and recorded like any refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from vestry.authorize import may_use
from vestry.edge.arrival import Arrival, Route, Rules
from vestry.edge.bodies import parse_chat, parse_completion
from vestry.errors import MethodNotAllowed, ModelNotFound, NoRoute
from vestry.house import House
from vestry.pipeline import Corridor
from vestry.types import Operation, Principal, ServedModel

MODEL_PATH = re.compile(r"^/v1/models/((?:[A-Za-z0-9._~:/@-]|%2[Ff]){1,256})$")


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

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:  # noqa: ARG002
        """Answer one request. What is sent goes through the door (`Cycle`), without a message for each piece."""
        path = scope["raw_path"].decode("ascii")
        route = ROUTES.get(path) or (ONE_MODEL if MODEL_PATH.match(path) else NO_ROUTE)
        visitor = Arrival(self._rules, scope, receive, route)
        if route is NO_ROUTE:
            return self._corridor.turn_away(visitor, NoRoute())
        if scope["method"] != route.method:
            return self._corridor.turn_away(visitor, MethodNotAllowed(route.method))
        if route.parser is not None:
            return self._corridor.walk(visitor)
        answer = self._list if route is not ONE_MODEL else self._describe(unquote(path.removeprefix("/v1/models/")))
        return self._corridor.look(visitor, answer)

    def _list(self, principal: Principal, house: House) -> bytes:
        models = [_entry(model) for model in self._corridor.models.values() if may_use(principal, house, model.name)]
        return msgspec.json.encode({"object": "list", "data": models})

    def _describe(self, name: str) -> Callable[[Principal, House], bytes]:
        def answer(principal: Principal, house: House) -> bytes:
            allowed = may_use(principal, house, name)  # first: a name that is not served takes as long as another's
            model = self._corridor.models.get(name)
            if model is None or not allowed:
                raise ModelNotFound(param="model")
            return msgspec.json.encode(_entry(model))

        return answer


def _entry(model: ServedModel) -> dict[str, object]:
    """OpenAI's model object."""
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "vestry"}
