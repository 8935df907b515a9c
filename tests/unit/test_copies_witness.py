"""The witness sink against a witness written from the specification, and against ones that misbehave."""

from __future__ import annotations

import base64
import hashlib
import shutil
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fakes.witness import Witness
from support.copies import GrownLog
from support.house import until
from vestry.audit.copies.comparing import compare_with_copies
from vestry.audit.copies.couriers import Couriers
from vestry.audit.copies.sink import Item
from vestry.audit.copies.witness import WitnessSink
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.cosignatures import Cosigner
from vestry.audit.tlog.merkle import EMPTY_ROOT
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, Signer
from vestry.wires import Undelivered, Web


def sink_of(log: GrownLog, witness: Witness, *, seconds: float = 5, vkey: str = "") -> WitnessSink:
    web = Web.at(witness.url, seconds=seconds, permitted=lambda _: True)
    key = Cosigner.parse(vkey or witness.vkey)
    return WitnessSink("w1", home=log.home, public=log.public, witness=key, submission=web)


def knowing(log: GrownLog) -> Witness:
    witness = Witness()
    witness.know(str(log.public))
    return witness


def test_each_checkpoint_is_cosigned_with_a_proof(tmp_path: Path) -> None:
    """From one size to the next, tiles whole and partial; the cosigned note is kept, and both signatures verify."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        sink = sink_of(log, witness)
        for size in (1, 2, 255, 256, 257, 700, 66_000):
            note = log.grow(size)
            sink.deliver(Item("checkpoint", note))
            kept = (log.home / "cosigned/w1.note").read_text()
            assert kept.startswith(note)
            assert Checkpoint.open(kept, log.public) == log.head
            [when] = Cosigner.parse(witness.vkey).cosigned(kept)
            assert abs(when - time.time()) < 60
        assert witness.requests == [("add-checkpoint", 200)] * 7
        assert (log.home / "checkpoint").read_text() == note, "the log's own note stays as it was written"
        assert not sink.keeps_registry


def test_a_409_tells_where_to_begin(tmp_path: Path) -> None:
    """A new process, or one whose memory is wrong, learns the witness's size from it."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        sink_of(log, witness).deliver(Item("checkpoint", log.grow(300)))
        sink_of(log, witness).deliver(Item("checkpoint", log.grow(400)))
        assert witness.requests[-1] == ("add-checkpoint", 200), "the kept note tells it, too"
        shutil.rmtree(log.home / "cosigned")
        sink_of(log, witness).deliver(Item("checkpoint", log.grow(500)))
        assert [status for _, status in witness.requests] == [200, 200, 409, 200]


def test_an_overtaken_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The spool may hold smaller ones than the witness has cosigned; a larger size than the log's is told."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        sink = sink_of(log, witness)
        old = log.grow(3)
        back = log.snapshot(tmp_path / "snapshot")
        sink.deliver(Item("checkpoint", log.grow(9)))
        sink.deliver(Item("checkpoint", old))
        assert witness.logs[log.public.name].size == 9
        back()
        with pytest.raises(Undelivered, match="has cosigned 9 records, and this log has 3: it was rolled back"):
            sink_of(log, witness).deliver(Item("checkpoint", old))


def _other_key(witness: Witness, log: GrownLog) -> None:
    stranger = Ed25519PrivateKey.generate().public_key()
    known = witness.logs[log.public.name]
    known.keys = [(log.public.name, stranger, log.public.id)]


def _other_root(witness: Witness, log: GrownLog) -> None:
    witness.logs[log.public.name].root = b"x" * 32


@pytest.mark.parametrize(
    ("status", "change", "sentence"),
    [
        (404, lambda witness, log: witness.logs.clear(), "does not know this log: register house.test/vestry/server"),
        (403, _other_key, "does not accept the signature: give it"),
        (422, _other_root, "the log is not the one that it cosigned before"),
    ],
)
def test_refusals_say_what_to_do(
    tmp_path: Path, status: int, change: Callable[[Witness, GrownLog], None], sentence: str
) -> None:
    """404, 403 and 422 as the specification has them."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        sink = sink_of(log, witness)
        sink.deliver(Item("checkpoint", log.grow(3)))
        change(witness, log)
        with pytest.raises(Undelivered, match=f"answers {status}: it.*{sentence}"):
            sink.deliver(Item("checkpoint", log.grow(5)))
        assert witness.requests[-1] == ("add-checkpoint", status)


@pytest.mark.parametrize("known", [True, False])
def test_another_tree_of_the_same_size(tmp_path: Path, known: bool) -> None:
    """The specification has a 409 for it, to which no size belongs: two histories were signed, and that is said."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        sink_of(log, witness).deliver(Item("checkpoint", log.grow(9)))
        other = GrownLog(tmp_path / "other", text="rewritten")
        note = other.grow(9)
        if known:
            shutil.copytree(log.home / "cosigned", other.home / "cosigned")
        with pytest.raises(Undelivered, match="answers 409: it finds that the log is not the one that it cosigned"):
            sink_of(other, witness).deliver(Item("checkpoint", note))
        assert [status for _, status in witness.requests] == [200, 409] if known else [200, 409, 409]


# Answers that are none.


def answer(status: int, body: bytes, kind: str = "text/plain", length: int | None = None) -> object:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True
        return True

    return fault


def raw(data: bytes) -> object:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.wfile.write(data)
        handler.close_connection = True
        return True

    return fault


def dripping(handler: BaseHTTPRequestHandler) -> bool:
    try:
        for each in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
            handler.wfile.write(bytes([each]))
            time.sleep(0.05)
    except OSError:
        pass
    return True


def hanging(_: BaseHTTPRequestHandler) -> bool:
    time.sleep(5)
    return True


STRANGER = "— witness.test/w1 " + base64.b64encode(b"abcd" + b"x" * 72).decode() + "\n"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (answer(200, b""), "without a cosignature by the key"),
        (answer(200, b"\xff\xfe"), "what is no cosignature: it is no text"),
        (answer(200, b"garbage\n" * 100), "without a cosignature"),
        (answer(200, STRANGER.encode()), "without a cosignature"),
        (answer(200, b"x" * 100_000), "answers with more than 65536 bytes"),
        (answer(200, b"x", length=1 << 40), "answers what is no HTTP"),
        (answer(409, b"7\n"), "answers 409 without the size"),
        (answer(409, b"-7\n", "text/x.tlog.size"), "answers 409 without the size"),
        (answer(409, b"9" * 60 + b"\n", "text/x.tlog.size"), "answers 409 without the size"),
        (answer(302, b""), "answers 302"),
        (answer(500, b"<h1>\x1b[31mred"), "answers 500$"),
        (answer(204, b""), "answers 204"),
        (raw(b"\x00\x01\x02" * 100), "answers what is no HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500), "answers what is no HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000), "answers what is no HTTP"),
        (raw(b""), "answers what is no HTTP"),
        (dripping, r"did not answer within 0\.5 s"),
        (hanging, r"did not answer within 0\.5 s"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, fault: Callable[[BaseHTTPRequestHandler], bool], sentence: str) -> None:
    """Garbage, enormous, endless or slow: a sentence of our own within the deadline, and nothing is kept."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        witness.fault = fault
        began = time.monotonic()
        with pytest.raises(Undelivered, match=sentence) as raised:
            sink_of(log, witness, seconds=0.5).deliver(Item("checkpoint", log.grow(3)))
        assert time.monotonic() - began < 10
        assert "\x1b" not in str(raised.value)
        assert not (log.home / "cosigned").exists()


def test_a_cosignature_by_another_key_is_not_kept(tmp_path: Path) -> None:
    """The key from the settings is the one that counts, and one that does not verify is refused."""
    log = GrownLog(tmp_path / "server")
    other = Witness("witness.test/w2")
    with knowing(log) as witness:
        with pytest.raises(Undelivered, match=r"without a cosignature by the key witness\.test/w2"):
            sink_of(log, witness, vkey=other.vkey).deliver(Item("checkpoint", log.grow(3)))
        key = Cosigner.parse(witness.vkey)
        forged = base64.b64encode(key.id + (1).to_bytes(8, "big") + b"x" * 64).decode()
        witness.fault = answer(200, f"— {key.name} {forged}\n".encode())  # type: ignore[assignment]
        with pytest.raises(Undelivered, match="does not fit the text"):
            sink_of(log, witness).deliver(Item("checkpoint", log.grow(4)))


def test_down_at_the_start_and_in_the_middle(tmp_path: Path) -> None:
    """What waited is cosigned in order when the witness is back."""
    log = GrownLog(tmp_path / "server")
    witness = knowing(log)
    with witness:
        sink = sink_of(log, witness)
    couriers = Couriers(log.home, [sink], first_pause=0.02, longest_pause=0.1)
    couriers.start()
    for size in (3, 300):
        note = log.grow(size)
        couriers.checkpointed(note, log.head)
    with pytest.raises(Undelivered, match="refuses connections"):
        sink.deliver(Item("checkpoint", note))
    with witness:
        until(lambda: witness.logs[log.public.name].size == 300, what="the newest to be cosigned")
    note = log.grow(301)
    couriers.checkpointed(note, log.head)
    with witness:
        until(lambda: witness.logs[log.public.name].size == 301, what="the newest to be cosigned")
        couriers.close()
    assert Checkpoint.open((log.home / "cosigned/w1.note").read_text(), log.public).size == 301


# The comparison at the start.


@pytest.mark.parametrize("monitors", [True, False])
def test_a_rolled_back_log_is_caught(tmp_path: Path, monitors: bool) -> None:
    """By the checkpoint of its monitoring prefix or, where it has none, by the size of its 409."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        witness.monitors = monitors
        sink = sink_of(log, witness)
        sink.deliver(Item("checkpoint", log.grow(3)))
        back = log.snapshot(tmp_path / "snapshot")
        sink.deliver(Item("checkpoint", log.grow(9)))
        [found] = compare_with_copies(log.home, 9, log.head.root, log.public, [sink])
        assert (found.agrees, found.size, found.doubts) == (True, 9, ())
        back()
        with pytest.raises(LogDamaged, match="9 records"):
            compare_with_copies(log.home, 3, log.heads[0].root, log.public, [sink_of(log, witness)])
        if monitors:
            shutil.rmtree(log.home)
            log.home.mkdir()
            with pytest.raises(LogDamaged, match="9 records"):
                compare_with_copies(log.home, 0, EMPTY_ROOT, log.public, [sink_of(log, witness)])


def test_a_witness_that_knows_nothing_yet(tmp_path: Path) -> None:
    """It agrees, and has cosigned the present checkpoint from then on; a log without one has nothing to offer."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        assert compare_with_copies(log.home, 0, EMPTY_ROOT, log.public, [sink_of(log, witness)])[0].size is None
        log.grow(4)
        [found] = compare_with_copies(log.home, 4, log.head.root, log.public, [sink_of(log, witness)])
        assert (found.agrees, found.size) == (True, 4)
        assert witness.logs[log.public.name].size == 4
        witness.logs.clear()
        [found] = compare_with_copies(log.home, 4, log.head.root, log.public, [sink_of(log, witness)])
        assert found.agrees is False
        assert "register" in found.doubts[0]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [(b"\xff", "it is no text"), (b"garbage", "no signed note"), (b"x" * 100_000, "more than 65536 bytes")],
)
def test_garbage_under_the_monitoring_prefix(tmp_path: Path, body: bytes, sentence: str) -> None:
    """It is a doubt, and the 409 is asked all the same; with nothing of our own to ask with, it is a silence."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        bad = answer(200, body)
        witness.fault = lambda handler: handler.command == "GET" and bool(bad(handler))  # type: ignore[operator]
        [found] = compare_with_copies(log.home, 0, EMPTY_ROOT, log.public, [sink_of(log, witness)])
        assert found.agrees is False
        sink_of(log, witness).deliver(Item("checkpoint", log.grow(4)))
        [found] = compare_with_copies(log.home, 4, log.head.root, log.public, [sink_of(log, witness)])
        assert (found.agrees, found.size) == (True, 4)
        assert sentence in found.doubts[0]


def test_a_checkpoint_that_the_witness_has_not_cosigned(tmp_path: Path) -> None:
    """Under its monitoring prefix that is a doubt; by the log's key alone it proves no witness."""
    log = GrownLog(tmp_path / "server")
    with knowing(log) as witness:
        sink_of(log, witness).deliver(Item("checkpoint", log.grow(4)))
        witness.logs[log.public.name].note = log.signer.sign(log.head.text())
        held = sink_of(log, witness).newest()
        assert "not cosigned by witness.test/w1" in held.doubts[0]


# Keys and cosignatures.


def test_the_key_as_text() -> None:
    """A vkey of type 0x04 is read and written; other types, a damaged one and garbage are refused."""
    key = Witness().vkey
    assert str(Cosigner.parse(f"{key}\n")) == key
    for bad in ("", "x", key[:-1], key.replace("+", " "), str(Signer.generate("w").public), _flipped(key)):
        with pytest.raises(NoteRefused):
            Cosigner.parse(bad)


def _flipped(key: str) -> str:
    name, digest, rest = key.split("+", 2)
    return f"{name}+{'0' * 8 if digest != '0' * 8 else '1' * 8}+{rest}"


def test_the_specifications_own_form(tmp_path: Path) -> None:
    """A cosignature is over `cosignature/v1`, the time and the whole text; a changed time or text is refused."""
    log = GrownLog(tmp_path / "server")
    note = log.grow(5)
    private = Ed25519PrivateKey.generate()
    raw_key = private.public_key().public_bytes_raw()
    name = "witness.example.com/w1"
    ident = hashlib.sha256(name.encode() + b"\n\x04" + raw_key).digest()[:4]
    key = Cosigner(name, raw_key)
    text = note.split("\n\n")[0] + "\n"

    def line(time: int, signed_time: int) -> str:
        value = ident + time.to_bytes(8, "big") + private.sign(f"cosignature/v1\ntime {signed_time}\n{text}".encode())
        return f"— {name} {base64.b64encode(value).decode()}\n"

    assert key.cosigned(note + line(1_679_315_147, 1_679_315_147)) == [1_679_315_147]
    assert key.cosigned(note) == []
    for bad in (line(1_679_315_148, 1_679_315_147), line(0, 0), line(1 << 63, 1 << 63)):
        with pytest.raises(NoteRefused):
            key.cosigned(note + bad)
    short = base64.b64encode(ident + b"x" * 20).decode()
    with pytest.raises(NoteRefused, match="length"):
        key.cosigned(f"{note}— {name} {short}\n")
