"""Authentication: a credential becomes a principal, or nothing does.

Every failure is the same refusal: what was wrong with a credential is nobody's business but its owner's.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from vestry import addresses
from vestry.errors import InvalidKey
from vestry.house import House
from vestry.seams import Credentials
from vestry.types import Head, Principal


class Housed(Protocol):
    """Knows the house of the moment."""

    house: House


async def authenticate(head: Head, credentials: Credentials, housed: Housed) -> Principal:
    """Who calls. What memory knows costs no wait. It is the house after this that the call goes by: where the directory
    has changed, it was read again before the caller was found.

    Raises InvalidKey for a credential that is missing, unknown, expired or revoked, for one that may not be used from
    the caller's address, and for one whose tenant there is not; KeysUnavailable where it cannot be checked.
    """
    return admitted(credentials.known(head) or await credentials.find(head), head, housed.house.tenants)


def admitted(principal: Principal | None, head: Head, tenants: Container[str]) -> Principal:
    """Who was found by a credential, if they may come in: None was not. Raises InvalidKey."""
    if principal is None or principal.tenant not in tenants:
        raise InvalidKey
    if principal.sources and not from_there(head.source, principal):
        raise InvalidKey
    return principal


def from_there(source: str, principal: Principal) -> bool:
    """Whether the address is in one of the networks that the credential may be used from."""
    address = addresses.read(source)
    return address is not None and any(address in network for network in principal.sources)
