"""Every refusal that the server gives: status, type, code, headers, and whether the client should retry.

Nothing but a `Refusal` is raised to the edge. Messages never hold what the client sent; `param` names a
field. The shapes are OpenAI's error objects; `x-should-retry` is read by OpenAI's clients.
"""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault of the program
    """A call that ends here, with its answer."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "The server failed to answer. The fault has been logged under this request id."
    retry: ClassVar[bool | None] = None
    close: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, param: str | None = None, retry_after: float | None = None):
        super().__init__(message or self.message)
        self.param = param
        self.retry_after = retry_after

    @property
    def reason(self) -> str:
        return str(self)

    def body(self) -> bytes:
        """The JSON error object, as bytes."""
        return msgspec.json.encode(
            {"error": {"message": self.reason, "type": self.kind, "param": self.param, "code": self.code}}
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers beyond content type and length."""
        found: list[tuple[bytes, bytes]] = []
        if self.retry_after is not None:
            found.append((b"retry-after", str(max(1, math.ceil(self.retry_after))).encode()))
        if self.retry is not None:
            found.append((b"x-should-retry", b"true" if self.retry else b"false"))
        if self.close:
            found.append((b"connection", b"close"))
        return found


class InvalidRequest(Refusal):
    status, kind, code = 400, "invalid_request_error", "invalid_request"
    message = "The request is not valid."


class MalformedRequest(InvalidRequest):
    """The bytes are not a well-formed HTTP request (RFC 9112), or could be read in two ways."""

    code, close = "malformed_request", True
    message = "The HTTP request is malformed."


class UnsupportedField(InvalidRequest):
    code = "unsupported_parameter"
    message = "This field is not supported here."


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"
    message = "The prompt and the requested completion are longer than the model's context."


class InvalidKey(Refusal):
    status, kind, code = 401, "authentication_error", "invalid_api_key"
    message = "No valid API key was given. Send it as `Authorization: Bearer vst_...`."

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"www-authenticate", b"Bearer"), *super().headers()]


class Denied(Refusal):
    status, kind, code = 403, "permission_error", "permission_denied"
    message = "This key may not do that."


class NotFound(Refusal):
    status, kind, code = 404, "invalid_request_error", "not_found"
    message = "There is nothing here."


class ModelNotFound(Refusal):
    status, kind, code = 404, "invalid_request_error", "model_not_found"
    message = "The model does not exist, or this key may not use it."


class MethodNotAllowed(Refusal):
    status, kind, code = 405, "invalid_request_error", "method_not_allowed"
    message = "This method is not allowed here."

    def __init__(self, allow: str):
        super().__init__()
        self.allow = allow

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", self.allow.encode()), *super().headers()]


class RequestTimeout(Refusal):
    status, kind, code, retry, close = 408, "invalid_request_error", "request_timeout", False, True
    message = "The request did not arrive whole in time."


class BodyTooLarge(Refusal):
    status, kind, code, close = 413, "invalid_request_error", "request_too_large", True
    message = "The request body is larger than this server allows."


class UnsupportedMedia(Refusal):
    status, kind, code, close = 415, "invalid_request_error", "unsupported_media_type", True
    message = "Send the body as `application/json`, without a content encoding."


class RateLimited(Refusal):
    status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"
    message = "The request rate allowed for this key or tenant is used up."


class ConcurrencyLimited(RateLimited):
    message = "As many calls as this key or tenant may have at once are in progress."


class HeadersTooLarge(Refusal):
    status, kind, code, close = 431, "invalid_request_error", "request_header_fields_too_large", True
    message = "The request's headers are larger or more than this server allows."


class ClientLeft(Refusal):
    """Nobody is there to be answered; the status is for the record and the metrics only (nginx's 499)."""

    status, kind, code, close = 499, "client_error", "client_closed_request", True
    message = "The client closed the connection."


class InternalError(Refusal):
    retry = False


class EngineFailed(Refusal):
    """`cause` is connect, status, garbage, closed or timeout: what routing and metrics go by."""

    status, kind, code = 502, "server_error", "engine_error"
    message = "The model's engine failed to answer."

    def __init__(self, cause: str):
        super().__init__()
        self.cause = cause


class Overloaded(Refusal):
    status, kind, code = 503, "server_error", "overloaded"
    message = "The server has as many calls as it can take."


class NoReplica(Refusal):
    status, kind, code = 503, "server_error", "model_unavailable"
    message = "No engine of this model is available at the moment."


class AuditUnavailable(Refusal):
    status, kind, code, retry = 503, "server_error", "audit_unavailable", False
    message = "The call could not be recorded, so it was not served."


class KeysUnavailable(Refusal):
    status, kind, code = 503, "server_error", "authentication_unavailable"
    message = "Keys cannot be checked at the moment."


class EngineTimeout(EngineFailed):
    status, kind, code = 504, "server_error", "engine_timeout"
    message = "The model's engine did not answer in time."
