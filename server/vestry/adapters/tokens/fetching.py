"""Where an issuer's keys come from: discovery (OpenID Connect Discovery 1.0), an address, or a file.

Blocking; called in a thread.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url

from vestry.adapters.tokens.keysets import DOCUMENT_BYTES, BadKeys, KeySet
from vestry.regular import NotRegular, opened
from vestry.wires import Undelivered, Web

Fetch = Callable[[], KeySet]
"""Gets an issuer's keys. Raises BadKeys, which says in a sentence what is wrong."""
Stamp = Callable[[], tuple[int, ...]]
"""Says cheaply whether the keys may be others: it is another one then."""


def from_file(path: Path) -> Fetch:
    """Keys in a file."""

    def fetch() -> KeySet:
        try:
            with opened(path) as file:
                content = file.read(DOCUMENT_BYTES + 1)
        except NotRegular:
            raise BadKeys(f"{path} is not a regular file") from None
        except OSError as error:
            raise BadKeys(f"{path} cannot be read ({error.strerror})") from error
        if len(content) > DOCUMENT_BYTES:
            raise BadKeys(f"{path} is larger than {DOCUMENT_BYTES} bytes")
        return KeySet.read(content)

    return fetch


def stamp_of(path: Path) -> Stamp:
    """Of a file that keys are in."""

    def stamp() -> tuple[int, ...]:
        try:
            found = path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    return stamp


class Asking:
    """Keys that the provider is asked for. `token` gives the bearer token to ask with, empty for none: it goes to the
    address that the settings name, and to no other that metadata lead to.
    """

    def __init__(
        self, issuer: str, jwks_uri: str | None, *, ca: Path | None, seconds: float, token: Callable[[], str]
    ) -> None:
        self._issuer, self._jwks_uri, self._ca, self._seconds, self._token = issuer, jwks_uri, ca, seconds, token

    def __call__(self) -> KeySet:
        return KeySet.read(self._get(self._jwks_uri or self._discovered()))

    def _trusted(self, parts: SplitResult) -> bool:
        named = urlsplit(self._jwks_uri or self._issuer)
        return (parts.scheme, parts.netloc) == (named.scheme, named.netloc)

    def _discovered(self) -> str:
        url = get_well_known_url(self._issuer, external=True)
        try:
            metadata = OpenIDProviderMetadata(json.loads(self._get(url)))
        except (ValueError, TypeError, RecursionError):
            raise BadKeys("the provider's metadata is no JSON object") from None
        if metadata.get("issuer") != self._issuer:  # OpenID Connect Discovery 1.0, section 4.3
            raise BadKeys("the provider's metadata names another issuer")
        found = metadata.get("jwks_uri")
        if not isinstance(found, str) or not _allowed(found, plain=self._issuer.startswith("http:")):
            raise BadKeys("the provider's metadata has no `jwks_uri` that is https")
        return found

    def _get(self, url: str) -> bytes:
        parts = urlsplit(url)
        headers = {"Accept": "application/json", "User-Agent": "vestry"}
        if self._trusted(parts) and (token := self._token()):
            headers["Authorization"] = f"Bearer {token}"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            origin = f"{parts.scheme}://{parts.netloc}"
            web = Web.at(origin, seconds=self._seconds, ca=self._ca, permitted=_is_loopback)
            answer = web.ask("GET", target, limit=DOCUMENT_BYTES, headers=headers)
        except (Undelivered, ValueError) as error:
            raise BadKeys(str(error)) from error
        if answer.status != 200:
            raise BadKeys(f"{web.peer} answers {answer.status}")
        return answer.body


def _allowed(url: str, *, plain: bool) -> bool:
    """Whether metadata may lead there: https; http on this machine if they came from there by it (`plain`), so that no
    provider elsewhere has this machine's own services asked. Nothing before the host, nothing behind, and nothing in
    it that a terminal would obey: the log names it.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or not host.isprintable() or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (plain and parts.scheme == "http" and host in {"localhost", "127.0.0.1", "::1"})


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_loopback
