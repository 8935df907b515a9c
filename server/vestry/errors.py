"""Every refusal that the server gives: status, type, code, headers, and whether the client should retry.

Nothing but a `Refusal` is raised to the edge. Messages never hold what the client sent, but for the name of the
field at fault, `param`. The shapes are OpenAI's error objects; `x-should-retry` is read by OpenAI's clients.

`docs/reference/errors.md` is made from this file: the docstring of each class says in its first paragraph what
happened, and after `Mend:` what to do about it.
"""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

BUSY = "busy"
"""Why an engine that is well did not take a call: it has enough to do."""


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault of the program
    """A call that ends here, with its answer. `replica` and `attempts` are set if engines were asked: the last one,
    and how many; `tried` are those before it that may have worked on the call. `rule` names the rule of the policy that
    decided, for the record alone."""

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
        self.rule = ""
        self.replica = ""
        self.attempts = 0
        self.tried: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        return str(self)

    def body(self) -> bytes:
        """The JSON error object, as bytes. Its message names the field too, for many libraries show nothing else. The
        reason, which is recorded, does not: a field's name may be the client's own."""
        said, param = self.reason, self.param
        if param is not None and f"`{param}`" not in said:
            said = f"{said.removesuffix('.')} (`{param}`)."
        return msgspec.json.encode({"error": {"message": said, "type": self.kind, "param": param, "code": self.code}})

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
    """A field of the body, or several together, cannot be served: `param` names one, the message says why.

    Mend: Change what the message says. Sent again as it is, it is refused again.
    """

    status, kind, code = 400, "invalid_request_error", "invalid_request"
    message = "The request is not valid."


class MalformedRequest(InvalidRequest):
    """The bytes are no well-formed HTTP request (RFC 9112), can be read in two ways, or name a host not served here.

    Mend: Use an HTTP/1.1 client, and see what a proxy on the way makes of its requests and of `Host`.
    """

    code, close = "malformed_request", True
    message = "The HTTP request is malformed."


class UnsupportedField(InvalidRequest):
    """The body has a field that no client may set here, or asks with one for what this server cannot do.

    Mend: Leave out the field that `param` names. [Fields](fields.md) lists those that there are.
    """

    code = "unsupported_parameter"
    message = "This field is not supported here."


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the completion that is asked for, does not fit into the model's context.

    Mend: Shorten the messages, or ask for fewer tokens.
    """

    code = "context_length_exceeded"
    # OpenAI's first words: LiteLLM's fallbacks to a model with a longer context go by them, and not by the code.
    message = "This model's maximum context length is exceeded by the prompt, or by the completion asked for."


class InvalidKey(Refusal):
    """There is no key, token or certificate, or more than one, or it is not accepted: unknown, expired, revoked or
    frozen, used from a network that it is not for, or of a tenant, project or user that is gone or disabled.

    Mend: Send one, in one header. If it is the right one, ask the operator: `vestry keys identify` and
    `vestry policy explain` say which of the causes it was. The client is not told.
    """

    status, kind, code = 401, "authentication_error", "invalid_api_key"
    message = "No valid API key was given. Send it as `Authorization: Bearer vst_...`."

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"www-authenticate", b"Bearer"), *super().headers()]


class PermissionDenied(Refusal):
    """The caller is known, and may not do this: none of their roles allows it, their credential is for other routes, or
    the policy denies it or a parameter of it; or they would give what they may not do themselves.

    Mend: Ask an administrator. `vestry policy explain` says which rule decided, `docs/roles.md` which role may do what.
    """

    status, kind, code = 403, "permission_error", "permission_denied"
    message = "You may not do this."

    def __init__(self, message: str | None = None, *, param: str | None = None, rule: str = ""):
        super().__init__(message, param=param)
        self.rule = rule


class NotFound(Refusal):
    """There is nothing of this name that you may see, or no such route: in the administration, and at the operations'
    port.

    Mend: Look at the path, and at the name. Another tenant's things are not there.
    """

    status, kind, code = 404, "invalid_request_error", "not_found"
    message = "There is nothing here."


class NoRoute(NotFound):
    """No route of the API has this path.

    Mend: Look at the path, and at the client's base URL. If the client asks for `/v1/responses`,
    [Use the API](../use-the-api.md#other-libraries) says how it is told to use chat completions.
    """

    message = (
        "No route has this path: chat completions, completions and models are served here, and a client's base URL "
        "ends with `/v1`."
    )


class ModelNotFound(Refusal):
    """No model of this name is served, or not for this key: the answer is the same, so that nobody can tell which.

    Mend: Take a name that `GET /v1/models` lists for this key, or ask the operator.
    """

    status, kind, code = 404, "invalid_request_error", "model_not_found"
    message = "The model does not exist, or this key may not use it."


class MethodNotAllowed(Refusal):
    """The path has a route, but not for this method; or the method is unknown. `Allow` lists those that go.

    Mend: Use the method that `Allow` names.
    """

    status, kind, code = 405, "invalid_request_error", "method_not_allowed"
    message = "This method is not allowed here."

    def __init__(self, allow: str):
        super().__init__()
        self.allow = allow

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", self.allow.encode()), *super().headers()]


class Conflict(Refusal):
    """What is to be made exists already, or cannot be removed while something depends on it.

    Mend: Read what is there, and do what the message says.
    """

    status, kind, code, retry = 409, "invalid_request_error", "conflict", False
    message = "It exists already."


class PreconditionFailed(Refusal):
    """`If-Match` names another version than there is, or `If-None-Match: *` something that exists: somebody was faster.

    Mend: Read it again, and change what is there now.
    """

    status, kind, code = 412, "invalid_request_error", "precondition_failed"
    message = "It has been changed meanwhile."


class PreconditionRequired(Refusal):
    """An update names no version of what it changes.

    Mend: Send `If-Match` with the `ETag` that was read, or `If-None-Match: *` for what is new.
    """

    status, kind, code = 428, "invalid_request_error", "precondition_required"
    message = "Say in `If-Match` which version this changes, or with `If-None-Match: *` that it is new."


class RequestTimeout(Refusal):
    """Headers or body were still incomplete when their time was over (`door.header_seconds`, `door.body_seconds`).

    Mend: Look at the network between client and server. The call was not begun, so it can be sent again.
    """

    status, kind, code, retry, close = 408, "invalid_request_error", "request_timeout", False, True
    message = "The request did not arrive whole in time."


class BodyTooLarge(Refusal):
    """The body has more bytes than `door.body_bytes` (in the administration: 64 KiB), or its framing takes too many.

    Mend: Send less, or have the operator raise the bound.
    """

    status, kind, code, close = 413, "invalid_request_error", "request_too_large", True
    message = "The request body is larger than this server allows."


class UnsupportedMedia(Refusal):
    """The content type is not JSON in UTF-8, or the body is compressed.

    Mend: Send `Content-Type: application/json`, and no `Content-Encoding`.
    """

    status, kind, code, close = 415, "invalid_request_error", "unsupported_media_type", True
    message = "Send the body as `application/json`, without a content encoding."


class RateLimited(Refusal):
    """The key, or its tenant, has begun as many calls as its rate allows. `Retry-After` says when the next may come.

    Mend: Wait that long. If it happens often, spread the calls, or ask the operator for a higher rate.
    """

    status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"
    message = "The request rate allowed for this key or tenant is used up."


class ConcurrencyLimited(RateLimited):
    """The key, or its tenant, has as many calls in progress as it may. `Retry-After` is what calls take of late.

    Mend: Wait for one of them to end, and send fewer at once. However long calls take, `Retry-After` is a minute at
    most.
    """

    message = "As many calls as this key or tenant may have at once are in progress."


class HeadersTooLarge(Refusal):
    """The request line and headers have more bytes than `door.header_bytes`, or there are more than `door.headers`.

    Mend: Send fewer headers; cookies are of no use here.
    """

    status, kind, code, close = 431, "invalid_request_error", "request_header_fields_too_large", True
    message = "The request's headers are larger or more than this server allows."


class ClientLeft(Refusal):
    """The client left before its answer. Nobody is sent this; it stands in the record and the metrics (nginx's 499).

    Mend: None is needed. If there are many, clients give up sooner than the model answers: look at their timeouts.
    """

    status, kind, code, close = 499, "client_error", "client_closed_request", True
    message = "The client closed the connection."


class InternalError(Refusal):
    """A fault of the server itself. What it was stands in the server's own log, under the request id.

    Mend: Give the request id to the operator.
    """

    retry = False


class EngineFailed(Refusal):
    """The engine could not be reached, closed the connection, answered with an error, or with what makes no sense.

    Mend: Send it again; if it stays so, tell the operator, who finds the cause in the server's log and the engine's.

    `cause` is connect, status, garbage, closed, timeout or busy: what routing and metrics go by.
    """

    status, kind, code = 502, "server_error", "engine_error"
    message = "The model's engine failed to answer."

    def __init__(self, cause: str, *, retry_after: float | None = None):
        super().__init__(retry_after=retry_after)
        self.cause = cause


class Overloaded(Refusal):
    """As many calls as `server.concurrency` allows are in progress, over all tenants; in the administration as many
    requests as `server.admin_concurrency` allows; or the server is stopping.

    Mend: Wait as long as `Retry-After` says, and send it again.
    """

    status, kind, code = 503, "server_error", "overloaded"
    message = "The server has as many calls as it can take."


class Stopping(Overloaded):
    """The server stops, and what had not ended in time is cut off.

    Mend: Send it again: another server, or this one once it is back, takes it.
    """

    message = "The server is stopping."


class EngineBusy(EngineFailed):
    """Each engine that was asked has as many calls waiting as its `--max-num-queued-reqs` or `--max-num-queued-tokens`
    allows. `Retry-After` is a second.

    Mend: Wait that long, and send it again; if it happens often, fewer at once, or more engines.
    """

    status, kind, code = 503, "server_error", "overloaded"
    message = "The model's engines have as many calls as they can take."


class NoReplica(Refusal):
    """Every engine of the model is down, starting or taken out of service. `Retry-After` is a second.

    Mend: Send it again; if it stays so, tell the operator: `vestry doctor` names the engines that do not answer.
    """

    status, kind, code = 503, "server_error", "model_unavailable"
    message = "No engine of this model is available at the moment."


class AuditUnavailable(Refusal):
    """The record of this call could not be made durable in time, and nothing is served unrecorded.

    Mend: Tell the operator: [the record](../audit.md#when-it-fails) says what to look at.
    """

    status, kind, code, retry = 503, "server_error", "audit_unavailable", False
    message = "The call could not be recorded, so it was not served."


class KeysUnavailable(Refusal):
    """The directory, or what a token's issuer signs with, cannot be read, so nobody can tell whether a key or token is
    good.

    Mend: Send it again; if it stays so, tell the operator: `vestry doctor` says what is wrong with the directory, and
    the server's log what with an issuer.
    """

    status, kind, code = 503, "server_error", "authentication_unavailable"
    message = "Keys cannot be checked at the moment."


class EngineTimeout(EngineFailed):
    """The engine was silent for longer than `relay.first_byte_seconds` or `idle_seconds` allows, or its answer was not
    whole within `answer_seconds` (in one piece) or `stream_seconds`.

    Mend: Ask for fewer tokens, or stream what takes long.
    """

    # The engine was given its whole time, and a second one too where there was one: the client's own tries would
    # only add to its load.
    status, kind, code, retry = 504, "server_error", "engine_timeout", False
    message = "The model's engine did not answer in time."
