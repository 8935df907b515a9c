"""Client certificates as credentials: a name in one of them, by rules of the settings, is somebody.

Fails closed. Whoever fits no rule costs no look-up; whoever does is looked up as a user in the directory, and
remembered by the certificate's thumbprint as long as the directory has not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from vestry.adapters.key_format import derived_id
from vestry.adapters.memory import MOST, Memory
from vestry.adapters.users import Users
from vestry.errors import KeysUnavailable
from vestry.roles import Role
from vestry.seams import Freshness, Registry
from vestry.types import Certificate, Head, Network, Principal, Via

LONGEST = 128


class Grant(Struct, frozen=True):
    """One rule: whose name `fits` is this. An empty `subject` is the name itself."""

    fits: Callable[[str], bool]
    tenant: str
    roles: frozenset[Role]
    models: frozenset[str] | None = None
    project: str = ""
    subject: str = ""
    sources: tuple[Network, ...] = ()

    def holder(self, name: str) -> Principal:
        """Who calls with a certificate that has this name."""
        return Principal(
            derived_id("crt_", name),  # a renewed certificate has the same
            self.tenant,
            self.subject or _shortened(name),
            self.roles,
            self.models,
            project=self.project,
            sources=self.sources,
            via=Via.CERTIFICATE,
        )


class CertificateCredentials:
    """seams.Credentials over `head.certificate`, verified and valid when the request arrived. One event loop's."""

    def __init__(
        self,
        grants: Iterable[Grant],
        directory: Registry,
        freshness: Freshness,
        *,
        most: int = MOST,
    ) -> None:
        self._grants, self._freshness = tuple(grants), freshness
        self._memory = Memory(freshness, most=most)
        self._users = Users(directory)

    def known(self, head: Head) -> Principal | None:
        certificate = head.certificate
        if certificate is None:
            return None
        try:
            return self._memory.get(certificate.thumbprint.encode("ascii"), head.began)
        except KeysUnavailable:
            if self._mapped(certificate) is None:
                return None
            raise

    async def find(self, head: Head) -> Principal | None:
        certificate = head.certificate
        if certificate is None:
            return None
        holder = self._mapped(certificate)
        if holder is None:
            return None
        epoch = self._freshness.epoch(head.began)
        principal = await self._users.known_as(holder, epoch)
        if principal is not None:
            self._memory.put(certificate.thumbprint.encode("ascii"), principal, None, epoch)
        return principal

    def _mapped(self, certificate: Certificate) -> Principal | None:
        """Who this is by the first rule that one of its names fits; of several names the first."""
        for grant in self._grants:
            for name in certificate.names:
                if grant.fits(name):
                    return grant.holder(name)
        return None


def _shortened(name: str) -> str:
    """A name as a subject, which records bound: the end of a longer one is a hash of the whole."""
    return name if len(name) <= LONGEST else name[: LONGEST - 17] + derived_id("~", name)
