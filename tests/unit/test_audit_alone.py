"""The one-file verifier for itself: Ed25519 by RFC 8032, its own imports, its proofs and its exit statuses."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from support.alone import ALONE, FILE, asked, both, first_bad
from support.audit_logs import House, calls, copied
from support.cli import Cli
from vestry.audit.proofs import Prover
from vestry.audit.tlog.notes import Checkpoint
from vestry.audit.verify.findings import Report
from vestry.audit.verify.house import verify

# RFC 8032 section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032(public: str, message: str, signature: str) -> None:
    """Accepted as they are; refused with any byte of the signature, the key or the message changed."""
    key, text, value = (bytes.fromhex(each) for each in (public, message, signature))
    assert ALONE.ed25519(key, text, value)
    assert not ALONE.ed25519(key, text + b"x", value)
    for at in range(64):
        assert not ALONE.ed25519(key, text, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
    assert not ALONE.ed25519(key[:-1] + bytes([key[-1] ^ 0x80]), text, value)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
@settings(deadline=None, max_examples=25)
def test_signatures_of_another_implementation(seed: bytes, message: bytes) -> None:
    """What OpenSSL signs is accepted; the same signature with the group's order added to it is not (malleability)."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, value = private.public_key().public_bytes_raw(), private.sign(message)
    assert ALONE.ed25519(public, message, value)
    again = int.from_bytes(value[32:], "little") + ALONE.ORDER
    assert not ALONE.ed25519(public, message, value[:32] + again.to_bytes(32, "little"))
    assert not ALONE.ed25519(public, message, value[:63])
    assert not ALONE.ed25519(b"\xff" * 32, message, value)


def test_it_needs_the_standard_library_alone() -> None:
    """It imports nothing else, and nothing of ours: it runs by itself, without site-packages."""
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    names = {each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(FILE), "--help"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_its_words_and_statuses(tmp_path: Path) -> None:
    """0 and Verified, 1 and what is wrong, 2 and a sentence; the key may stand in a file."""
    house = House(tmp_path / "audit")
    log = house.log("server", 300)
    key = tmp_path / "house.pub"
    key.write_text(f"{house.key}\n")
    status, out, err = asked(str(house.directory), "--public-key", str(key))
    assert (status, err) == (0, "")
    assert out.endswith("Verified.\n")
    assert "no outcome yet: 'req_" in out
    (log.home / "checkpoint").unlink()
    status, out, err = asked(str(house.directory), "--public-key", str(key))
    assert status == 1
    assert out.endswith("NOT verified.\n")
    assert "FAILED server" in out
    for words in ([str(tmp_path / "none"), str(house.key)], [str(house.directory), "x+00000000+AAAA"]):
        status, out, err = asked(words[0], "--public-key", words[1])
        assert (status, out) == (2, "")
        assert err.startswith("error: ")


def test_given_files_that_are_none(tmp_path: Path) -> None:
    """A proof, a record or a key that is missing, no text, too large or a pipe: 2, and the other verifier's too."""
    house = House(tmp_path / "audit")
    prover = Prover(house.log("server", 20).home)
    proof = tmp_path / "good.tlog-proof"
    proof.write_text(prover.prove(prover.at(7)).written())
    bad = {name: tmp_path / name for name in ("missing", "binary", "large", "pipe")}
    bad["binary"].write_bytes(b"\xff\xfe")
    bad["large"].write_bytes(b"x" * (2 << 20))
    os.mkfifo(bad["pipe"])
    good = [str(proof), "--public-key", str(house.key)]
    assert asked(*good)[0] == 0
    for path in map(str, bad.values()):
        for words in ([path, *good[1:]], [*good, "--record", path], [str(proof), "--public-key", path]):
            if "--record" in words and path.endswith("binary"):
                continue  # a record that is no text is a record that is not proven
            status, out, err = asked(*words)
            assert (status, out) == (2, ""), (words, out, err)
            assert err.startswith("error: ")
            assert Cli(tmp_path / "state")("audit", "verify-proof", *words).exit_code == 2
        for option in ("--checkpoint", "--registry"):
            words = [str(house.directory), "--public-key", str(house.key), option, path]
            status, _, err = asked(*words)
            assert (status, path in err) == (2, True), (words, err)
            assert ("is not there" in err) == path.endswith("missing"), err
            assert Cli(tmp_path / "state")("audit", "verify", *words).exit_code == 2
    status, _, err = asked(str(house.directory), "--public-key", str(bad["missing"]))
    assert (status, "nor a file" in err) == (2, True), err


@pytest.mark.parametrize("time", [5, None, ["x"], {}, True, "yesterday", "2026-W01-1", "0001-01-01T00:00:00"])
def test_a_time_that_is_none(tmp_path: Path, time: object) -> None:
    """Of whatever type it is, it is the record's fault, with its index."""
    house = House(tmp_path / "audit")
    log = house.log("server")
    log.add([*calls(9), {"type": "outcome", "time": time}]).checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"server": 9}


@pytest.mark.parametrize(
    "line", ["— w.example AAAA", "— w.example AAAAAAAAAA=", "— w.example", "w.example AAAAAAAAAAA="]
)
def test_signature_lines_that_are_none(tmp_path: Path, line: str) -> None:
    """A line below the checkpoint without a name, or too short for a key id and a signature, makes it no note."""
    house = House(tmp_path / "audit")
    path = house.log("server", 21).home / "checkpoint"
    path.write_text(f"{path.read_text()}— w.example AAAAAAAAAAA=\n")
    assert passes(both(house.directory, house.key))
    path.write_text(f"{path.read_text()}{line}\n")
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"server": None}


def test_a_kept_checkpoint_without_its_last_line_feed(tmp_path: Path) -> None:
    """As it comes out of a mail or a form: it is compared with, by both."""
    house = House(tmp_path / "audit")
    log = house.log("server", 21)
    kept = tmp_path / "kept"
    kept.write_text("\n".join(["", *log.checkpoints, "", ""]) + log.checkpoints[0].rstrip("\n"))
    words = [str(house.directory), "--public-key", str(house.key), "--checkpoint", str(kept)]
    assert asked(*words)[0] == 0
    assert Cli(tmp_path / "state")("audit", "verify", *words).exit_code == 0


def test_a_whole_bundle_in_the_place_of_a_partial_one(tmp_path: Path) -> None:
    """A copy that was taken while the server wrote has it; also where its number is how many records are signed."""
    house = House(tmp_path / "audit")
    log = house.log("server", 100 * 256 + 100, segment=9000)
    log.add(list(calls(202))[1:])
    log.tree.flush()
    assert not (log.home / "tile/entries/100.p").exists()
    report = both(house.directory, house.key)
    assert passes(report)
    assert report.logs[0].size == 25_700


def test_a_checkpoint_named_as_the_house(tmp_path: Path) -> None:
    """The house's own name is no log's: what the key has signed so is the checkpoint of none of several."""
    house = House(tmp_path / "audit")
    log = house.log("server", 21)
    note = house.signer.sign(Checkpoint(house.key.name, 21, log.tree.root()).text())
    assert both(house.directory, house.key, note) is None
    (log.home / "checkpoint").write_text(note)
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"server": None}


@pytest.mark.parametrize("name", ["Server", "zz/", "zz/..", "a b"])
def test_a_registry_with_what_names_no_log(tmp_path: Path, name: str) -> None:
    """It is signed, and malformed."""
    house = House(tmp_path / "audit")
    house.log("server", 21)
    house.register("server", name)
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"": None, "server": None}


@pytest.mark.parametrize("leads", ["nowhere", "checkpoint"])
def test_a_checkpoint_that_is_a_link_to_nowhere(tmp_path: Path, leads: str) -> None:
    """A log whose checkpoint is one is there, and nothing of it is proven."""
    house = House(tmp_path / "audit")
    house.log("server", 21)
    home = house.log("two").home
    (home / "checkpoint").symlink_to(leads)
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"two": None}


@pytest.mark.parametrize("damage", ["", "gone", "cut"])
def test_one_log_alone(tmp_path: Path, damage: str) -> None:
    """By the house's key, and by the log's own, as a witness has it; it is named also where its checkpoint is none."""
    house = House(tmp_path / "audit")
    log = house.log("server", 21)
    proof = tmp_path / "one.tlog-proof"
    proof.write_text(Prover(log.home).prove(Prover(log.home).at(7)).written())
    path = log.home / "checkpoint"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_text(path.read_text()[:-2])
    for key in (house.key, house.key.of("server")):
        report = both(log.home, key, log.checkpoints[0])
        assert report is not None
        assert first_bad(report) == ({"server": 0} if damage else {})
        assert asked(str(proof), "--public-key", str(key))[0] == 0


def test_a_directory_called_tile(tmp_path: Path) -> None:
    """At the top it may hide a log, which nobody has registered; within a log it holds the tiles."""
    house = House(tmp_path / "audit")
    house.log("server", 21)
    copied(house.directory / "server", house.directory / "tile")
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"tile": None}


def test_a_proof_that_does_not_carry_its_record(tmp_path: Path) -> None:
    """It is no proof without the record: 2, and 0 with it."""
    house = House(tmp_path / "audit")
    prover = Prover(house.log("server", 20).home)
    found = prover.at(7)
    proof, record = tmp_path / "bare.tlog-proof", tmp_path / "record"
    lines = prover.prove(found).written().split("\n")
    proof.write_text("\n".join(line for line in lines if not line.startswith("extra ")))
    record.write_bytes(found.leaf + b"\n")
    words = [str(proof), "--public-key", str(house.key)]
    for more, status in (([], 2), (["--record", str(record)], 0)):
        assert asked(*words, *more)[0] == status
        assert Cli(tmp_path / "state")("audit", "verify-proof", *words, *more).exit_code == status


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A directory for somebody who is not root, whom this test is for so long: root may read everything."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o777)
    own = os.geteuid()
    if own:
        pytest.skip("only root can become somebody else")
    try:
        yield place
    finally:
        os.seteuid(own)
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("path", "status", "bad"),
    [
        ("server/000000000000000300.jsonl", 1, 300),
        ("server/000000000000000600.jsonl", 1, 600),
        ("server/tile/entries/001", 1, 256),
        ("server/tile/entries", 2, None),
        ("server", 2, None),
    ],
)
def test_what_may_not_be_read(stranger: Path, path: str, status: int, bad: int | None) -> None:
    """Of a file that cannot be read this is said, and not that it was cut or is missing; a directory that cannot be
    listed is not taken for an empty one.
    """
    house = House(stranger / "audit")
    house.log("server", 701).add(list(calls(21))[1:])
    for each in (house.directory, *house.directory.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)
    (house.directory / path).chmod(0)
    os.seteuid(65_534)
    if status == 2:
        done, out, err = asked(str(house.directory), "--public-key", str(house.key))
        assert (done, out) == (2, "")
        assert "Permission denied" in err
        with pytest.raises(PermissionError):
            verify(house.directory, house.key)
        return
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"server": bad}
    assert [each.sentence.count("cannot be read: Permission denied") for each in report.findings() if each.failure] == [
        1
    ]


def passes(report: Report | None) -> TypeGuard[Report]:
    assert report is not None
    assert report.passed, [each.sentence for each in report.findings() if each.failure]
    return True
