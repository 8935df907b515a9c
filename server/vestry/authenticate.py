"""Authentication: a credential becomes a principal, or nothing does.

Every failure is the same refusal: what was wrong with a key is nobody's business but its owner's.
"""

from __future__ import annotations

from collections.abc import Container

from vestry.errors import InvalidKey
from vestry.seams import KeyStore
from vestry.types import Head, Principal


def authenticate(head: Head, keys: KeyStore, tenants: Container[str]) -> Principal:
    """The holder of the API key. The credential is None where a request had none, or more than one.

    Raises InvalidKey for a key that is missing, unknown, expired or revoked, and for one whose tenant is not in the
    settings; KeysUnavailable where keys cannot be checked.
    """
    principal = keys.find(head.credential, head.began) if head.credential is not None else None
    if principal is None or principal.tenant not in tenants:
        raise InvalidKey
    return principal
