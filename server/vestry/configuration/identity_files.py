"""What the settings of identity name, looked at: keys in files, authorities, tokens to ask with, models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vestry.configuration.strict_yaml import Trail
from vestry.faults import Fault
from vestry.late import Late
from vestry.secret_files import SecretFault, read
from vestry.settings.identity import Issuer
from vestry.settings.tree import Settings
from vestry.trust import trusting

if TYPE_CHECKING:
    from vestry.adapters.tokens import fetching, keysets
else:  # Authlib and joserfc: where an issuer's keys stand in a file
    fetching = Late("vestry.adapters.tokens.fetching")
    keysets = Late("vestry.adapters.tokens.keysets")


def faults_of_identity(settings: Settings, place: Callable[[Trail], str]) -> Iterator[Fault]:
    """What would keep tokens from being believed. Whether a provider can be asked is no fault: it may come right."""
    for number, issuer in enumerate(settings.identity.issuers):
        trail: Trail = ("identity", "issuers", number)
        yield from _files(issuer, trail, place)
        for index, grant in enumerate(issuer.grants):
            for model in grant.models or ():
                if model not in settings.models:
                    at = place((*trail, "grants", index, "models"))
                    yield Fault(at, f"`{model}` is not among `models`", "Name a model that is served, or leave it out")


def _files(issuer: Issuer, trail: Trail, place: Callable[[Trail], str]) -> Iterator[Fault]:
    if issuer.jwks_file is not None:
        at, mend = place((*trail, "jwks_file")), "Write the issuer's JWKS there"
        try:
            if fetching.from_file(issuer.jwks_file)().empty:
                yield Fault(at, "it has no key that may verify signatures", mend)
        except keysets.BadKeys as fault:
            yield Fault(at, f"no keys can be had from it: {fault}", mend)
    if issuer.ca is not None:
        try:
            trusting(issuer.ca)
        except (OSError, ValueError) as error:
            yield Fault(place((*trail, "ca")), f"{issuer.ca} cannot be used: {error}", "Name a readable PEM file")
    if issuer.token is not None:
        try:
            read(issuer.token, 1, by_group=True)
        except SecretFault as fault:
            yield fault.fault
