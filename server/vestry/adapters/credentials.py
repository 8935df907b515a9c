"""All ways to show who one is, as one: an API key, a token of an identity provider, a client certificate.

The shape of what was shown decides who is asked, so that no credential is tried in two ways.
"""

from __future__ import annotations

from vestry.adapters.key_format import PREFIX
from vestry.errors import KeysUnavailable
from vestry.seams import Credentials
from vestry.types import Head, Principal


class EveryCredential:
    """seams.Credentials over several: keys begin with `vst_`, other bearers are tokens; a certificate counts where
    nothing else was shown.
    """

    def __init__(
        self, keys: Credentials, tokens: Credentials | None = None, certificates: Credentials | None = None
    ) -> None:
        self._keys, self._tokens, self._certificates = keys, tokens, certificates

    def known(self, head: Head) -> Principal | None:
        asked = self._asked(head)
        return asked.known(head) if asked is not None else None

    async def find(self, head: Head) -> Principal | None:
        asked = self._asked(head)
        return await asked.find(head) if asked is not None else None

    def _asked(self, head: Head) -> Credentials | None:
        shown = head.credential
        if shown is None:
            return self._certificates if head.certificate is not None and not head.ambiguous else None
        return self._keys if shown.startswith(PREFIX) else self._tokens


class NobodyYet:
    """seams.Credentials while it is not known which tenants and rules the directory holds: a caller would be let in by
    the settings' alone. Always raises KeysUnavailable.
    """

    def known(self, head: Head) -> Principal | None:  # noqa: ARG002
        raise KeysUnavailable

    async def find(self, head: Head) -> Principal | None:  # noqa: ARG002
        raise KeysUnavailable
