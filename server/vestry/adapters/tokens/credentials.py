"""Tokens as credentials: verified once, then remembered until they expire or anything changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from vestry.adapters.memory import Memory
from vestry.adapters.tokens.compact import LONGEST, BadToken, Compact, take_apart
from vestry.adapters.tokens.judging import holder, judge
from vestry.adapters.tokens.provider import Provider
from vestry.adapters.tokens.rules import IssuerRules
from vestry.adapters.users import Users
from vestry.errors import KeysUnavailable
from vestry.seams import Freshness, Registry
from vestry.types import Head, Principal

log = logging.getLogger("vestry")
Observe = Callable[[str, str], None]
"""Told of each token that was looked at: its issuer's name (`unknown` for none), and accepted, refused or failed."""


class TokenCredentials:
    """seams.Credentials for the tokens of several issuers, by the `iss` that they claim. One event loop's."""

    def __init__(
        self,
        issuers: Mapping[str, tuple[IssuerRules, Provider]],
        directory: Registry,
        freshness: Freshness,
        *,
        observe: Observe = lambda _issuer, _result: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self._issuers, self._users, self._observe, self._clock = issuers, Users(directory), observe, clock
        self._freshness = _KeysToo(freshness, [provider for _, provider in issuers.values()])
        self._memory = Memory(self._freshness, clock=lambda: round(clock() * 1_000_000))

    def known(self, head: Head) -> Principal | None:
        shown = _shown(head)
        return None if shown is None else self._memory.get(shown, head.began)

    async def find(self, head: Head) -> Principal | None:
        shown = _shown(head)
        if shown is None or head.credential is None:
            return None
        name = "unknown"
        try:
            token = take_apart(head.credential)
            rules, provider = self._issuer(token)
            name = rules.name
            found = await self._verified(head, shown, token, rules, provider)
        except BadToken as fault:
            log.debug("a token of the issuer %s is refused: %s", name, fault)
            self._observe(name, "refused")
            return None
        except KeysUnavailable:
            self._observe(name, "failed")
            raise
        self._observe(name, "accepted" if found is not None else "refused")
        return found

    def _issuer(self, token: Compact) -> tuple[IssuerRules, Provider]:
        claimed = token.claims.get("iss")
        found = self._issuers.get(claimed) if isinstance(claimed, str) else None
        if found is None:
            raise BadToken("nobody knows its issuer")
        if token.algorithm not in found[0].algorithms:
            raise BadToken("its algorithm is not among those that are allowed")
        return found

    async def _verified(
        self, head: Head, shown: bytes, token: Compact, rules: IssuerRules, provider: Provider
    ) -> Principal | None:
        keys = await provider.keys(token.kid)
        good = keys.signed(token)
        if not good:
            newer = await provider.keys(token.kid, vain=keys)
            good = newer.said != keys.said and newer.signed(token)
        if not good:
            raise BadToken("its signature is not its issuer's")
        epoch = self._freshness.epoch(head.began)
        expires = judge(rules, token, head.certificate, self._clock())
        principal = holder(rules, token.claims)
        found = await self._users.known_as(principal, epoch)
        if found is not None:
            self._memory.put(shown, found, expires, epoch, until=time.monotonic() + provider.holds)
        return found


class _KeysToo:
    """seams.Freshness: what is remembered holds while neither the directory nor any issuer's keys have changed."""

    def __init__(self, freshness: Freshness, providers: list[Provider]) -> None:
        self._freshness, self._providers = freshness, providers

    def epoch(self, arrived: float) -> int:
        generation = 0
        for each in self._providers:
            generation += each.generation
        return self._freshness.epoch(arrived) * 1_000_000_007 + generation


def _shown(head: Head) -> bytes | None:
    """The whole of what was shown: a token that is bound to a certificate is another thing without it."""
    shown = head.credential
    if shown is None or len(shown) > LONGEST or not shown.isascii():
        return None
    certificate = head.certificate
    return b"-" + shown.encode() if certificate is None else f"+{certificate.thumbprint} {shown}".encode()
