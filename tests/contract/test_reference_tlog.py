"""Others accept our trees, checkpoints, tiles and proofs, and we accept theirs: Go's sumdb, and pymerkle."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pymerkle
import pytest

from support.audit_logs import House, calls, flip
from vestry.audit.tlog import merkle
from vestry.audit.tlog.notes import Checkpoint, PublicKey
from vestry.audit.tlog.tiles import Tiles

SOURCE = Path(__file__).resolve().parents[1] / "support" / "reference" / "main.go"
SIZES = (1, 2, 255, 256, 257, 1000, 66_000)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built from the distribution's packages (deploy/test-packages.txt), without a network."""
    assert shutil.which("go"), "install deploy/test-packages.txt: `make packages`"
    folder = tmp_path_factory.mktemp("reference")
    environment = {
        **os.environ,
        "GOPATH": "/usr/share/gocode",
        "GO111MODULE": "off",
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    program = folder / "reference"
    command = ["go", "build", "-o", str(program), str(SOURCE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return program


def plain(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


def raw(texts: list[str] | None) -> list[bytes]:
    return [base64.b64decode(each) for each in texts or []]


def ours(home: Path, key: PublicKey, index: int, old: int) -> str:
    """Proofs of ours, for the Go program."""
    size = Checkpoint.open((home / "checkpoint").read_text(), key).size
    tiles = Tiles(home, size)
    given = {
        "Index": index,
        "Inclusion": plain(merkle.prove_inclusion(index, size, tiles.subtree)),
        "Consistency": plain(merkle.prove_consistency(old, size, tiles.subtree)),
        "OldRoot": base64.b64encode(merkle.root(old, tiles.subtree)).decode(),
    }
    return json.dumps(given)


def asked(program: Path, home: Path, key: PublicKey, old: int, proofs: str) -> subprocess.CompletedProcess[str]:
    """What the Go program says of a log and of proofs."""
    return subprocess.run(
        [str(program), str(home), str(key), str(old)], input=proofs, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("size", SIZES)
def test_go_accepts_ours_and_we_accept_theirs(tmp_path: Path, reference: Path, size: int) -> None:
    """Key, note, checkpoint, tiles, bundles and proofs of ours are read by Go's code; its own proofs and its own signed
    note are accepted here."""
    house = House(tmp_path)
    log = house.log("server", size)
    index, old = size * 2 // 3, max(1, size // 2)
    key = house.key.of("server")
    done = asked(reference, log.home, key, old, ours(log.home, key, index, old))
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    root = base64.b64decode(made["Root"])
    assert (made["Size"], root) == (size, log.tree.root())
    tiles = Tiles(log.home, size)
    merkle.verify_inclusion(index, size, tiles.leaf_hash(index), raw(made["Inclusion"]), root)
    merkle.verify_consistency(old, size, merkle.root(old, tiles.subtree), root, raw(made["Consistency"]))
    theirs = PublicKey.parse(made["Vkey"])
    assert str(theirs) == made["Vkey"]
    assert Checkpoint.open(made["Note"], theirs) == Checkpoint("go.example/log", size, root)


@pytest.mark.parametrize("name", ["tile/0/000", "tile/1/000.p/3", "tile/entries/000", "checkpoint"])
def test_go_refuses_what_was_changed(tmp_path: Path, reference: Path, name: str) -> None:
    """The comparison can fail: a changed tile, bundle or checkpoint is refused by Go's code too."""
    house = House(tmp_path)
    log = house.log("server", 1000)
    key = house.key.of("server")
    proofs = ours(log.home, key, 97, 500)
    assert asked(reference, log.home, key, 500, proofs).returncode == 0
    flip(log.home / name, 40)
    done = asked(reference, log.home, key, 500, proofs)
    assert done.returncode == 1
    assert done.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 255, 256, 257, 700])
def test_pymerkle_has_the_same_tree(tmp_path: Path, size: int) -> None:
    """Roots of all sizes, and proofs in both directions."""
    log = House(tmp_path).log("server", size)
    tiles = Tiles(log.home, size)
    theirs = pymerkle.InmemoryTree(algorithm="sha256")
    for _, leaf in tiles.leaves():
        theirs.append_entry(leaf)
    assert theirs.get_root() == log.tree.root()
    for each in range(1, size + 1, 13):
        assert theirs.get_root(each) == merkle.root(each, tiles.subtree)
        index = each - 1
        leaf, path = tiles.leaf_hash(index), merkle.prove_inclusion(index, size, tiles.subtree)
        made = theirs.prove_inclusion(each, size)
        merkle.verify_inclusion(index, size, leaf, made.path[1:], log.tree.root())
        of_ours = pymerkle.InclusionProof("sha256", True, size, each, made.rule, [leaf, *path])
        pymerkle.verify_inclusion(leaf, log.tree.root(), of_ours, index=each, size=size)
        # Its consistency proofs have a layout of their own, so only the roots are ours.
        consistency = theirs.prove_consistency(each, size)
        pymerkle.verify_consistency(merkle.root(each, tiles.subtree), log.tree.root(), consistency)


def test_the_logs_are_not_empty() -> None:
    """The records of these logs differ from one another."""
    assert len({str(each) for each in calls(50)}) == 50
