"""The secret that keys are hashed with."""

from __future__ import annotations

import hmac

BYTES = 32


class Pepper:
    """Turns keys into what is kept of them."""

    def __init__(self, secret: bytes):
        if len(secret) < BYTES:
            raise ValueError(f"the pepper needs {BYTES} bytes or more")
        self._hmac = hmac.new(secret, digestmod="sha256")

    def hashed(self, text: str) -> bytes:
        """HMAC-SHA256 of an ASCII text. A copy of the keyed state costs half of `hmac.digest`."""
        keyed = self._hmac.copy()
        keyed.update(text.encode("ascii"))
        return keyed.digest()

    @property
    def check(self) -> bytes:
        """What the database has of it, to tell whether it is the right one."""
        return self.hashed("vestry key store")
