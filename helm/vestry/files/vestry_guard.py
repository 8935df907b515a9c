"""What an engine answers, and to whom: ASGI middleware that vLLM loads into its own server.

vLLM asks for its key under some prefixes only, and serves many routes beside those that Vestry uses. This
stands in front of all of them: the routes below and nothing else, `/health` and `/metrics` to anybody who
reaches the engine's private address, the rest only with the key (`VLLM_API_KEY`). Without a key in the
environment it answers nothing at all.

It runs in the engine's environment and imports nothing of vestry.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = frozenset({("GET", "/health"), ("GET", "/metrics")})
GUARDED = frozenset(
    {
        ("GET", "/version"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
    }
)
ANSWERS = {
    401: b'{"error":{"message":"The engine wants its key.","type":"authentication_error","param":null,"code":null}}',
    404: b'{"error":{"message":"There is nothing here.","type":"invalid_request_error","param":null,"code":null}}',
}


class Guard:
    """ASGI middleware (https://asgi.readthedocs.io/en/latest/specs/www.html). Fails closed."""

    def __init__(self, app: Application):
        self.app = app
        key = os.environ.get("VLLM_API_KEY", "")
        self.expected = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif status := self.refusal(scope):
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": ANSWERS[status]})
        else:
            await self.app(scope, receive, send)

    def refusal(self, scope: Message) -> int | None:
        """The status to refuse with; None lets the request through."""
        route = (scope["method"], scope["path"])
        if route in OPEN:
            return None
        if self.expected is None:
            return 401
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self.expected):
            return 401
        return None if route in GUARDED else 404
