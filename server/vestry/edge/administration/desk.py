"""Every request to the administration, taken the same way: known, permitted, done, recorded, answered.

What stops one is a Refusal: it is recorded and counted like one of the data plane, and what comes in floods is summed
up. What was read leaves a record (`outcome`) before it is shown; a change has its own. There are few places, so that
the administration takes little from the calls that are served beside it; who is not known yet takes none, so that no
flood of strangers keeps administrators out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vestry.admin.actor import Actor
from vestry.admit import Admission
from vestry.authenticate import authenticate
from vestry.authorize import permitted
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import Reply, Row
from vestry.edge.arrival import Arrival, Route, Rules
from vestry.errors import InternalError, InvalidRequest, PermissionDenied, Refusal, Stopping
from vestry.meter.calls import NOBODY
from vestry.pipeline import Corridor
from vestry.roles import HOUSE
from vestry.settings.section import Section
from vestry.types import Ending, Limits, Operation, Outcome, Principal, Via

log = logging.getLogger("vestry")
ELSEWHERE = "admin.none"
NO_STORE = (b"cache-control", b"no-store")
PER_MINUTE = 3000
CONDITIONS = ("If-Match", "If-None-Match")
Answer = Callable[[Arrival, Principal], Awaitable[Response]]


class Sent(Response):
    """An answer that the door sends in one piece."""

    def __init__(self, arrival: Arrival, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(status_code=status)
        self._arrival, self._answer = arrival, (status, body, [*headers, NO_STORE])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self._arrival.answer(*self._answer)


class Desk:
    """As the head of this file says. Who calls and which house it is, it knows from the corridor."""

    def __init__(self, corridor: Corridor, office: Office, rules: Rules, *, concurrency: int) -> None:
        self._corridor, self._office, self._rules = corridor, office, rules
        self._admission = Admission(server_concurrency=concurrency)
        self._tenants = Admission(server_concurrency=max(1, concurrency // 2))
        self._each = Limits(max(1, concurrency // 2), PER_MINUTE)

    async def serve(self, request: Request, row: Row) -> Response:
        """Answer a request that a row takes."""

        async def answer(arrival: Arrival, principal: Principal) -> Response:
            permitted(principal, row.permission, row.name)
            if row.method != "GET":
                _from_here(arrival)
            head = arrival.head
            actor = Actor.of(principal, source=head.source, request_id=head.request_id)
            ask = Ask(arrival, actor, dict(request.path_params), request.scope["query_string"])
            _understand(row, ask)
            reply = await row.handler(self._office, ask)
            if reply.recorded:
                await self._office.changed()
            return await self._answered(arrival, principal, reply)

        return await self._taken(request, row.name, answer)

    async def turn_away(self, request: Request, refusal: Refusal) -> Response:
        """Answer a request that no row takes. A stranger is not even told that."""

        async def answer(_arrival: Arrival, _principal: Principal) -> Response:
            raise refusal

        return await self._taken(request, ELSEWHERE, answer)

    async def _taken(self, request: Request, name: str, answer: Answer) -> Response:
        route = Route(request.method, name, Operation.NONE)
        arrival = Arrival(self._rules, request.scope, request.receive, route)
        principal: Principal | None = None
        try:
            principal = await self._known(arrival)
            with self._place(principal):
                return await answer(arrival, principal)
        except Refusal as refusal:
            return await self._refused(arrival, principal, refusal)
        except asyncio.CancelledError:  # the server stops: the answer says so
            return await self._refused(arrival, principal, Stopping())
        except Exception:  # the border: no fault of ours may leave a request unanswered or unrecorded
            log.exception("request %s to the administration failed", arrival.head.request_id)
            return await self._refused(arrival, principal, InternalError())

    @contextlib.contextmanager
    def _place(self, principal: Principal) -> Iterator[None]:
        """A place. Those who reach one tenant have half of them together: they cannot keep the house's people out. One
        tenant's have no more than one credential may have, however many they make: each change is the whole house's.

        Raises RateLimited, ConcurrencyLimited, Overloaded.
        """
        asks, now = replace(principal, limits=self._each), time.monotonic()
        with contextlib.ExitStack() as places:
            if not principal.roles & HOUSE:
                places.enter_context(self._tenants.place(asks, self._each, now))
            places.enter_context(self._admission.place(asks, Limits(), now))
            yield

    async def _known(self, arrival: Arrival) -> Principal:
        principal = await authenticate(arrival.head, self._corridor.credentials, self._corridor)
        house = self._corridor.house
        if principal.via == Via.KEY or not principal.roles & HOUSE:
            house.project(principal)  # one that is gone, or disabled, lets nobody in
        # but a tenant's administrator says who of the provider's people is in which project, and may not shut out these
        return house.lifted(principal, arrival.head.began_wall)

    async def _answered(self, arrival: Arrival, principal: Principal, reply: Reply) -> Response:
        outcome = Outcome(Ending.COMPLETE, reply.status)
        if not reply.recorded:
            written = self._corridor.recorder.outcome(arrival.head, principal, None, None, outcome)
            try:
                await written
            except asyncio.CancelledError:  # the server stops: the log has the outcome, and gets no second record
                return await self._refused(arrival, principal, Stopping(), recorded=True)
        self._count(arrival, principal, outcome)
        headers = []
        if reply.version is not None:
            headers.append((b"etag", b'"%d"' % reply.version))
        if reply.location:
            headers.append((b"location", reply.location.encode()))
        return Sent(arrival, reply.status, encoded(reply), headers)

    async def _refused(
        self, arrival: Arrival, principal: Principal | None, refusal: Refusal, *, recorded: bool = False
    ) -> Response:
        """Record a refusal, then answer with it. If even that cannot be recorded, the answer says so."""
        if principal is not None and (why := getattr(refusal, "why", "")):  # of the directory, for the operator alone
            log.warning("request %s to the administration was refused: %s", arrival.head.request_id, why)
        try:
            if not recorded:
                await self._corridor.recorder.refusal(arrival.head, principal, None, refusal)
        except Refusal as unrecorded:
            refusal = unrecorded
        except asyncio.CancelledError:  # the server stops while the record is on its way to the disk
            refusal = Stopping()
        self._count(arrival, principal, Outcome(Ending.REFUSED, refusal.status, refusal.code))
        tenant = NOBODY if principal is None else principal.tenant
        self._corridor.meter.refused(arrival.head, tenant, refusal.code)
        return Sent(arrival, refusal.status, refusal.body(), refusal.headers())

    def _count(self, arrival: Arrival, principal: Principal | None, outcome: Outcome) -> None:
        tenant = NOBODY if principal is None else principal.tenant
        seconds = time.monotonic() - arrival.head.began
        self._corridor.meter.ended(arrival.head, None, tenant, outcome, seconds)


def _from_here(arrival: Arrival) -> None:
    """A browser shows its user's certificate to the sites that pages elsewhere ask, so what it is made to ask for from
    there is refused: by Fetch Metadata (`Sec-Fetch-Site`), or by `Origin` where there is none.

    Raises PermissionDenied.
    """
    sites, origins = arrival.header(b"sec-fetch-site"), arrival.header(b"origin")
    host = arrival.header(b"host")[0].lower()
    own = all(each in {"none", "same-origin"} for each in sites)
    if not own or not (sites or all(each.lower().partition("://")[2] == host for each in origins)):
        raise PermissionDenied("A page of another site has made a browser ask for this.")


def _understand(row: Row, ask: Ask) -> None:
    """Read the query, and see that no condition is put where none is looked at. Raises InvalidRequest."""
    ask.understand(row.parameters, frozenset(each.name for each in row.query if each.repeated))
    if row.method != "GET" and not row.matched:
        for name in CONDITIONS:
            if ask.header(name) is not None:
                raise InvalidRequest("This route looks at no such condition.", param=name)
    if not row.tokened and ask.header("Idempotency-Key") is not None:
        raise InvalidRequest("This route takes no such header.", param="Idempotency-Key")


def encoded(reply: Reply) -> bytes:
    """The answer's body."""
    if reply.body is None:
        return b""
    if isinstance(reply.body, Section):
        return reply.body.model_dump_json(by_alias=True).encode()
    return msgspec.json.encode(reply.body)
