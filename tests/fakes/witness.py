"""A witness: C2SP tlog-witness `add-checkpoint` and the monitoring prefix, over HTTP, with cosignature/v1 (Ed25519).

It checks what the specification has it check, in that order, and no less: origin, signature, sizes, proof. Written from
the specification with its own note parsing and its own proof check, so that it does not share our mistakes. Faults are
switched on with `fault`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Fault = Callable[[BaseHTTPRequestHandler], bool]
"""Called instead of answering; true if it has answered."""


@dataclass
class Log:
    """What the witness keeps of one log."""

    keys: list[tuple[str, Ed25519PublicKey, bytes]]
    size: int = 0
    root: bytes = hashlib.sha256(b"").digest()
    note: str = ""


@dataclass
class Witness:
    """Use as a context manager. `vkey` is its public key; `logs` those it knows, by origin."""

    name: str = "witness.test/w1"
    logs: dict[str, Log] = field(default_factory=dict)
    fault: Fault | None = None
    requests: list[tuple[str, int]] = field(default_factory=list)
    monitors: bool = True
    port: int = 0

    def __post_init__(self) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.name.encode()).digest())
        self._raw = self._key.public_key().public_bytes_raw()
        self._id = hashlib.sha256(self.name.encode() + b"\n\x04" + self._raw).digest()[:4]
        self._lock = threading.Lock()

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self._id.hex()}+{base64.b64encode(bytes([4]) + self._raw).decode()}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/w"

    def know(self, vkey: str) -> None:
        """Register a log by its vkey (signature type 0x01)."""
        name, ident, data = vkey.split("+", 2)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(data)[1:])
        self.logs[name] = Log([(name, key, bytes.fromhex(ident))])

    def __enter__(self) -> Witness:
        witness = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if witness.fault is not None and witness.fault(self):
                    return
                if self.path != "/w/add-checkpoint":
                    self._answer(404, b"")
                    return
                status, answer, kind = witness.add(body)
                witness.requests.append(("add-checkpoint", status))
                self._answer(status, answer, kind)

            def do_GET(self) -> None:
                if witness.fault is not None and witness.fault(self):
                    return
                found = {hashlib.sha256(name.encode()).hexdigest(): log for name, log in witness.logs.items()}
                match = re.fullmatch("/w/([0-9a-f]{64})/checkpoint", self.path)
                log = found.get(match[1]) if match else None
                if log is None or not log.note or not witness.monitors:
                    self._answer(404, b"")
                else:
                    self._answer(200, log.note.encode())

            def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def add(self, body: bytes) -> tuple[int, bytes, str]:
        """Status, body and content type of the answer to one request."""
        status, answer = self._judged(body)
        return status, answer.encode(), "text/x.tlog.size" if status == 409 and answer else "text/plain"

    def _judged(self, body: bytes) -> tuple[int, str]:
        head, _, note = body.decode().partition("\n\n")
        old_line, *proof_lines = head.split("\n")
        found = re.fullmatch("old (0|[1-9][0-9]*)", old_line)
        if found is None or len(proof_lines) > 63 or not note.endswith("\n"):
            return 400, ""
        old, proof = int(found[1]), [base64.b64decode(line, validate=True) for line in proof_lines]
        text, _, signatures = note.rpartition("\n\n")
        text += "\n"
        origin, size_text, root_text = text.split("\n")[:3]
        log = self.logs.get(origin)
        if log is None or not self._signed(log, text, signatures):
            return 404 if log is None else 403, ""
        if old > int(size_text):
            return 400, ""
        with self._lock:
            return self._updated(log, old, (int(size_text), base64.b64decode(root_text)), proof, (text, signatures))

    def _updated(
        self, log: Log, old: int, new: tuple[int, bytes], proof: list[bytes], note: tuple[str, str]
    ) -> tuple[int, str]:
        """Check and keep in one step, as the specification asks."""
        if old != log.size:
            return 409, f"{log.size}\n"
        if old == new[0] and log.root != new[1]:
            return 409, ""
        if not self._continues(log, *new, proof):
            return 422, ""
        line = self._cosign(note[0])
        log.size, log.root = new
        log.note = f"{note[0]}\n{note[1]}{line}"
        return 200, line

    def _signed(self, log: Log, text: str, signatures: str) -> bool:
        good = False
        for line in signatures.splitlines():
            _, name, value = line.split(" ")
            data = base64.b64decode(value)
            for known, key, ident in log.keys:
                if (name, data[:4]) == (known, ident):
                    try:
                        key.verify(data[4:], text.encode())
                    except InvalidSignature:
                        return False
                    good = True
        return good

    def _continues(self, log: Log, size: int, root: bytes, proof: list[bytes]) -> bool:
        if size == 0 and root != hashlib.sha256(b"").digest():
            return False
        if log.size == 0:
            return not proof
        if log.size == size:
            return not proof and root == log.root
        return _consistent(log.size, size, log.root, root, proof)

    def _cosign(self, text: str) -> str:
        now = int(time.time())
        signature = self._key.sign(f"cosignature/v1\ntime {now}\n{text}".encode())
        value = base64.b64encode(self._id + now.to_bytes(8, "big") + signature).decode()
        return f"— {self.name} {value}\n"


def _consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> bool:
    """RFC 6962 section 2.1.2, by recursion over the definition of PROOF: rebuilds both roots from the proof."""
    rest = list(proof)

    def both(m: int, n: int, whole: bool) -> tuple[bytes, bytes]:
        if m == n:
            value = old_root if whole else rest.pop(0)
            return value, value
        k = 1 << ((n - 1).bit_length() - 1)
        if m <= k:
            left_old, left_new = both(m, k, whole)
            return left_old, _node(left_new, rest.pop(0))
        right_old, right_new = both(m - k, n - k, False)
        left = rest.pop(0)
        return _node(left, right_old), _node(left, right_new)

    try:
        found = both(old, new, True)
    except IndexError:
        return False
    return not rest and found == (old_root, new_root)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
