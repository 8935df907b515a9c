"""A syslog receiver: RFC 5424 messages over TLS as RFC 5425 says (octet counting, section 4.3), port 6514.

    <109>1 2026-11-25T21:00:00.000000Z HOST vestry PID checkpoint
        [vestry@32473 log="LOG" size="16384" root="..." note="..."] checkpoint of LOG: 16384 records, root ...

On one line. `note` is the base64 of the signed note, byte for byte, so that a line alone can be verified. Syslog has
no acknowledgement: what was written to a connection that broke may be lost. So the connection is ended after every
message (`vestry.syslog`), and a receiver that breaks it off then counts as one that has not taken it. A receiver cannot
be asked what it holds.
"""

from __future__ import annotations

import base64
import os
import socket
from datetime import UTC, datetime

from vestry.audit.copies.sink import Held, Item
from vestry.syslog import FACILITY, Spoke, end, framed, printable
from vestry.wires import Peer, Undelivered, connected

SD_ID = "vestry@32473"
"""32473 is the enterprise number that IANA reserves for examples (RFC 5612): we have none of our own."""
_NOTICE, _BOM = 5, "\ufeff"


class SyslogSink:
    """sink.Sink over RFC 5425; or over plain TCP (RFC 6587, octet counting), where the peer says so."""

    keeps_registry = False
    required = False

    def __init__(self, name: str, peer: Peer, *, hostname: str | None = None) -> None:
        self.name = name
        self.where = f"the syslog receiver {peer}"
        self._peer = peer
        self._hostname = printable(hostname or socket.gethostname(), 255)

    def deliver(self, item: Item) -> None:
        data = framed([self.message(item, datetime.now(UTC)).encode()])
        with connected(self._peer) as wire:
            wire.sendall(data)
            try:
                end(wire)
            except Spoke as error:
                raise Undelivered(str(error)) from error

    def newest(self) -> Held | None:
        return None

    def message(self, item: Item, now: datetime) -> str:
        """One SYSLOG-MSG (RFC 5424, section 6)."""
        head = item.head()
        root = base64.b64encode(head.root).decode()
        fields = {
            "log": head.name,
            "size": str(head.size),
            "root": root,
            "note": base64.b64encode(item.note.encode()).decode(),
        }
        data = " ".join(f'{name}="{_escaped(value)}"' for name, value in fields.items())
        begin = (
            f"<{FACILITY * 8 + _NOTICE}>1 {now:%Y-%m-%dT%H:%M:%S.%fZ} {self._hostname} vestry {os.getpid()} checkpoint"
        )
        return f"{begin} [{SD_ID} {data}] {_BOM}checkpoint of {head.name}: {head.size} records, root {root}"


def _escaped(value: str) -> str:
    """PARAM-VALUE (section 6.3.3)."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
