"""`vestry audit`: verify, prove, verify-proof, as they are typed; and proofs that were forged."""

from __future__ import annotations

import base64
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.alone import asked
from support.audit_logs import House, Log, bundle_of, calls, flip, signer, tile_of
from support.cli import Cli
from vestry.audit.reading import LogReader
from vestry.audit.tlog.notes import Checkpoint, Proof

REQUEST = f"req_{3:032x}"


class Place:
    """A house on the disk, its key in a file, and the command line."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.house = folder, House(folder / "audit")
        self.log: Log = self.house.log("server", 1000)
        self.house.log("server/two", 5)
        self.key = folder / "house.pub"
        self.key.write_text(f"{self.house.key}\n")
        self.cli = Cli(folder / "state")
        monkeypatch.chdir(folder)

    def proof(self, which: str, *more: str) -> Path:
        """A proof of one record."""
        self.cli.ok("audit", "prove", which, "--directory", "audit", "--output", "one.tlog-proof", *more)
        return self.folder / "one.tlog-proof"

    def judged(self, proof: Path | str) -> tuple[int, str]:
        """Status and words of `verify-proof`; the one-file verifier has the same status."""
        result = self.cli("audit", "verify-proof", str(proof), "--public-key", str(self.key))
        assert asked(str(proof), "--public-key", str(self.key))[0] == result.exit_code, result.output
        return result.exit_code, result.output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_verify_says_yes(place: Place) -> None:
    """Status 0, a line a log, what is only worth knowing, and the verdict last; the key as a file or as text."""
    for key in (str(place.key), str(place.house.key)):
        result = place.cli("audit", "verify", "audit", "--public-key", key)
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert lines[0].startswith("server: ok; records 0 to 999; root ")
        assert lines[1].startswith("server/two: ok; records 0 to 4; ")
        assert lines[-1] == "Verified."
        assert f"req_{499:032x}" in result.stdout


def test_verify_says_no(place: Place) -> None:
    """Status 1, the place, what was expected and what is there; as JSON too."""
    flip(bundle_of(place.log.home, 0), 3)
    flip(tile_of(place.log.home, 1, 0), 70)
    result = place.cli("audit", "verify", "audit", "--public-key", str(place.key))
    assert result.exit_code == 1
    assert "server: FAILED; records 0 to 999; " in result.stdout
    assert "first bad index 0" in result.stdout
    assert "\n    expected: " in result.stdout
    assert "\n    there is: " in result.stdout
    assert result.stdout.splitlines()[-1].startswith("NOT verified: ")
    report = json.loads(place.cli("audit", "verify", "audit", "--public-key", str(place.key), "--json").stdout)
    assert report["passed"] is False
    assert report["logs"][0]["first_bad"] == 0


def test_verify_counts_what_it_does_not_list(place: Place) -> None:
    """Of hundreds of failures the first hundred are listed, the rest counted."""
    tile = tile_of(place.log.home, 0, 0)
    tile.write_bytes(bytes(len(tile.read_bytes())))
    result = place.cli("audit", "verify", "audit", "--public-key", str(place.key))
    assert result.exit_code == 1
    assert "… and 156 failures more" in result.stdout


def test_verify_against_kept_checkpoints(place: Place) -> None:
    """Several in one file, one after the other; a log that has shrunk since is told with both sizes."""
    later = place.log.key.sign(Checkpoint(place.log.key.public.name, 2000, bytes(32)).text())
    (place.folder / "kept").write_text(place.log.checkpoints[0] + "\n" + later)
    words = ("audit", "verify", "audit/server", "--public-key", str(place.key), "--checkpoint", "kept")
    result = place.cli(*words)
    assert result.exit_code == 1
    assert "a checkpoint of 2000 records was signed, and here are 1000" in result.stdout
    (place.folder / "kept").write_text(place.log.checkpoints[0])
    result = place.cli(*words)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == ("Verified. One log alone: whether others are missing was not looked at.")


def test_verify_against_kept_registries(place: Place) -> None:
    """A log that one lists and the copy does not is a failure."""
    words = ("audit", "verify", "audit", "--public-key", str(place.key), "--registry", "kept")
    (place.folder / "kept").write_text((place.house.directory / "origins").read_text())
    assert place.cli(*words).exit_code == 0
    shutil.rmtree(place.house.directory / "server" / "two")
    place.house.register("server")
    assert place.cli(*words[:5]).exit_code == 0
    result = place.cli(*words)
    assert result.exit_code == 1
    assert "FAILED [registry-short] server/two: The log `server/two` stands in a registry that was" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "nothing", "--public-key", "house.pub"), "nothing is no directory."),
        (("verify", ".", "--public-key", "nothing"), "neither a public key"),
        (("verify", ".", "--public-key", "x" * 5000), "cannot be read"),
        (("verify", ".", "--public-key", "a+00000000+AAAA"), "it is no"),
        (("verify", ".", "--public-key", str(signer().written())), "this is the signing key"),
        (("verify", "audit", "--public-key", str(signer(2).public)), "Nothing in audit is signed by"),
        (("verify", "audit", "--public-key", "house.pub", "--checkpoint", "nothing"), "nothing is not there."),
        (("verify", "audit", "--public-key", "house.pub", "--checkpoint", "house.pub"), "is no checkpoint"),
        (("verify", "audit", "--public-key", "house.pub", "--checkpoint", "empty"), "holds no signed note"),
        (("verify", "audit", "--public-key", "house.pub", "--registry", "house.pub"), "house.pub is no registry"),
        (("verify", "audit/server", "--public-key", "house.pub", "--registry", "audit/origins"), "with one log alone"),
        (("prove", "1000", "--directory", "audit"), "the newest checkpoint covers 1000 records, 0 to 999"),
        (("prove", "9" * 400, "--directory", "audit"), "at most 16 digits"),
        (("prove", "req_none", "--directory", "audit"), "No record of this request"),
        (("prove", REQUEST, "--directory", "audit", "--type", "refusal"), "there is: intent, outcome"),
        (("prove", REQUEST, "--directory", "audit", "--output", "empty"), "There are 2 records"),
        (("prove", REQUEST, "--directory", "audit", "--output", "-"), "There are 2 records"),
        (("prove", REQUEST, "--directory", "audit", "--output", "none/proofs"), "none/proofs: No such file"),
        (("prove", "1", "--directory", "audit", "--origin", "../x"), "is no name of a log"),
        (("prove", "1", "--directory", "audit", "--origin", "other"), "is no audit log"),
        (("prove", "1", "--directory", "audit", "--output", "none/file"), "none/file: No such file"),
        (("verify-proof", "nothing", "--public-key", "house.pub"), "nothing is not there."),
        (("verify-proof", "house.pub", "--public-key", "house.pub"), "This is no proof"),
        (("verify-proof", "bytes", "--public-key", "house.pub"), "it is no UTF-8 text"),
    ],
)
def test_bad_input(place: Place, words: tuple[str, ...], said: str) -> None:
    """A sentence that says what and where, status 2, no traceback."""
    (place.folder / "empty").write_text("\n")
    (place.folder / "bytes").write_bytes(b"\xff\xfe")
    result = place.cli("audit", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_prove_a_record_by_its_index(place: Place) -> None:
    """The file is named after the log; it verifies alone, by both verifiers, and shows the record."""
    said = place.cli.ok("audit", "prove", "4", "--directory", "audit", "--origin", "server/two")
    assert said == "server-two-4.tlog-proof: record 4, outcome, among 5\n"
    status, output = place.judged("server-two-4.tlog-proof")
    assert status == 0
    assert f"record 4 of the 5 that {place.house.key.name}/server/two had" in output
    assert '"type": "outcome"' in output


def test_prove_all_records_of_a_request(place: Place) -> None:
    """One file each, in the directory that is given, there or not; --type chooses one, for standard output too."""
    for _ in range(2):
        place.cli.ok("audit", "prove", REQUEST, "--directory", "audit", "--output", "proofs/")
    assert sorted(each.name for each in (place.folder / "proofs").iterdir()) == [
        "server-7.tlog-proof",
        "server-8.tlog-proof",
    ]
    assert all(place.judged(each)[0] == 0 for each in (place.folder / "proofs").iterdir())
    said = place.cli.ok("audit", "prove", REQUEST, "--directory", "audit", "--type", "outcome", "--output", "-")
    assert Proof.parse(said).index == 8


def test_a_proof_that_cannot_be_written_takes_no_older_one_away(place: Place) -> None:
    """On a full disk the one that stands there stays as it is, and the file is named; nothing else is left."""
    proof = place.proof("4")
    before = proof.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        result = place.cli("audit", "prove", "4", "--directory", "audit", "--output", proof.name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (result.exit_code, result.stderr) == (2, f"Error: {proof.name}: File too large.\n")
    assert proof.read_bytes() == before
    assert list(place.folder.glob(".vestry-*")) == []


def test_a_proof_that_cannot_be_written_is_told_by_its_own_name(place: Place) -> None:
    """Not by that of its draft."""
    (place.folder / "file").touch()
    result = place.cli("audit", "prove", "4", "--directory", "audit", "--output", "file/proof")
    assert (result.exit_code, result.stderr) == (2, "Error: file/proof: Not a directory.\n")


def test_a_proof_that_goes_through_a_link_leaves_the_link(place: Place) -> None:
    """As one into /dev/stdout, which would be nobody's output any more: what the link leads to has the proof then."""
    kept = place.folder / "kept"
    kept.write_text("what stood there")
    (place.folder / "link").symlink_to(kept)
    place.cli.ok("audit", "prove", "4", "--directory", "audit", "--output", "link")
    assert (place.folder / "link").readlink() == kept
    assert Proof.parse(kept.read_text()).index == 4


def test_prove_from_the_settings_directory(place: Place) -> None:
    """Without --directory it is the audit directory of the settings."""
    said = place.cli.ok("audit", "prove", "0", VESTRY_AUDIT__DIRECTORY=str(place.folder / "audit"))
    assert said.startswith("server-0.tlog-proof: record 0, server.start")


def test_prove_what_is_not_there_any_more(place: Place) -> None:
    """A pruned record, a log without a checkpoint, and a tile that is not the checkpoint's."""
    place.log.prune(512)
    for which, said in (("1", "may have been pruned"), (f"req_{1:032x}", "No record of this request")):
        result = place.cli("audit", "prove", which, "--directory", "audit")
        assert result.exit_code == 2
        assert said in result.stderr
    place.proof("512")
    assert place.judged(place.proof(f"req_{300:032x}", "--type", "intent"))[0] == 0
    flip(tile_of(place.log.home, 0, 3), 5)
    result = place.cli("audit", "prove", "990", "--directory", "audit")
    assert result.exit_code == 1
    assert "cannot be proven" in result.stderr
    (place.log.home / "checkpoint").unlink()
    result = place.cli("audit", "prove", "1", "--directory", "audit")
    assert result.exit_code == 2
    assert "has no checkpoint yet" in result.stderr


def test_a_proof_without_its_record(place: Place) -> None:
    """The record may come in a file of its own; another record is not proven."""
    path = place.proof("7")
    proof = Proof.parse(path.read_text())
    path.write_text(Proof(proof.index, proof.hashes, proof.checkpoint).written())
    (place.folder / "record").write_bytes(proof.extra + b"\n")
    (place.folder / "other").write_bytes(proof.extra.replace(b"radio", b"Radio") + b"\n")
    words = ("audit", "verify-proof", str(path), "--public-key", str(place.key))
    for more, status in (((), 2), (("--record", "record"), 0), (("--record", "other"), 1)):
        assert place.cli(*words, *more).exit_code == status
        if more:
            assert asked(str(path), "--public-key", str(place.key), *more)[0] == status


def test_a_checkpoint_that_comes_while_one_proves(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is of the checkpoint that it carries, though a newer one stands there a moment later."""
    note = LogReader.note

    def overtaken(self: LogReader) -> str | None:
        got = note(self)
        monkeypatch.setattr(LogReader, "note", note)
        place.log.add(calls(7)).checkpoint()
        return got

    monkeypatch.setattr(LogReader, "note", overtaken)
    assert place.judged(place.proof("7"))[0] == 0
    assert place.log.tree.size > 1000


def test_proofs_of_two_houses(place: Place) -> None:
    """A proof is verified with the key of its house, or of its log; another key is the wrong key."""
    path = place.proof("7")
    assert place.cli("audit", "verify-proof", str(path), "--public-key", str(signer(2).public)).exit_code == 2
    of_log = str(place.house.key.of("server"))
    assert place.cli("audit", "verify-proof", str(path), "--public-key", of_log).exit_code == 0


def forgeries(proof: Proof) -> Iterator[Proof]:
    """Each hash flipped, dropped, doubled; two swapped; the index off by one; another record."""
    hashes = proof.hashes
    for at, each in enumerate(hashes):
        flipped = bytes([each[0] ^ 1]) + each[1:]
        yield Proof(proof.index, (*hashes[:at], flipped, *hashes[at + 1 :]), proof.checkpoint, proof.extra)
        yield Proof(proof.index, hashes[:at] + hashes[at + 1 :], proof.checkpoint, proof.extra)
        yield Proof(proof.index, hashes[: at + 1] + hashes[at:], proof.checkpoint, proof.extra)
    yield Proof(proof.index, (hashes[1], hashes[0], *hashes[2:]), proof.checkpoint, proof.extra)
    for index in (proof.index - 1, proof.index + 1, 0, 1000, 10**15):
        yield Proof(index, hashes, proof.checkpoint, proof.extra)
    yield Proof(proof.index, hashes, proof.checkpoint, proof.extra.replace(b"radio", b"Radio"))
    yield Proof(proof.index, hashes, proof.checkpoint.replace("\n1000\n", "\n999\n"), proof.extra)
    root = proof.checkpoint.split("\n")[2]
    other = base64.b64encode(bytes(32)).decode()
    yield Proof(proof.index, hashes, proof.checkpoint.replace(root, other), proof.extra)


def test_forged_proofs_are_refused(place: Place) -> None:
    """All of them, by both verifiers, with status 1."""
    path = place.proof("7")
    proof = Proof.parse(path.read_text())
    for each in forgeries(proof):
        path.write_text(each.written())
        status, output = place.judged(path)
        assert status == 1, output
        assert "Not proven" in output


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text[:-20],
        lambda text: text.replace("index 7", "index 07"),
        lambda text: text.replace("index 7", "index -7"),
        lambda text: text.replace("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        lambda text: text.replace("extra ", "extra !"),
        lambda text: "",
        lambda text: text.split("\n\n", maxsplit=1)[0],
        lambda text: text + "more\n",
    ],
)
def test_damaged_proofs_are_bad_input(place: Place, edit: Callable[[str], str]) -> None:
    """What has not the form of a proof is no proof: status 2, by both verifiers."""
    path = place.proof("7")
    path.write_text(edit(path.read_text()))
    assert place.judged(path)[0] == 2


def test_a_record_that_says_it_stands_elsewhere(place: Place) -> None:
    """Even signed: a leaf whose own index or log is another one proves nothing."""
    log = place.house.log("odd", 3)
    for wrong in (b'{"index":7,"origin":"odd"}', b'{"index":4,"origin":"server"}', b"no record"):
        log.tree.add([wrong])
    log.checkpoint()
    for index in (3, 4, 5):
        assert place.judged(place.proof(str(index), "--origin", "odd"))[0] == 1


def test_the_records_are_those_of_calls() -> None:
    """The request that these tests prove has an intent and an outcome."""
    assert [each["type"] for each in calls(20) if each.get("request_id") == REQUEST] == ["intent", "outcome"]
