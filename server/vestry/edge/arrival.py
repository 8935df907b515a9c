"""One request at the edge: its head, its body, its answer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from msgspec import Struct, field
from starlette.types import Receive, Scope

from vestry import addresses
from vestry.edge.bodies import Parser
from vestry.edge.certificates import Form
from vestry.edge.cycle import Cycle
from vestry.edge.door import Door, new_request_id
from vestry.edge.recurring import Said
from vestry.errors import BodyTooLarge, ClientLeft, Overloaded, Refusal, UnsupportedMedia
from vestry.settings.tree import Bounds
from vestry.types import Call, Certificate, Head, Operation

TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
JSON_TYPE = re.compile(rb"^application/json(?:\s*;\s*charset=\"?utf-8\"?)?\s*$", re.IGNORECASE)
JSON = (b"content-type", b"application/json")
CREDENTIALS = (b"authorization", b"x-api-key")
FORWARDED = b"x-forwarded-for"
PORTED = re.compile(r"([0-9.]{7,15}):[0-9]{1,5}|\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?")
"""An address as some proxies write it, with the port that the caller has (RFC 3986, section 3.2.2)."""
MAX_TEXT = 256
MAX_HOPS = 16
MAX_ADDRESS = 45
MAX_BODIES = 64


class Arriving(Struct):
    """Bytes of bodies that have arrived in part, over all connections."""

    size: int = 0


class Rules(Struct, frozen=True):
    """How arrivals are read: bounds, greatest body in bytes, and the proxies whose word on addresses is believed.

    `certificates` says whether clients show certificates in their handshake, `form` in which headers trusted proxies
    say what theirs have shown them.

    What has arrived of unfinished bodies takes the room of at most 64 of the greatest; beyond it the answer is 503.
    """

    bounds: Bounds
    body_bytes: int
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    certificates: bool = False
    form: Form | None = None
    arriving: Arriving = field(default_factory=Arriving)


class Route(Struct, frozen=True):
    """One row of the route table. `parser` is None where a route has no body."""

    method: str
    name: str
    operation: Operation
    parser: Parser | None = None


class Arrival:
    """Implements seams.Visitor over ASGI and the door."""

    __slots__ = ("_cycle", "_door", "_headers", "_receive", "_rules", "_scope", "_started", "head", "parser")

    def __init__(
        self,
        rules: Rules,
        scope: Scope,
        receive: Receive,
        route: Route,
    ):
        self._rules, self._scope, self._receive = rules, scope, receive
        self._door: Door = scope["extensions"]["vestry.door"]["door"]
        self._cycle: Cycle = self._door.cycle
        self._headers = self._door.fields
        self._started = False
        self.parser = route.parser
        self.head = self._read_head(route)

    def _read_head(self, route: Route) -> Head:
        recurring = self._door.recurring
        if recurring is None:
            said = self._read_said()
        elif recurring.said is None:
            said = recurring.said = self._read_said()
        else:
            said = recurring.said
        source, agent, client_id, parent, credential, ambiguous = said
        return Head(
            new_request_id(),
            route.name,
            route.operation,
            self._scope["method"],
            source,
            agent,
            client_id,
            parent,
            credential,
            self._door.began,
            self._door.began_wall,
            self._certificate(),
            ambiguous,
        )

    def _read_said(self) -> Said:
        """What follows from the headers and the connection alone."""
        get = self._headers.get
        agent, parent = get(b"user-agent"), get(b"traceparent")
        client_id = get(b"x-client-request-id") or get(b"x-request-id")
        return (
            self._source(),
            _text(agent) if agent else "",
            _text(client_id) if client_id else "",
            _traceparent(parent) if parent else "",
            *self._credential(),
        )

    def _credential(self) -> tuple[str | None, bool]:
        """The credential from `Authorization: Bearer` (RFC 6750) or `x-api-key`, and whether headers compete or have
        no form that is known here.
        """
        value, other = self._headers.get(b"authorization"), self._headers.get(b"x-api-key")
        if value is None and other is None:
            return None, False
        if self._door.repeated and sum(name in CREDENTIALS for name, _ in self._scope["headers"]) > 1:
            return None, True
        if value is None or other is not None:
            return (other.decode("latin-1").strip(), False) if value is None and other is not None else (None, True)
        scheme, _, token = value.partition(b" ")
        return (token.decode("latin-1").strip(), False) if scheme.lower() == b"bearer" else (None, True)

    def _certificate(self) -> Certificate | None:
        """The caller's certificate, if it is valid now: connections outlive certificates.

        A proxy that speaks for its clients never counts by its own.
        """
        shown, now = self._shown(), self._door.began_wall
        return shown if shown is not None and shown.not_before <= now < shown.not_after else None

    def _shown(self) -> Certificate | None:
        form = self._rules.form
        if form is not None and self._trusts(self._peer):
            values = [self._headers.get(name, b"") for name in form.headers]
            told = [name for name, _ in self._scope["headers"] if name in form.headers]
            return form.read(*values) if len(told) == len(values) else None
        return self._door.certificate if self._rules.certificates else None

    @property
    def _peer(self) -> str:
        """The address at the other end of the connection."""
        client = self._scope["client"]
        return client[0] if client else ""

    def _source(self) -> str:
        """The caller's address: the last hop that is not a trusted proxy. Empty where a proxy says what is no address:
        whoever may call from its network alone is not taken for the proxy.
        """
        peer = self._peer
        forwarded = self._headers.get(FORWARDED)
        if not self._rules.trusted_proxies or forwarded is None or not self._trusts(peer):
            return peer
        chain = ",".join(self.header(FORWARDED)) if self._door.repeated else forwarded.decode("latin-1")
        for hop in reversed(chain.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            address = hop.strip()
            if ported := PORTED.fullmatch(address):
                address = ported[1] or ported[2]
            if len(address) > MAX_ADDRESS or (plain := addresses.plain(address)) is None:
                return ""
            peer = plain
            if not self._trusts(peer):
                break
        return peer

    def _trusts(self, address: str) -> bool:
        parsed = addresses.read(address)
        return parsed is not None and any(parsed in network for network in self._rules.trusted_proxies)

    # The body -------------------------------------------------------------------------------------------------

    async def call(self) -> Call:
        """Read and parse the body. Raises a Refusal."""
        if self.parser is None:
            raise TypeError(f"{self.head.route} has no body to parse")
        return self.parser(self._whole_body() or await self._read_body(), self._rules.bounds)

    async def body(self) -> bytes:
        """The body, which says that it is JSON, as it came. Raises a Refusal."""
        return self._whole_body() or await self._read_body()

    def header(self, name: bytes) -> list[str]:
        """What headers of this name say; `name` is in lower case."""
        if not self._door.repeated:
            found = self._headers.get(name)
            return [] if found is None else [found.decode("latin-1").strip()]
        return [value.decode("latin-1").strip() for each, value in self._scope["headers"] if each == name]

    @property
    def bare(self) -> bool:
        """Whether the request has no body at all."""
        return b"transfer-encoding" not in self._headers and self._headers.get(b"content-length", b"0") == b"0"

    def _check_body(self) -> None:
        """Judge what the headers say of it. Raises UnsupportedMedia, BodyTooLarge."""
        kind = self._headers.get(b"content-type", b"")
        if b"content-encoding" in self._headers or (kind != JSON[1] and not JSON_TYPE.match(kind)):
            raise UnsupportedMedia
        declared = self._headers.get(b"content-length")
        if declared is not None and int(declared) > self._rules.body_bytes:
            raise BodyTooLarge

    def _whole_body(self) -> bytes | None:
        """The body, where it has come with the head: most do, and need no wait. Raises as `body` does."""
        self._check_body()
        whole = self._cycle.whole_body()
        if whole is not None and len(whole) > self._rules.body_bytes:
            raise BodyTooLarge
        return whole

    async def _read_body(self) -> bytes:
        arriving = self._rules.arriving
        pieces: list[bytes] = []
        size = 0
        try:
            while True:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise ClientLeft
                piece: bytes = message["body"]
                size += len(piece)
                arriving.size += len(piece)
                if size > self._rules.body_bytes:
                    raise BodyTooLarge
                pieces.append(piece)
                if not message["more_body"]:
                    return b"".join(pieces)
                if self._door.fault is not None:
                    raise self._door.fault
                if arriving.size > MAX_BODIES * self._rules.body_bytes:
                    raise Overloaded(retry_after=1.0)
        finally:
            arriving.size -= size

    # The answer -----------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """True once the client has closed the connection."""
        return self._cycle.gone

    @property
    def begun(self) -> bool:
        """Whether a stream has begun: its head, with the status, has been sent."""
        return self._started

    def start(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        """Watch the client while its answer is made."""
        self._door.watch(on_leave, on_pause)

    def write(self, chunk: bytes) -> None:
        """Send the next bytes of a stream."""
        if self._started:
            self._cycle.write_chunk(chunk)
        else:
            self._started = True
            self._cycle.start_stream([(b"x-request-id", self.head.request_id.encode())], chunk)

    async def finish(self, last: bytes, *, streamed: bool) -> None:
        """Send the end of a stream, or the whole of an answer in one piece."""
        self._door.unwatch()
        if not streamed:
            self.answer(200, last, [])
        elif not self.gone:
            if not self._started:
                self.write(last)
                last = b""
            await self._cycle.end_stream(last)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: as a response, or as the last event of a stream that has begun."""
        if self._started:
            await self.finish(b"data: " + refusal.body() + b"\n\n", streamed=True)
        else:
            self._door.unwatch()
            self.answer(refusal.status, refusal.body(), refusal.headers())

    def answer(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Send an answer in one piece."""
        if self.gone:
            return
        if self._cycle.more_body:
            self._cycle.close_gently()
        self._cycle.answer(status, [JSON, (b"x-request-id", self.head.request_id.encode()), *headers], body)


def _traceparent(value: bytes) -> str:
    """A W3C trace context, or nothing."""
    text = value[:MAX_TEXT].decode("latin-1")
    return text if TRACEPARENT.match(text) else ""


def _text(value: bytes) -> str:
    """A header for the record, which escapes and cuts it; bytes that are no UTF-8 become lone surrogates."""
    return value.decode("utf-8", "surrogateescape")
