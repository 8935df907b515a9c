"""The keeping step: what of a call's prompt and answer becomes durable beside the record, before the record says so.

Which mode a call has stands in its grant: a rule of the policy says it, or the tenant's settings for the route; the
client has no word in it. A call of mode `metadata` is not touched: `Keep.of` gives None, and nothing stands between the
engine and its client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vestry.audit.calls import Content
from vestry.audit.content.keeper import Keeper
from vestry.audit.content.sealing import Context
from vestry.audit.content.texts import Transcript, prompt
from vestry.audit.records import as_recorded
from vestry.seams import Client
from vestry.types import Call, ContentMode, Ending, Head, Outcome, Principal


class Keep:
    """Built once. `keeper` is asked for at the first call whose content is kept, and raises AuditUnavailable; `limit`
    is in bytes of text.
    """

    def __init__(self, keeper: Callable[[], Keeper], *, limit: int) -> None:
        self._keeper, self._limit = keeper, limit

    def of(self, head: Head, principal: Principal, mode: ContentMode) -> Keeping | None:
        """What is to be kept of this call; None for nothing. Raises AuditUnavailable."""
        if mode == ContentMode.METADATA:
            return None
        return Keeping(self._keeper(), mode, head, principal, self._limit)


class Keeping:
    """The content of one call."""

    def __init__(self, keeper: Keeper, mode: ContentMode, head: Head, principal: Principal, limit: int) -> None:
        self._keeper, self._mode, self._limit = keeper, mode, limit
        self._whose = principal.tenant, as_recorded(principal.subject), head.request_id
        self._heard = Transcript(limit)
        self.began = False

    async def prompt(self, call: Call) -> Content:
        """Keep the prompt as the engine will get it; durable when this returns. Raises AuditUnavailable."""
        make = partial(prompt, call.body, self._limit, texts=self._mode == ContentMode.HASHED)
        return await self._keeper.keep(Context(*self._whose, "prompt"), self._mode, make)

    def listen(self, client: Client) -> Client:
        """The client, with an ear to what it is sent while the stream goes on."""
        return _Overheard(client, self)

    def hear(self, chunk: bytes) -> None:
        self.began = True
        self._heard.hear(chunk)

    async def answer(self, outcome: Outcome, *, streamed: bool) -> Content | None:
        """Keep what the client was sent, with what it is about to be sent; durable when this returns.

        None where that is nothing. Raises AuditUnavailable.
        """
        last = outcome.last
        if outcome.ending not in {Ending.COMPLETE, Ending.TRUNCATED}:
            last = b""
        heard = self._heard
        if last and streamed:
            heard.hear(last)
        elif last:
            heard.take(last)
        if heard.empty:
            return None
        return await self._keeper.keep(Context(*self._whose, "answer"), self._mode, heard.kept)


class _Overheard:
    """Implements seams.Client around another."""

    def __init__(self, client: Client, keeping: Keeping) -> None:
        self._client, self._keeping = client, keeping

    def start(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        self._client.start(on_leave, on_pause)

    def write(self, chunk: bytes) -> None:
        self._keeping.hear(chunk)
        self._client.write(chunk)

    @property
    def gone(self) -> bool:
        return self._client.gone
