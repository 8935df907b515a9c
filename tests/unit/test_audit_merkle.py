"""The Merkle tree of RFC 6962 and RFC 9162: the known vectors, and proofs that were forged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestry.audit.tlog.merkle import (
    EMPTY_ROOT,
    ProofRefused,
    Subtrees,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root,
    verify_consistency,
    verify_inclusion,
    whole,
)
from vestry.audit.verify.frontier import Frontier

# The eight leaves and the roots that certificate-transparency's tests have used since RFC 6962.
LEAVES = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
H01 = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
H1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
H23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
H4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
H47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
H45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
H67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
INCLUSION = [
    (0, 8, [H1, H23, H47]),
    (5, 8, [H4, H67, ROOTS[3]]),
    (2, 3, [H01]),
    (1, 5, [ROOTS[0], H23, H4]),
]
CONSISTENCY = [(1, 8, [H1, H23, H47]), (6, 8, [H45, H67, ROOTS[3]]), (2, 5, [H23, H4])]


def tree(leaves: list[bytes]) -> Subtrees:
    """Where the hashes of whole subtrees of these leaves are."""

    def subtree(level: int, number: int) -> bytes:
        return whole([leaf_hash(each) for each in leaves[number << level : (number + 1) << level]])

    return subtree


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as it stands there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(by_definition(leaves[:k]), by_definition(leaves[k:]))


def numbered(size: int) -> list[bytes]:
    return [b"%d" % each for each in range(size)]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_of_the_known_tree(size: int) -> None:
    """The roots of the known leaves, each size: of the tree, and of the verifier's own."""
    assert root(size, tree(LEAVES)).hex() == ROOTS[size - 1]
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.push(0, leaf_hash(leaf))
    assert frontier.root().hex() == ROOTS[size - 1]


def test_the_empty_tree() -> None:
    """Its root is the hash of nothing."""
    assert root(0, tree([])) == EMPTY_ROOT == Frontier().root() == hashlib.sha256(b"").digest()


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_known_inclusion_proofs(index: int, size: int, path: list[str]) -> None:
    """We make the known proofs, and accept them."""
    proof = prove_inclusion(index, size, tree(LEAVES))
    assert [each.hex() for each in proof] == path
    verify_inclusion(index, size, leaf_hash(LEAVES[index]), proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "size", "path"), CONSISTENCY)
def test_known_consistency_proofs(old: int, size: int, path: list[str]) -> None:
    """We make the known proofs, and accept them."""
    proof = prove_consistency(old, size, tree(LEAVES))
    assert [each.hex() for each in proof] == path
    verify_consistency(old, size, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[size - 1]), proof)


@given(st.lists(st.binary(max_size=8), max_size=70))
@settings(deadline=None)
def test_roots_are_those_of_the_definition(leaves: list[bytes]) -> None:
    """For any leaves."""
    assert root(len(leaves), tree(leaves)) == by_definition(leaves)


@given(st.integers(1, 600), st.data())
@settings(deadline=None, max_examples=60)
def test_proofs_of_any_tree_verify(size: int, data: st.DataObject) -> None:
    """Inclusion of any leaf, consistency with any older size."""
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    subtrees, leaves = tree(numbered(size)), numbered(size)
    top = root(size, subtrees)
    verify_inclusion(index, size, leaf_hash(leaves[index]), prove_inclusion(index, size, subtrees), top)
    verify_consistency(old, size, root(old, subtrees), top, prove_consistency(old, size, subtrees))


def forged(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Each hash flipped, dropped, doubled; two of them swapped; one too many."""
    for at in range(len(proof)):
        yield [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
        yield [*proof[: at + 1], *proof[at:]]
        for other in range(at + 1, len(proof)):
            if proof[at] != proof[other]:
                swapped = list(proof)
                swapped[at], swapped[other] = swapped[other], swapped[at]
                yield swapped
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 16, 100])
def test_forged_inclusion_proofs_are_refused(size: int) -> None:
    """Every forgery of every proof, another index, another size, another leaf, another root."""
    subtrees, leaves = tree(numbered(size)), numbered(size)
    top = root(size, subtrees)
    for index in range(size):
        proof, leaf = prove_inclusion(index, size, subtrees), leaf_hash(leaves[index])
        for each in forged(proof):
            with pytest.raises(ProofRefused):
                verify_inclusion(index, size, leaf, each, top)
        for other in {index - 1, index + 1, index + size}:
            with pytest.raises(ProofRefused):
                verify_inclusion(other, size, leaf, proof, top)
        with pytest.raises(ProofRefused):
            verify_inclusion(index, size, leaf_hash(b"another"), proof, top)
        with pytest.raises(ProofRefused):
            verify_inclusion(index, size, leaf, proof, leaf) if size > 1 else verify_inclusion(0, 0, leaf, proof, top)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13, 16, 100])
def test_forged_consistency_proofs_are_refused(size: int) -> None:
    """Every forgery of every proof, swapped and wrong roots, sizes off by one."""
    subtrees = tree(numbered(size))
    top = root(size, subtrees)
    for old in range(1, size):
        proof, before = prove_consistency(old, size, subtrees), root(old, subtrees)
        for each in forged(proof):
            with pytest.raises(ProofRefused):
                verify_consistency(old, size, before, top, each)
        for roots in ((top, before), (before, before), (top, top)):
            with pytest.raises(ProofRefused):
                verify_consistency(old, size, *roots, proof)
        for sizes in ((old - 1, size), (old + 1, size), (size, old), (-1, size)):
            with pytest.raises(ProofRefused):
                verify_consistency(*sizes, before, top, proof)


@pytest.mark.parametrize("size", [4, 7, 64])
def test_a_proof_for_another_size_is_refused(size: int) -> None:
    """A proof from a tree is none for a tree that is one larger or smaller, whose root is another."""
    leaves = numbered(size + 1)
    for index in range(size - 1):
        proof = prove_inclusion(index, size, tree(leaves))
        for other in (size - 1, size + 1):
            with pytest.raises(ProofRefused):
                verify_inclusion(index, other, leaf_hash(leaves[index]), proof, root(other, tree(leaves)))


@pytest.mark.parametrize(("old", "size"), [(0, 5), (5, 5)])
def test_consistency_where_there_is_nothing_to_prove(old: int, size: int) -> None:
    """From nothing, and with itself: no hashes, and only the right roots."""
    subtrees = tree(numbered(size))
    before, top = root(old, subtrees), root(size, subtrees)
    verify_consistency(old, size, before, top, [])
    with pytest.raises(ProofRefused):
        verify_consistency(old, size, before, top, [bytes(32)])
    with pytest.raises(ProofRefused):
        verify_consistency(old, size, bytes(32), top, [])


def test_what_cannot_be_proven() -> None:
    """An index beyond the tree, and a tree that was never that large, are errors of the caller."""
    with pytest.raises(ValueError, match="no leaf 3"):
        prove_inclusion(3, 3, tree(numbered(3)))
    with pytest.raises(ValueError, match="never one of 4"):
        prove_consistency(4, 3, tree(numbered(3)))


@given(st.lists(st.integers(0, 4), max_size=12))
def test_a_frontier_takes_subtrees_of_any_size(levels: list[int]) -> None:
    """Whole subtrees, each where one of its size may begin, give the root of all their leaves."""
    frontier, size = Frontier(), 0
    for level in levels:
        while size % (1 << level):
            frontier.push(0, leaf_hash(b"%d" % size))
            size += 1
        frontier.push(level, tree(numbered(size + (1 << level)))(level, size >> level))
        size += 1 << level
    assert frontier.size == size
    assert frontier.root() == by_definition(numbered(size))
