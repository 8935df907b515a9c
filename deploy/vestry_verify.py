#!/usr/bin/env python3
"""Verify a copy of Vestry's audit log, or a proof from it: one file, Python 3.11 or newer, nothing else.

    python3 vestry_verify.py DIR --public-key KEY [--checkpoint OLD ...] [--registry OLD ...] [--json]
    python3 vestry_verify.py FILE.tlog-proof --public-key KEY [--record FILE]

KEY is the house's public key, NAME+HASH+BASE64, or a file that holds it. Exit status: 0 verified, 1 not, 2 bad input.

This is the second of two verifiers and shares no code with the first (`vestry audit verify`). It is meant to be read,
from top to bottom: (1) Ed25519, RFC 8032; (2) signed notes and checkpoints, C2SP signed-note and tlog-checkpoint;
(3) records in canonical JSON, RFC 8785; (4) one log: Merkle tree of RFC 6962 in the files of C2SP tlog-tiles, and the
journal; (5) all logs, against the signed registry; (6) one proof, C2SP tlog-proof; (7) the command line.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

ORIGIN = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
TORN = (1 << 20) + 65_536  # the most that a crash can leave behind the last record


class BadInput(Exception):  # noqa: N818
    """What was given cannot be verified at all."""


class Fails(Exception):  # noqa: N818
    """It can, and it is not what was signed."""


# (1) Ed25519 (RFC 8032 section 5.1): points of the curve as extended coordinates (X, Y, Z, T) ------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int, int, int]
Head = tuple[int, bytes]  # size and root of a checkpoint


def add(a: Point, b: Point) -> Point:
    """Section 5.1.4."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    i, j, k, m = f - e, h - g, h + g, f + e
    return i * j % P, k * m % P, j * k % P, i * m % P


def times(number: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def point(data: bytes) -> Point:
    """Decode 32 bytes (section 5.1.3). Raises Fails for what is no point."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise Fails("it is no point of the curve")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Section 5.1.7, without the cofactor."""
    if len(public) != 32 or len(signature) != 64:
        return False
    base = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
    s = int.from_bytes(signature[32:], "little")
    try:
        a, r = point(public), point(signature[:32])
    except Fails:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    left, right = times(s, base), add(r, times(k, a))
    same = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    return s < ORDER and same


# (2) Keys, signed notes, checkpoints --------------------------------------------------------------------------------


def unbase64(text: str) -> bytes:
    """Raises Fails for what is no base64, or not in its one form."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise Fails("it holds what is no base64")
    return data


class Key:
    """The house's name and public key; `id(name)` is the key id of one of its logs, which sign as HOUSE/ORIGIN."""

    def __init__(self, text: str) -> None:
        name, _, rest = text.strip().partition("+")
        told, _, coded = rest.partition("+")
        try:
            raw = unbase64(coded)
        except Fails:
            raw = b""
        self.name, self.raw = name, raw[1:]
        if not re.fullmatch(r"[^\s+]{1,200}", name) or len(raw) != 33 or raw[0] != 1 or self.id(name).hex() != told:
            raise BadInput("The public key is none, nor a file: NAME+HASH+BASE64 of an Ed25519 key is expected.")

    def id(self, name: str) -> bytes:
        return hashlib.sha256(name.encode() + b"\n\x01" + self.raw).digest()[:4]

    def origin(self, name: str) -> str:
        """The log that signs as `name`; empty for one of another house."""
        origin = name.removeprefix(f"{self.name}/")
        return origin if origin != name and ORIGIN.fullmatch(origin) else ""

    def claimed(self, note: str) -> bool:
        """Whether a note has a signature line by this key, good or not."""
        name = note.partition("\n")[0]
        ours = [self.name, *([name] if self.origin(name) else [])]
        return any(who in ours and value[:4] == self.id(who) for who, value in parts(note)[1])

    def open(self, note: str, name: str) -> list[str]:
        """The lines of a note that this key has signed as `name`. Raises Fails."""
        text, signatures = parts(note)
        mine = [value[4:] for who, value in signatures if who == name and value[:4] == self.id(name)]
        if not mine or not all(ed25519(self.raw, text.encode(), each) for each in mine):
            raise Fails(f"it is not signed by {name} with the key {self.id(name).hex()}")
        return text.split("\n")[:-1]

    def checkpoint(self, note: str, name: str) -> Head:
        """Size and root. Raises Fails."""
        lines = self.open(note, name)
        if len(lines) < 3 or lines[0] != name or not all(lines) or not re.fullmatch("0|[1-9][0-9]{0,15}", lines[1]):
            raise Fails(f"it is no checkpoint of {name}")
        root = unbase64(lines[2])
        if len(root) != 32:
            raise Fails("its third line is no SHA-256 hash")
        return int(lines[1]), root


def parts(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Text and signatures of a note. Raises Fails for what is none."""
    text, empty, below = note.rpartition("\n\n")
    found = [re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)", line) for line in below[:-1].split("\n")]
    if not empty or below[-1:] != "\n" or len(note) > 65_536 or any(c < " " and c != "\n" for c in note):
        raise Fails("it is no signed note")
    signatures = [(each[1], unbase64(each[2])) for each in found if each is not None]
    if len(signatures) < len(found) or any(len(value) < 5 for _, value in signatures):  # 4 bytes are the key id
        raise Fails("it is no signed note: a signature line is malformed")
    return text + "\n", signatures


def notes_in(text: str) -> list[str]:
    """The notes of a file that holds one or more, one after the other; a signature line ends one."""
    notes, signed = [""], False
    for line in text.split("\n"):  # the last one may lack its line feed
        if signed and not line.startswith("— "):
            notes.append("")
        signed = line.startswith("— ")
        notes[-1] += f"{line}\n" if notes[-1] or line else ""
    return [note for note in notes if note] or [""]


# (3) Files and records ----------------------------------------------------------------------------------------------


def read(path: str, most: int) -> bytes | None:
    """A regular file; None where there is none. Raises Fails for anything else, or one that is too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Fails(f"{path} is no file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Fails(f"{path} has more than {most} bytes")
    return data


def note_at(path: str) -> str | None:
    data = read(path, 1 << 20)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise Fails(f"{path} is no text") from None


def unlisted(error: OSError) -> None:
    """A directory that cannot be listed is not to be taken for an empty one."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def shown(text: str, but: str = "") -> str:
    """A text from the copy for a terminal: what is not printable, but for these characters, as escapes."""
    return "".join(each if each.isprintable() or each in but else ascii(each)[1:-1] for each in text)


def refuse(_: str) -> NoReturn:
    raise ValueError("a record holds no fractions")


def plain(value: Any, depth: int = 17) -> bool:
    """Whether a value is one that a record may hold: no great integers, no strange keys, not nested too deep."""
    if isinstance(value, dict):
        return depth > 0 and all(key.isascii() and plain(each, depth - 1) for key, each in value.items())
    if isinstance(value, list):
        return depth > 0 and all(plain(each, depth - 1) for each in value)
    return depth > 0 and (not isinstance(value, int) or abs(value) < 2**53)


def record_of(leaf: bytes) -> dict[str, Any] | None:
    """The record, if these bytes are its canonical form."""
    try:
        record = json.loads(leaf.decode(), parse_float=refuse, parse_constant=refuse)
        again = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and again == leaf and plain(record) else None


def is_time(value: Any) -> bool:
    """Whether it is a moment as records have it: RFC 3339, UTC, microseconds."""
    try:
        return bool(TIME.fullmatch(value) and datetime.datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


# (4) One log --------------------------------------------------------------------------------------------------------


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def over(hashes: list[bytes]) -> bytes:
    """Root over 2**k hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


class Log:
    """Reads one log once, and says through `fail` what is wrong; `bad` is the first bad index then."""

    def __init__(self, home: str, origin: str, say: Callable[[str], None]) -> None:
        self.home, self.origin, self.say = home, origin, say
        self.failures = 0
        self.bad: int | None = None
        self.trusted: set[int] = set()  # sizes at which a signed root is the one here
        self.size, self.pruned, self.beyond = 0, 0, 0
        self.known: dict[tuple[int, int], tuple[bytes, bytes]] = {}  # by records, and as the tile below has it
        self.gaps: list[tuple[int, int]] = []  # records whose bundles are missing
        self.holes: list[tuple[int, int]] = []  # records whose tiles are missing
        self.last: tuple[int, list[bytes]] = (-1, [])
        self.tail: list[bytes] = []  # hashes of records beyond the checkpoint
        self.open: dict[str, int] = {}
        self.origins: set[str] = set()

    def fail(self, sentence: str, index: int | None = None) -> None:
        self.failures += 1
        if index is not None:
            self.bad = index if self.bad is None else min(self.bad, index)
        if self.failures <= 100:
            self.say(f"FAILED {self.origin}{'' if index is None else f', record {index}'}: {sentence}")

    def verify(self, head: Head | None, others: list[Head]) -> None:
        self.size, root = head or (0, b"")
        self.journal = self.segments()
        self.groups()
        for level in range(1, 7):
            self.upper(level)
        matches = head is not None and self.agree(self.size, root, "checkpoint", others)
        pruned = self.pruned if matches else 0
        for start, end in self.gaps:
            if end > pruned:
                self.fail("The bundles of records that were not pruned are missing.", max(start, pruned))
        for start, end in self.holes:
            if end > pruned:
                self.fail("A tile of records that were not pruned is missing.", start)
        if head is not None:
            self.after()
        there = self.size + self.beyond
        for size, other in sorted(others):
            if size > there:
                self.fail(f"Rolled back or cut: {size} records were signed, here are {there}.", there)
            elif size > self.size:
                self.agree(size, other, "later checkpoint", [])

    def groups(self) -> None:
        """All groups of 256 records, and the last, smaller one; those that are missing are gaps."""
        group = 0
        for found in [*self.bundles(), self.size // 256]:
            if found > group:
                self.gaps.append((group * 256, found * 256))
                self.open = {}  # their outcomes may be in what is missing
            if found * 256 < self.size:
                self.group(found)
            group = found + 1

    def agree(self, size: int, root: bytes, what: str, others: list[Head]) -> bool:
        """The root at `size`, recomputed from the records, against the signed one; the older ones first."""
        for each, other in sorted(others):
            if each <= self.size:
                self.agree(each, other, "older checkpoint", [])
        inside = any(start < size < end for start, end in self.gaps)
        try:
            found = hashlib.sha256(b"").digest() if size == 0 else self.tree(0, size)
        except Fails:
            inside = True
        if inside:
            self.fail(f"The root at {size} ({what}) cannot be computed: records are missing.")
        elif found != root:
            agreed = max((each for each in self.trusted if each < size), default=0)
            self.fail(
                f"The {what} was signed with the root {root.hex()}; the first {size} records have {found.hex()}.",
                agreed if self.bad is None else self.bad,
            )
        else:
            self.trusted.add(size)
        return not inside and found == root

    # Records and the lowest tiles

    def bundles(self) -> list[int]:
        """Numbers of the bundles that are there, whole ones up to the checkpoint."""
        top, found = os.path.join(self.home, "tile", "entries"), []
        for folder, below, names in os.walk(top, onerror=unlisted):
            above = os.path.relpath(folder, top).replace(os.sep, "/")
            for name in [*names, *below]:  # a directory in the place of a bundle is told as that
                path = name if above == "." else f"{above}/{name}"
                if re.fullmatch(r"(x[0-9]{3}/){0,5}[0-9]{3}", path) and not path.startswith("x000"):
                    found.append(int(path.replace("/", "").replace("x", "")))
        return sorted(each for each in found if each < self.size // 256)

    def file(self, level: str, number: int, width: int, most: int) -> tuple[bytes | None, bool]:
        """A tile or bundle, the whole one where the partial one is gone; and whether it is whole."""
        name, rest = f"{number % 1000:03d}", number // 1000
        while rest:
            name, rest = f"x{rest % 1000:03d}/{name}", rest // 1000
        path = os.path.join(self.home, "tile", level, name)
        data = read(f"{path}.p/{width}", most) if width < 256 else None
        return (data, False) if data is not None else (read(path, most), True)

    def hashes(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile; none where it is missing or wrong, which is reported."""
        width, each = min(256, self.size // 256**level - number * 256), 256**level
        start = number * 256 * each
        try:
            data, _ = self.file(str(level), number, width, 8192)
        except (Fails, OSError) as error:
            self.fail(f"Tile {level}/{number}: {error}.", start)
            return []
        if data is None:
            self.holes.append((start, start + width * each))
        elif len(data) < 32 * width or len(data) % 32:
            self.fail(f"Tile {level}/{number} has {len(data)} bytes instead of {32 * width}.", start)
        else:
            return [data[at : at + 32] for at in range(0, 32 * width, 32)]
        return []

    def leaves(self, group: int, width: int) -> list[bytes]:
        """The records of a bundle; those that are whole where it is wrong, which is reported."""
        try:
            data, whole = self.file("entries", group, width, 256 * 65_537)
        except (Fails, OSError) as error:
            self.fail(f"Bundle {group}: {error}.", group * 256)
            return []
        if data is None:
            self.gaps.append((group * 256, group * 256 + width))
            return []
        found, at = [], 0
        while at + 2 <= len(data) and at + 2 + int.from_bytes(data[at : at + 2], "big") <= len(data):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            found.append(data[at + 2 : end])
            at = end
        if at != len(data) or len(found) < width or len(found) > (256 if whole else width):
            self.fail(f"Bundle {group} does not hold {width} whole records.", group * 256 + min(len(found), width))
        return found[:width]

    def group(self, group: int) -> None:
        """256 records, or the last few: against their tile, each for itself, and against the journal."""
        start, width = group * 256, min(256, self.size - group * 256)
        tile, leaves = self.hashes(0, group), self.leaves(group, width)
        own = [leaf_hash(leaf) for leaf in leaves] if len(leaves) == width else tile
        self.open = self.open if leaves else {}
        for place, (mine, said) in enumerate(zip(own, tile)):
            if mine != said:
                self.fail("The record does not hash to what its tile says.", start + place)
        if width == 256 and own:
            self.known[1, group] = over(own), over(tile or own)
        self.last = (group, own)
        for place, leaf in enumerate(leaves, start):
            if self.record(place, leaf, covered=True) and self.ahead(place) not in (None, leaf):
                if not self.altered:
                    self.fail("The journal has another record here than the bundle.", place)
                self.altered = True

    def record(self, index: int, leaf: bytes, covered: bool) -> bool:
        """One record for itself: form, place, time; what it means for open intents and pruning."""
        record = record_of(leaf)
        if record is None:
            self.fail("What stands here is no record in canonical JSON.", index)
            return False
        if type(record.get("index")) is not int or record["index"] != index or record.get("origin") != self.origin:
            self.fail(f"Here stands record {record.get('index')!a} of {record.get('origin')!a}."[:200], index)
            return False
        if not is_time(record.get("time")):
            self.fail("The record has no time.", index)
        kind, request = record.get("type"), record.get("request_id")
        if kind == "intent" and isinstance(request, str):
            self.open[request] = index
        elif kind in ("outcome", "refusal", "intent.closed") and isinstance(request, str):
            self.open.pop(request, None)
        elif kind == "server.start":
            if self.open:
                self.fail("This intent had no outcome when the server started again.", next(iter(self.open.values())))
            self.open = {}
            listed = record.get("origins")
            self.origins.update(each for each in (listed if isinstance(listed, list) else []) if isinstance(each, str))
        elif kind == "log.prune" and covered:
            least = record.get("minimum_index")
            if type(least) is not int or least % 256 or not 0 <= least <= index:
                self.fail("The pruning has no valid `minimum_index`.", index)
            else:
                self.pruned = max(self.pruned, least)
        return True

    # The tree

    def upper(self, level: int) -> None:
        """The tiles of a level: each hash is the root of the tile below, by the records or as that tile has it."""
        each, tiles = 256**level, {}  # type: int, dict[int, dict[int, tuple[bytes, bytes]]]
        for (at, number), both in self.known.items():
            if at == level:
                tiles.setdefault(number // 256, {})[number % 256] = both
        for number, known in sorted(tiles.items()):
            hashes = self.hashes(level, number)
            for place in sorted(known):
                if place < len(hashes) and hashes[place] not in known[place]:
                    self.fail(
                        f"Hash {place} of tile {level}/{number} is not the root of the tile below it.",
                        (number * 256 + place) * each,
                    )
            if (number + 1) * 256 * each <= self.size and (len(hashes) == 256 or len(known) == 256):
                mine = [known[place][0] if place in known else hashes[place] for place in range(256)]
                self.known[level + 1, number] = over(mine), over(hashes or mine)

    def tree(self, start: int, end: int) -> bytes:
        """The Merkle tree hash of the records from `start` to before `end` (RFC 6962 section 2.1). Raises Fails."""
        size = end - start
        if size == 1:
            return self.leaf(start)
        level = 0
        while 256**level < size:
            level += 1
        if 256**level == size and end <= self.size:  # beyond the checkpoint nothing counts but the records themselves
            missing = any(a <= start and end <= b for a, b in self.gaps)
            if (level, start // size) in self.known:
                return self.known[level, start // size][0]
            found = self.kept(level, start // size) if missing or level == 1 else None
            if found is not None:
                return found
            if level == 1:
                raise Fails("records are missing")
        middle = start + (1 << ((size - 1).bit_length() - 1))
        return node_hash(self.tree(start, middle), self.tree(middle, end))

    def kept(self, level: int, number: int) -> bytes | None:
        """The hash of records that are not here any more, from the tile above them, or for one group from its own."""
        for at, first, many in ((level, number, 1), (level - 1, number * 256, 256)):
            width = min(256, self.size // 256**at - first // 256 * 256)
            try:
                data, _ = self.file(str(at), first // 256, width, 8192)
            except (Fails, OSError):
                data = None
            if data is not None and len(data) >= 32 * (first % 256 + many):
                return over([data[32 * k : 32 * k + 32] for k in range(first % 256, first % 256 + many)])
        return None

    def leaf(self, index: int) -> bytes:
        if index >= self.size:
            return self.tail[index - self.size]
        if self.last[0] != index // 256:
            width = min(256, self.size - index // 256 * 256)
            self.last = (index // 256, [leaf_hash(each) for each in self.leaves(index // 256, width)])
        if index % 256 >= len(self.last[1]):
            raise Fails("records are missing")
        return self.last[1][index % 256]

    # The journal

    altered = False
    first: int | None = None
    next = 0
    waiting: tuple[int, bytes] | None = None

    def segments(self) -> Iterator[tuple[int, bytes]]:
        """The lines of the journal's segments, each with the index that its place gives it."""
        names = sorted(each for each in os.listdir(self.home) if re.fullmatch(r"[0-9]{18}\.jsonl", each))
        paths = [os.path.join(self.home, each) for each in names]
        for name, path in zip(names, paths):
            if not os.path.isfile(path):
                self.fail(f"{name} is no file.", int(name[:18]))
        names = [name for name, path in zip(names, paths) if os.path.isfile(path)]
        self.first = self.next = int(names[0][:18]) if names else 0
        self.first = self.first if names else None
        return self.lines(names)

    def lines(self, names: list[str]) -> Iterator[tuple[int, bytes]]:
        for name, following in zip(names, [*names[1:], ""]):
            index, end = int(name[:18]), int(following[:18]) if following else None
            try:
                with open(os.path.join(self.home, name), "rb") as file:
                    while end is None or index < end:
                        line = file.readline(65_536)
                        if not line.endswith(b"\n"):
                            rest = line + file.read(TORN)
                            if end is None and (b"\n" in rest or len(rest) > TORN):
                                self.fail(f"{name} holds no record here.", index)
                            break
                        self.next = index + 1
                        yield index, line[:-1]
                        index += 1
            except OSError as error:
                self.fail(f"{name} cannot be read: {error.strerror}.", index)
                self.altered = True
                continue
            if end is not None and index < end:
                self.fail(f"{name} ends before its last record.", index)
                self.altered = True

    def ahead(self, index: int) -> bytes | None:
        """The journal's record of this index, if it has it. Indices only grow."""
        if self.first is None or index < self.first:
            return None
        while self.waiting is None or self.waiting[0] < index:
            self.waiting = next(self.journal, None)
            if self.waiting is None:
                return None
        return self.waiting[1] if self.waiting[0] == index else None

    def after(self) -> None:
        """What the journal holds beyond the checkpoint goes on without a gap; only its very end may be torn."""
        if self.first is None:
            return
        if self.first > self.size:
            self.fail(f"The journal begins with record {self.first} only.", self.size)
            return
        index, leaf = self.size, self.ahead(self.size)
        if leaf is None and self.next < self.size and not self.altered:
            self.fail("The journal ends before the checkpoint.", self.next)
        while leaf is not None:
            if record_of(leaf) is None:
                if self.followed(index):
                    self.fail("The journal holds no record here.", index)
                break
            if not self.record(index, leaf, covered=False):
                break
            self.tail.append(leaf_hash(leaf))
            index += 1
            leaf = self.ahead(index)
        self.beyond = index - self.size

    def followed(self, index: int) -> bool:
        """Whether more stands behind what is no record than a crash can leave."""
        size = 0
        for _, leaf in self.journal:
            size += len(leaf) + 1
            own = (record_of(leaf) or {}).get("index") if leaf[:1] == b"{" else None
            if size > TORN or (type(own) is int and own >= index):
                return True
        return False


# (5) All logs, against the registry ---------------------------------------------------------------------------------


def logs_below(directory: str) -> list[str]:
    """The names of the logs that are there."""
    found = []
    for folder, names, _ in os.walk(directory, onerror=unlisted):
        name = os.path.relpath(folder, directory).replace(os.sep, "/")
        names[:] = [each for each in names if name == "." or each != "tile"]
        if ORIGIN.fullmatch(name) and is_log(folder):
            found.append(name)
    return sorted(found)


def is_log(folder: str) -> bool:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return any(each == "checkpoint" or re.fullmatch(r"[0-9]{18}\.jsonl", each) for each in names)


def none_below(directory: str, homes: Iterable[str]) -> None:
    """Raises BadInput where the logs lie in audit directories of their own, below the one that was given."""
    above = {home[:at] for home in homes for at, each in enumerate(home) if each == "/"}
    inner = [each for each in sorted(above) if os.path.isfile(os.path.join(directory, each, "origins"))]
    if inner and not os.path.isfile(os.path.join(directory, "origins")):
        raise BadInput(f"{directory} is no audit directory, but holds some: verify each: {', '.join(inner[:20])}.")


class House:
    """Verifies a directory; `bad` has the first bad index of each log that fails, None where it has no index."""

    def __init__(self, key: Key, say: Callable[[str], None]) -> None:
        self.key, self.say = key, say
        self.bad: dict[str, int | None] = {}

    def fail(self, origin: str, sentence: str, index: int | None = None) -> None:
        self.bad.setdefault(origin, index)
        self.say(f"FAILED {origin or 'registry'}: {sentence}")

    def note(self, path: str, origin: str) -> str | None:
        try:
            note = note_at(path)
            if note is not None:
                parts(note)
                return note
            self.fail(origin, f"{path} is missing; without it nothing is proven.")
        except (Fails, OSError) as error:
            self.fail(origin, f"{path}: {error}.")
        return None

    def verify(self, directory: str, kept: list[str], registries: list[str]) -> None:
        alone = not os.path.isfile(os.path.join(directory, "origins")) and is_log(directory)
        homes = {self.named(directory): "."} if alone else {name: name for name in logs_below(directory)}
        names = list(homes)
        if not names and not os.path.isfile(os.path.join(directory, "origins")):
            raise BadInput(f"{directory} holds no audit log.")
        none_below(directory, homes.values())
        registry = None if alone else self.note(os.path.join(directory, "origins"), "")
        notes = {name: self.note(os.path.join(directory, home, "checkpoint"), name) for name, home in homes.items()}
        there = [each for each in [registry, *notes.values()] if each is not None]
        if there and not any(self.key.claimed(each) for each in there):
            raise BadInput(f"Nothing in {directory} is signed by {self.key.name}: wrong key, or all was signed anew.")
        entries = {} if registry is None else self.listed(registry)
        listed = set(entries)
        for name in sorted({name for name, seen in self.earlier(registries, alone) if entries.get(name) != seen}):
            self.fail(name, "This log stands, so, in a registry that was signed earlier, and not in the one here.")
        others = self.others(kept, names[0] if alone else "")
        for name in sorted(others.keys() - homes.keys()):
            if alone:
                raise BadInput(f"There is a checkpoint of `{name}`, which is another log than the one here.")
            size = max(each for each, _ in others[name])
            self.fail(name, f"A checkpoint of this log was signed, with {size} records; it is not here.", 0)
        for name in [] if alone else sorted(listed - set(names)):
            self.fail(name, "This log stands in the registry, and is not here.", 0)
        for name in [] if alone or not listed else sorted(set(names) - listed):
            self.fail(name, "This log does not stand in the registry.")
        for name, home in homes.items():
            log = self.log(os.path.join(directory, home), name, notes[name], others.get(name, []), alone)
            for each in [] if alone else sorted(log.origins - listed):
                self.fail(shown(each), f"The log `{name}` knows this log, which does not stand in the registry.")

    def named(self, home: str) -> str:
        """The origin of a log that lies alone: what its checkpoint says, or else what its directory is called."""
        try:
            note = note_at(os.path.join(home, "checkpoint")) or ""
            parts(note)
        except (Fails, OSError):
            note = ""
        name = note.partition("\n")[0]
        return self.key.origin(name) or name.rpartition("/")[2] or os.path.basename(os.path.realpath(home))

    def log(self, home: str, origin: str, note: str | None, others: list[Head], alone: bool) -> Log:
        log, head = Log(home, origin, self.say), None
        own = alone and (note or "").partition("\n")[0] == self.key.name  # the key is given under the log's own name
        try:
            name = self.key.name if own else f"{self.key.name}/{origin}"
            head = None if note is None else self.key.checkpoint(note, name)
        except Fails as error:
            log.fail(f"The checkpoint counts for nothing: {error}.")
        log.verify(head, others)
        if log.failures:
            before = self.bad.get(origin)
            self.bad[origin] = log.bad if before is None else before
        kept = max((end for start, end in log.gaps if start == 0 or end <= log.pruned), default=0)
        self.say(
            f"{origin}: {'FAILED' if origin in self.bad else 'ok'}; {log.size} records, {log.beyond} beyond the "
            f"checkpoint, those below {kept} not here; {len(log.open)} intents open"
            + ("" if log.bad is None else f"; first bad index {log.bad}")
        )
        for name in list(log.open)[:20]:
            self.say(f"    no outcome yet: {name!a}")
        return log

    def listed(self, registry: str) -> dict[str, str]:
        """The logs of the registry that lies here, and when each was first seen; what is wrong with it is said."""
        try:
            return self.entries(registry)
        except Fails as error:
            self.fail("", f"The registry counts for nothing: {error}.")
            return {}

    def entries(self, registry: str) -> dict[str, str]:
        """The logs of a registry. Raises Fails."""
        lines = self.key.open(registry, self.key.name)
        rows = [
            re.fullmatch(r"(\S+) ([0-9]{4}(?:-[0-9]{2}){2}T[0-9]{2}(?::[0-9]{2}){2}(?:\.[0-9]{1,9})?Z)", each)
            for each in lines[2:]
        ]
        names = [each[1] for each in rows if each is not None and ORIGIN.fullmatch(each[1])]
        if lines[:2] != ["vestry origins v1", self.key.name] or len(names) != len(rows) or names != sorted(set(names)):
            raise Fails("it is signed, but malformed")
        return {each[1]: each[2] for each in rows if each is not None}

    def earlier(self, registries: list[str], alone: bool) -> Iterator[tuple[str, str]]:
        """What older and outside registries list. Raises BadInput for one that is none of this house."""
        for path in registries:
            if alone:
                raise BadInput(f"{path} cannot be compared with one log alone.")
            try:
                for note in notes_in(text_of(path)):
                    yield from self.entries(note).items()
            except (Fails, OSError) as error:
                raise BadInput(f"{path} cannot be compared with: {error}.") from None

    def others(self, kept: list[str], alone: str) -> dict[str, list[Head]]:
        """The older and outside checkpoints, by log. Raises BadInput for one that is none of this house.

        Those that are named as the key itself is are of the log that lies `alone`.
        """
        found: dict[str, list[Head]] = {}
        for path in kept:
            try:
                for note in notes_in(text_of(path)):
                    origin, head = self.outside(note, alone)
                    found.setdefault(origin, []).append(head)
            except (Fails, OSError) as error:
                raise BadInput(f"{path} cannot be compared with: {error}.") from None
        return found

    def outside(self, note: str, alone: str) -> tuple[str, Head]:
        """Whose checkpoint it is, and what it says. Raises Fails."""
        name = note.partition("\n")[0]
        origin = alone if name == self.key.name else self.key.origin(name)
        if not origin:
            raise Fails(f"{name!a} is no log of {self.key.name}")
        return origin, self.key.checkpoint(note, name)


# (6) One proof ------------------------------------------------------------------------------------------------------


def climbed(index: int, size: int, value: bytes, hashes: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2). Raises Fails where it leads to none."""
    at, last = index, size - 1
    if index >= size:
        raise Fails("the index is beyond the tree")
    for each in hashes:
        if last == 0:
            raise Fails("the proof has too many hashes")
        if at & 1 or at == last:
            value = node_hash(each, value)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, each)
        at, last = at >> 1, last >> 1
    if last:
        raise Fails("the proof has too few hashes")
    return value


def verify_proof(text: str, key: Key, leaf: bytes | None) -> str:
    """The record that is proven, as JSON. Raises BadInput for what is no proof, Fails for one that proves nothing."""
    shape = r"c2sp\.org/tlog-proof@v1\n(?:extra (\S*)\n)?index (0|[1-9][0-9]{0,15})\n((?:\S+\n)*)\n(.*)"
    found = re.fullmatch(shape, text, re.DOTALL)
    try:
        extra = unbase64(found[1]) if found and found[1] else b""
        hashes = [unbase64(each) for each in found[3].split("\n")[:-1]] if found else []
        ours = bool(found) and key.claimed(found[4]) if found else False
    except Fails as error:
        raise BadInput(f"This is no proof: {error}.") from None
    if not found or any(len(each) != 32 for each in hashes) or not ours:
        raise BadInput("This is no proof (C2SP tlog-proof), or not one that this key has signed.")
    index, name = int(found[2]), found[4].partition("\n")[0]
    size, root = key.checkpoint(found[4], name)
    leaf = extra if leaf is None else leaf
    if not leaf:
        raise BadInput("The proof does not carry its record; give the record too.")
    record = record_of(leaf)
    if climbed(index, size, leaf_hash(leaf), hashes) != root or not record:
        raise Fails(f"it does not lead from this record to the root of {size} records")
    origin = record.get("origin")
    stands = f"{key.name}/{origin}" == name or (name == key.name and name.endswith(f"/{origin}"))
    if record.get("index") != index or not stands:
        raise Fails("the record says of itself that it stands elsewhere")
    return json.dumps(record, indent=2)


# (7) The command line -----------------------------------------------------------------------------------------------


def named(path: str, most: int) -> bytes:
    """A file that the command line names. Raises BadInput."""
    try:
        data = read(path, most)
    except Fails as error:
        raise BadInput(f"{error}.") from None
    if data is None:
        raise BadInput(f"{path} is not there.")
    return data


def text_of(path: str) -> str:
    """The same, as text."""
    try:
        return named(path, 1 << 20).decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text.") from None


def main(given: list[str]) -> int:
    reader = argparse.ArgumentParser(description="Verify a copy of an audit log of Vestry, or a proof from it.")
    reader.add_argument("what", metavar="DIR|FILE", help="audit directory, directory of one log, or .tlog-proof file")
    reader.add_argument("--public-key", required=True, help="the house's public key, or a file that holds it")
    reader.add_argument("--checkpoint", action="append", default=[], help="file with older or outside checkpoints")
    reader.add_argument("--registry", action="append", default=[], help="file with older or outside `origins`")
    reader.add_argument("--record", help="file with the record of a proof that does not carry it")
    reader.add_argument("--json", action="store_true", help="print the first bad index of each log that fails")
    options = reader.parse_args(given)

    def say(line: str) -> None:
        if not options.json:
            print(shown(line, "\n"))

    try:
        path = options.public_key
        key = Key(text_of(path) if os.path.isfile(path) else path)
        if not os.path.isdir(options.what):
            leaf = named(options.record, 65_536).removesuffix(b"\n") if options.record else None
            say(verify_proof(text_of(options.what), key, leaf))
            return 0
        house = House(key, say)
        house.verify(options.what, options.checkpoint, options.registry)
    except (BadInput, OSError) as error:
        print(shown(f"error: {error}"), file=sys.stderr)
        return 2
    except Fails as error:
        print(shown(f"not proven: {error}"), file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"passed": not house.bad, "first_bad": house.bad}))
    say("NOT verified." if house.bad else "Verified.")
    return 1 if house.bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
