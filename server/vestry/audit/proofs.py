"""Proofs that one record stands in the log: made from a log's tiles, and verified with nothing but a public key.

A proof is a C2SP tlog-proof whose extra data are the record itself, so that it verifies alone. Extra data are not
authenticated by themselves; here they are hashed, and only then believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from vestry.audit.canonical import clean
from vestry.audit.reading import LogReader
from vestry.audit.tlog import merkle
from vestry.audit.tlog.merkle import ProofRefused, leaf_hash
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, Proof, PublicKey, split
from vestry.audit.tlog.tiles import TileMissing, Tiles
from vestry.audit.verify.chronicle import record_of
from vestry.audit.verify.findings import BadInput
from vestry.audit.verify.house import key_for, signed_by

PROOF_BYTES = 1 << 20


class Found(Struct, frozen=True):
    """A record that is to be proven."""

    index: int
    leaf: bytes
    type: str


class Proven(Struct, frozen=True):
    """What a proof has proven: that `record` is number `index` of the first `size` records of the log `name`."""

    name: str
    index: int
    size: int
    root: bytes
    leaf: bytes
    record: dict[str, Any]


class Prover:
    """Proves records of one log against its newest checkpoint. Raises BadInput where there is none, and NoLog."""

    def __init__(self, home: Path) -> None:
        self._reader = LogReader(home)
        note = self._reader.note()
        if note is None:
            raise BadInput(
                f"{home} has no checkpoint yet, so nothing in it can be proven. The first one is made within seconds."
            )
        self._home, self._note = home, note
        self.head = self._reader.said(note)  # not read again: another one may stand there by now
        self._tiles = Tiles(home, self.head.size)

    def at(self, index: int) -> Found:
        """One record. Raises BadInput where it is not there to be proven."""
        if index >= self.head.size:
            raise BadInput(
                f"There is no record {index} to be proven in {self._home}: the newest checkpoint covers "
                f"{self.head.size} records, 0 to {self.head.size - 1}. A record is covered within a minute."
            )
        try:
            leaf = next(leaf for _, leaf in self._tiles.leaves(index, index + 1))
        except TileMissing as error:
            raise BadInput(f"Record {index} is not here: {error}. It may have been pruned.") from None
        return _found(index, leaf)

    def of(self, request_id: str) -> Iterator[Found]:
        """The records of one call, in order: intent and outcome, or a refusal, or what closed the intent."""
        wanted = request_id.encode()
        for index, leaf in self._reader.leaves(stop=self.head.size):
            if wanted in leaf:
                record = record_of(leaf)
                if isinstance(record, dict) and record.get("request_id") == request_id:
                    yield _found(index, leaf)

    def prove(self, found: Found) -> Proof:
        """The proof; it has been verified. Raises ProofRefused where the log is not what its checkpoint says."""
        try:
            hashes = merkle.prove_inclusion(found.index, self.head.size, self._tiles.subtree)
        except TileMissing as error:
            raise ProofRefused(f"the log is damaged: {error}") from None
        merkle.verify_inclusion(found.index, self.head.size, leaf_hash(found.leaf), hashes, self.head.root)
        return Proof(found.index, tuple(hashes), self._note, found.leaf)


def verify_proof(text: str, key: PublicKey, leaf: bytes | None = None) -> Proven:
    """What a proof proves of `leaf`, or of the record that it carries. `key` is the house's, or the log's own.

    Raises BadInput for what is no proof, or one of another house; ProofRefused for one that proves nothing.
    """
    try:
        proof = Proof.parse(text)
        name = proof.checkpoint.partition("\n")[0]
        mine = key_for(name, key)
        ours = mine is not None and signed_by(proof.checkpoint, mine)
        split(proof.checkpoint)
    except NoteRefused as error:
        raise BadInput(f"This is no proof that can be verified: {error}.") from None
    if mine is None or not ours:
        raise BadInput(f"The proof's checkpoint is not signed by {key.name} with the key {key.id.hex()}.")
    try:
        head = Checkpoint.open(proof.checkpoint, mine)
    except NoteRefused as error:
        raise ProofRefused(f"the checkpoint counts for nothing: {error}") from None
    leaf = leaf if leaf is not None else proof.extra
    if not leaf:
        raise BadInput("The proof does not carry its record; give the record too.")
    merkle.verify_inclusion(proof.index, head.size, leaf_hash(leaf), proof.hashes, head.root)
    record = record_of(leaf)
    if isinstance(record, str):
        raise ProofRefused(f"what stands at index {proof.index} of the log {record}")
    stands = f"{key.name}/{record.get('origin')}" == name or (
        name == key.name and name.endswith(f"/{record.get('origin')}")
    )
    if record.get("index") != proof.index or not stands:
        raise ProofRefused(f"the record at index {proof.index} of {name} says of itself that it stands elsewhere")
    return Proven(head.name, proof.index, head.size, head.root, leaf, record)


def _found(index: int, leaf: bytes) -> Found:
    record = record_of(leaf)
    kind = record.get("type") if isinstance(record, dict) else None
    return Found(index, leaf, clean(kind, 64) if isinstance(kind, str) else "?")
