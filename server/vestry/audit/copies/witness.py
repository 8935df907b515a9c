"""An HTTP witness: C2SP tlog-witness, `add-checkpoint`, and reading back from its monitoring prefix.

The witness is sent each checkpoint with a proof that it continues the last one that the witness cosigned. It answers
with its cosignature, which is verified and kept below the log, with the checkpoint, as one signed note:

    cosigned/NAME.note      the newest checkpoint that this witness has cosigned: our signature line, then its own

`checkpoint` itself stays as the log wrote it. A witness does not keep what it is sent: it only vouches.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from vestry.audit.copies.durable import make_folder, read_bounded, write_whole
from vestry.audit.copies.sink import NOTE_LIMIT, Held, Item
from vestry.audit.tlog import merkle
from vestry.audit.tlog.cosignatures import Cosigner
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, PublicKey, split
from vestry.audit.tlog.tiles import CHECKPOINT, TileMissing, Tiles
from vestry.faults import cause_of
from vestry.wires import Answer, Undelivered, Web

COSIGNED = "cosigned"
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,15})\n")
_SAYS = {
    400: "it finds the request malformed",
    403: "it does not accept the signature: give it this log's public key, {public}",
    404: "it does not know this log: register {origin} there, with the public key {public}",
    422: "it finds that the log is not the one that it cosigned before, or the proof not good",
}


class WitnessSink:
    """sink.Sink over a witness. Proofs come from the tiles of the log in `home`."""

    keeps_registry = False

    def __init__(
        self,
        name: str,
        *,
        home: Path,
        public: PublicKey,
        witness: Cosigner,
        submission: Web,
        monitoring: Web | None = None,
        required: bool = False,
    ) -> None:
        """`public` is this very log's key, which the witness must know; `submission` and `monitoring` its prefixes."""
        self.name, self.required = name, required
        self.where = f"the witness {witness.name} at {submission.peer}"
        self._home, self._public, self._witness = home, public, witness
        self._submission, self._monitoring = submission, monitoring or submission
        self._old: int | None = None

    def deliver(self, item: Item) -> None:
        head = item.head()
        old = min(self._believed(), head.size)
        answer = self._add(old, head, item.note)
        if answer.status == 409 and (old < head.size or _SIZE.fullmatch(answer.body)):
            old = self._stated(answer)
            if old > head.size:
                self._overtaken(old)
                return
            answer = self._add(old, head, item.note)
        if answer.status != 200:
            self._old = None
            raise Undelivered(self._refusal(answer.status, same=old == head.size))
        self._keep(item.note, answer.body)
        self._old = head.size

    def newest(self) -> Held:
        """The checkpoint from the monitoring prefix, and the size that `add-checkpoint` states.

        A log without a checkpoint has nothing to ask the latter with.
        """
        own = self._head()
        try:
            note = self._monitored()
        except (Undelivered, NoteRefused) as error:
            doubt = f"{self.where} shows no checkpoint under its monitoring prefix: {error}"
            if own is None:
                raise Undelivered(doubt) from error
            return Held(size=self._asked(own), doubts=(doubt,))
        return Held(notes=() if note is None else (note,), size=None if own is None else self._asked(own))

    # add-checkpoint

    def _believed(self) -> int:
        """The size that the witness cosigned last, as far as is known here; its 409 tells better."""
        if self._old is None:
            try:
                note = read_bounded(self._home / COSIGNED / f"{self.name}.note", NOTE_LIMIT)
                self._old = Checkpoint.parse(split(note)[0]).size
            except (OSError, ValueError):
                self._old = 0
        return self._old

    def _add(self, old: int, head: Checkpoint, note: str) -> Answer:
        try:
            proof = merkle.prove_consistency(old, head.size, Tiles(self._home, head.size).subtree)
        except (TileMissing, ValueError, IndexError, OSError) as error:
            raise Undelivered(f"{self.where} needs a proof from {old} to {head.size} records: {error}") from error
        lines = [f"old {old}", *(base64.b64encode(each).decode() for each in proof)]
        body = "\n".join([*lines, "", note]).encode()
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        return self._submission.ask("POST", "/add-checkpoint", limit=NOTE_LIMIT, headers=headers, body=body)

    def _stated(self, answer: Answer) -> int:
        """The size in a 409 (`text/x.tlog.size`)."""
        found = _SIZE.fullmatch(answer.body)
        if found is None or answer.headers.get("content-type", "").partition(";")[0].strip() != "text/x.tlog.size":
            raise Undelivered(f"{self.where} answers 409 without the size that belongs to it")
        return int(found[1])

    def _overtaken(self, size: int) -> None:
        """The witness has cosigned a larger tree than the one that is to be delivered."""
        known = self._head()
        if known is None or size > known.size:
            mine = 0 if known is None else known.size
            raise Undelivered(f"{self.where} has cosigned {size} records, and this log has {mine}: it was rolled back")
        self._old = size

    def _keep(self, note: str, body: bytes) -> None:
        text, _ = split(note)
        try:
            lines = self._witness.lines(text, body.decode())
        except (NoteRefused, UnicodeDecodeError) as error:
            raise Undelivered(f"{self.where} answers with what is no cosignature: {_plain(error)}") from error
        if not lines:
            raise Undelivered(f"{self.where} answers without a cosignature by the key {self._witness}")
        path = self._home / COSIGNED / f"{self.name}.note"
        try:
            make_folder(path.parent)
            write_whole(path, note + "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise Undelivered(f"{path} cannot be written ({cause_of(error)})") from error

    def _refusal(self, status: int, *, same: bool = False) -> str:
        """In words. Where it agrees on the size (`same`), a 409 is about the roots, and no size belongs to it."""
        said = _SAYS.get(422 if same and status == 409 else status, "")
        says = said.format(public=self._public, origin=self._public.name)
        return f"{self.where} answers {status}" + (f": {says}" if says else "")

    # What it holds

    def _monitored(self) -> str | None:
        """Its newest checkpoint of this log, with its cosignature verified. Raises Undelivered, NoteRefused."""
        name = hashlib.sha256(self._public.name.encode()).hexdigest()
        answer = self._monitoring.ask("GET", f"/{name}/checkpoint", limit=NOTE_LIMIT)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Undelivered(f"it answers {answer.status}")
        try:
            note = answer.body.decode()
        except UnicodeDecodeError:
            raise NoteRefused("it is no text") from None
        if not self._witness.cosigned(note):
            raise NoteRefused(f"it is not cosigned by {self._witness.name}")
        return note

    def _asked(self, own: Checkpoint) -> int:
        """The size that it states when our present checkpoint is offered as if it knew none. Raises Undelivered."""
        note = self._own_note()
        answer = self._add(0, own, note)
        if answer.status == 409:
            return self._stated(answer)
        if answer.status == 200:  # it knew none; now it knows this one
            self._keep(note, answer.body)
            self._old = own.size
            return own.size
        raise Undelivered(self._refusal(answer.status))

    def _head(self) -> Checkpoint | None:
        try:
            return Checkpoint.open(self._own_note(), self._public)
        except (OSError, ValueError):
            return None

    def _own_note(self) -> str:
        return read_bounded(self._home / CHECKPOINT, NOTE_LIMIT)


def _plain(error: Exception) -> str:
    return str(error) if isinstance(error, NoteRefused) else "it is no text"
