"""The Merkle tree of RFC 6962 section 2.1 (and RFC 9162 section 2.1): hashes, roots, proofs and their verification.

SHA-256 throughout; a hash is 32 bytes. A tree of size n has leaves 0 to n - 1. Nothing here reads a file: whoever
proves says where the hashes of whole subtrees are (`Subtrees`), whoever verifies needs nothing but the proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""

Subtrees = Callable[[int, int], bytes]
"""`(level, number)` to the hash of the whole subtree over leaves `number * 2**level` up to the next such bound."""


class ProofRefused(ValueError):  # noqa: N818 - what became of the proof
    """A proof does not prove what it should. The sentence says why."""


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962 section 2.1: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 section 2.1: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """Root of whole subtrees that stand side by side, the largest first: as a tree's own end is put together."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for each in hashes[-2::-1]:
        root = node_hash(each, root)
    return root


def whole(hashes: Sequence[bytes]) -> bytes:
    """Root of a whole tree over 2**k hashes."""
    level, sha256 = hashes, hashlib.sha256
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    return level[0]


def parts(start: int, end: int) -> list[tuple[int, int]]:
    """The whole subtrees `(level, number)` that make up the leaves from `start` to before `end`, from left to right.

    `start` is where a subtree of at least `end - start` leaves may begin, as it is in every proof of RFC 6962.
    """
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def root(size: int, subtrees: Subtrees) -> bytes:
    """Root of the tree over the first `size` leaves."""
    return _hash(0, size, subtrees)


def prove_inclusion(index: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """PATH(index, D[0:size]) of RFC 6962 section 2.1.1: the leaf's sibling first, the root's child last.

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_hash(middle, end, subtrees))
            end = middle
        else:
            path.append(_hash(start, middle, subtrees))
            start = middle
    return path[::-1]


def prove_consistency(old: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """PROOF(old, D[0:size]) of RFC 6962 section 2.1.2; empty where `old` is 0 or `size`.

    Raises ValueError unless 0 <= old <= size.
    """
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} leaves was never one of {old}")
    if old in {0, size}:
        return []
    start, end, path, complete = 0, size, [], True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_hash(middle, end, subtrees))
            end = middle
        else:
            path.append(_hash(start, middle, subtrees))
            start, complete = middle, False
    if not complete:
        path.append(_hash(start, end, subtrees))
    return path[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], expected: bytes) -> None:
    """RFC 9162 section 2.1.3.2. `leaf` is the leaf's hash, `expected` the root. Raises ProofRefused."""
    if not 0 <= index < size:
        raise ProofRefused(f"index {index} is out of range for a tree of {size} records")
    node, last, value = index, size - 1, leaf
    for each in proof:
        if last == 0:
            raise ProofRefused("the proof has more hashes than the tree is high")
        if node & 1 or node == last:
            value = node_hash(each, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = node_hash(value, each)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofRefused("the proof has fewer hashes than the tree is high")
    if value != expected:
        raise ProofRefused(f"the proof does not lead from record {index} to the root of the checkpoint")


def verify_consistency(old: int, size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 section 2.1.4.2: the tree of `size` leaves begins with that of `old`. Raises ProofRefused."""
    if not 0 <= old <= size:
        raise ProofRefused(f"a tree of {size} records cannot continue one of {old}")
    if old in {0, size}:
        if proof or (old == size and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise ProofRefused(f"two trees of the sizes {old} and {size} do not agree")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise ProofRefused("the proof is empty")
    if _both_roots(old, size, path) != (old_root, new_root):
        raise ProofRefused(f"the tree of {size} records does not begin with the one of {old}")


def _both_roots(old: int, size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of both trees, as a consistency proof has them. Raises ProofRefused for one of the wrong length."""
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for each in path[1:]:
        if last == 0:
            raise ProofRefused("the proof has more hashes than the tree is high")
        if node & 1 or node == last:
            first, second = node_hash(each, first), node_hash(each, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, each)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofRefused("the proof has fewer hashes than the tree is high")
    return first, second


def _split(size: int) -> int:
    """The greatest power of two that is less than `size` (RFC 6962's k)."""
    return 1 << ((size - 1).bit_length() - 1)


def _hash(start: int, end: int, subtrees: Subtrees) -> bytes:
    return fold([subtrees(level, number) for level, number in parts(start, end)])
