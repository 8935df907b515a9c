"""Bundles on the disk: what is acknowledged is found again, what a crash left is not, what is erased is gone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fakes.audit import FaultyFiles
from vestry.audit.content import bundles, erasing
from vestry.audit.content.bundles import About, Bundle, ContentDamaged, Item, Place
from vestry.audit.content.erasing import Wanted
from vestry.audit.files import Files, State
from vestry.types import ContentMode

DAY = "20260131"
ALICE = Wanted("alice")
ABOUT = About("radiology", "alice", "req_1", "prompt", ContentMode.FULL, "2026-01-31T00:00:00.000000Z")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A log's directory, made ready."""
    made = Place(tmp_path)
    made.make(Files())
    return made


def item(subject: str = "alice", blob: bytes = b"plain text", mode: ContentMode = ContentMode.FULL) -> Item:
    return Item(replace(ABOUT, subject=subject, mode=mode), b"s" * 32, blob)


def bundle_of(place: Place, *items: Item) -> Bundle:
    made = Bundle.begin(place, DAY, Files())
    for each in items:
        made.append([each])
    return made


@given(
    st.lists(
        st.tuples(st.binary(max_size=200), st.binary(min_size=1, max_size=100), st.text(max_size=40)), max_size=20
    ),
    st.integers(1, 7),
)
def test_what_is_kept_is_found(
    tmp_path_factory: pytest.TempPathFactory, kept: list[tuple[bytes, bytes, str]], each: int
) -> None:
    """By its place, and by going through; in batches of any size, whatever the bytes, the format's own included."""
    place = Place(tmp_path_factory.mktemp("log"))
    place.make(Files())
    items = [
        Item(replace(ABOUT, subject=ascii(subject), request_id=str(number)), secret + b"VKE1", blob)
        for number, (blob, secret, subject) in enumerate(kept)
    ]
    bundle = Bundle.begin(place, DAY, Files())
    places = [found for at in range(0, len(items), each) for found in bundle.append(items[at : at + each])]
    bundle.close()
    path, blobs = place.keys / bundle.name, place.blobs / bundle.name
    assert [entry.place for entry in bundles.entries(path)] == [entry for entry, _ in places]
    for wanted, (entry_at, blob_at) in zip(items, places, strict=True):
        entry = bundles.entry_at(path, entry_at)
        assert entry.lives
        assert entry.secret == wanted.secret
        assert entry.about == replace(wanted.about, offset=blob_at, length=len(wanted.blob))
        assert bundles.blob_at(blobs, entry.about.offset, entry.about.length) == wanted.blob


def test_files_are_for_their_owner_alone(place: Place) -> None:
    """Directories and files."""
    name = bundle_of(place, item()).name
    for path in (place.log / "content", place.keys, place.blobs):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (place.keys / name, place.blobs / name):
        assert path.stat().st_mode & 0o777 == 0o600


def test_each_bundle_comes_after_all_others(place: Place) -> None:
    """On the same day, on another, and on an earlier one, when the clock went back."""
    names = [Bundle.begin(place, day, Files()).name for day in (DAY, DAY, "20260201", DAY)]
    assert names == ["20260131-000001", "20260131-000002", "20260201-000001", "20260201-000002"]
    assert names == sorted(names) == place.names()


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_what_a_crash_left_is_taken_away(place: Place, left: int) -> None:
    """A torn entry and a blob that nobody acknowledged; what was acknowledged stays."""
    name = bundle_of(place, item(blob=b"first")).name
    path, blobs = place.keys / name, place.blobs / name
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(before[:left])
    with blobs.open("ab") as file:
        file.write(b"a canary that nobody acknowledged")
    assert len(list(bundles.entries(path))) == 1
    assert bundles.damaged_at(path) is None
    bundles.tidy(place, name, Files())
    assert path.read_bytes() == before
    assert blobs.read_bytes() == b"first"


def test_a_damaged_entry_hides_none_behind_it(place: Place) -> None:
    """Going through passes it over; asking for it says what is wrong; tidying cuts nothing off that is good."""
    name = bundle_of(place, item("alice"), item("bob"), item("carol")).name
    path = place.keys / name
    second = list(bundles.entries(path))[1]
    data = bytearray(path.read_bytes())
    data[second.place + 20] ^= 0xFF
    path.write_bytes(data)
    assert [entry.about.subject for entry in bundles.entries(path)] == ["alice", "carol"]
    with pytest.raises(ContentDamaged, match=f"damaged at byte {second.place}"):
        bundles.entry_at(path, second.place)
    bundles.tidy(place, name, Files())
    assert path.read_bytes() == data


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("byte", [0, 3, 5, 6, 9, 12, 20, 40, -40])
def test_a_flipped_bit_in_the_last_entry_costs_nobody_their_content(place: Place, byte: int, bit: int) -> None:
    """In its magic, a length, its head: erasing the only other one leaves entry and blob, and names the file."""
    for _ in range(2):
        name = bundle_of(place, item("alice"), item("bob", b"bob's evidence")).name
    name = place.names()[0]
    path = place.keys / name
    at = list(bundles.entries(path))[1].place
    data = bytearray(path.read_bytes())
    data[at + byte if byte >= 0 else byte] ^= 1 << bit
    path.write_bytes(data)
    erasing.destroy(erasing.find([place.log], ALICE), ALICE)
    bundles.tidy(place, name, Files())
    assert erasing.sweep([place.log]) == 0
    assert path.read_bytes()[at:] == data[at:]
    assert (place.blobs / name).read_bytes() == bytes(10) + b"bob's evidence"
    [said] = erasing.damaged([place.log])
    assert f"{path} is damaged at byte {at}" in said


def test_a_damaged_entry_keeps_the_blobs_of_its_bundle(place: Place) -> None:
    """Also one that stands before others, all of which are erased: what it keeps may be somebody else's."""
    for _ in range(2):
        bundle_of(place, item("bob", b"bob's evidence"), item("alice"))
    path = place.keys / place.names()[0]
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    erasing.destroy(erasing.find([place.log], ALICE), ALICE)
    assert erasing.sweep([place.log]) == 0
    assert (place.blobs / place.names()[0]).read_bytes() == b"bob's evidence" + bytes(10)
    assert "at byte 0" in erasing.damaged([place.log])[0]


@given(st.binary(max_size=300))
def test_garbage_is_no_entry(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    """Whatever stands in the file: no crash, no entry."""
    path = tmp_path_factory.mktemp("garbage") / "keys"
    path.write_bytes(b"VKE1L" + garbage)
    assert list(bundles.entries(path)) == []
    with pytest.raises(ContentDamaged):
        bundles.entry_at(path, 0)


def test_hostile_places_take_no_memory(place: Place) -> None:
    """A blob of a petabyte, one beyond the end, a file of keys that is too large: sentences."""
    name = bundle_of(place, item()).name
    with pytest.raises(ContentDamaged, match="cannot hold"):
        bundles.blob_at(place.blobs / name, 0, 1 << 50)
    with pytest.raises(ContentDamaged, match="ends before"):
        bundles.blob_at(place.blobs / name, 1 << 40, 10)
    os.truncate(place.keys / name, bundles.LARGEST_KEYS + 1)
    with pytest.raises(ContentDamaged, match="no file of keys"):
        list(bundles.entries(place.keys / name))


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, "short"])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failed_write_leaves_nothing(place: Place, call: str, fault: int | str) -> None:
    """The caller is told, and what was half written is taken back; a short write goes on."""
    if (call, fault) == ("sync", "short"):
        return
    files = FaultyFiles()
    bundle = Bundle.begin(place, DAY, files)
    bundle.append([item("alice", b"first")])
    files.fail(call, fault, times=1)
    if fault == "short":
        bundle.append([item("bob", b"second")])
        assert [entry.about.subject for entry in bundles.entries(place.keys / bundle.name)] == ["alice", "bob"]
        return
    with pytest.raises(OSError):
        bundle.append([item("bob", b"second")])
    assert [entry.about.subject for entry in bundles.entries(place.keys / bundle.name)] == ["alice"]
    assert (place.blobs / bundle.name).read_bytes() == b"first"


def test_erasing_destroys_one_subject(place: Place) -> None:
    """Secrets are zeros, plain texts too; a ciphertext may stay; others are untouched, and all entries are in place."""
    sealed = item("alice", b"ciphertext", ContentMode.SEALED)
    name = bundle_of(place, item("alice", b"A" * 10), item("bob", b"B" * 10), sealed).name
    found = erasing.find([place.log], ALICE)
    assert [each.count for each in found] == [2]
    erasing.destroy(found, ALICE)
    entries = list(bundles.entries(place.keys / name))
    assert [(each.lives, each.secret) for each in entries] == [
        (False, bytes(32)),
        (True, b"s" * 32),
        (False, bytes(32)),
    ]
    assert (place.blobs / name).read_bytes() == bytes(10) + b"B" * 10 + b"ciphertext"
    assert erasing.find([place.log], ALICE) == []


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"subject": "alice"}, 2),
        ({"subject": "alice", "tenant": "radiology"}, 1),
        ({"subject": "alice", "tenant": "nobody"}, 0),
        ({"subject": "alice", "before": "2026-02-01T00:00:00.000000Z"}, 1),
        ({"subject": "Alice"}, 0),
        ({"subject": ""}, 0),
    ],
)
def test_what_is_found(place: Place, asked: dict[str, str], count: int) -> None:
    """By subject, and where asked by tenant and time."""
    later = replace(ABOUT, tenant="research", time="2026-02-01T00:00:00.000000Z")
    bundle_of(place, item(), Item(later, b"s" * 32, b""), item("bob"))
    found = erasing.find([place.log], Wanted(**asked))
    assert sum(each.count for each in found) == count
    assert {name for each in found for name in each.tenants} <= {"radiology", "research"}


class Dying(Files):
    """Files whose process dies at the nth durable step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def _step(self) -> None:
        if self.steps == 0:
            raise KeyboardInterrupt
        self.steps -= 1


@pytest.mark.parametrize("steps", range(12))
def test_an_erasure_that_was_killed_is_ended_by_the_next(place: Place, steps: int) -> None:
    """Wherever it dies: what is not destroyed still says that it lives, and the next run destroys it."""
    for _ in range(2):
        bundle_of(place, item("alice", b"a canary text"), item("bob", b"bob's")).close()
    bundle_of(place, item("alice", b"a canary text")).close()
    try:
        files = Dying(steps)
        erasing.destroy(erasing.find([place.log], ALICE), ALICE, files)
        erasing.sweep([place.log], files)
        died = False
    except KeyboardInterrupt:
        died = True
    assert died == (steps < 9)
    for name in place.names():
        for entry in bundles.entries(place.keys / name):
            if not entry.lives:
                assert entry.secret == bytes(32)
                assert (place.blobs / name).read_bytes()[entry.about.offset :][: entry.about.length] == bytes(13)
    erasing.destroy(erasing.find([place.log], ALICE), ALICE)
    erasing.sweep([place.log])
    for name in place.names():
        assert b"canary" not in (place.blobs / name).read_bytes()
        for entry in bundles.entries(place.keys / name):
            assert entry.lives == (entry.about.subject == "bob")


def test_blobs_go_when_nothing_lives_in_them(place: Place) -> None:
    """The file is removed, but not the newest one: the server may write to it."""
    for _ in range(2):
        bundle_of(place, item("alice")).close()
    erasing.destroy(erasing.find([place.log], ALICE), ALICE)
    assert erasing.sweep([place.log]) == 1
    assert [path.name for path in place.blobs.iterdir()] == ["20260131-000002"]
    assert place.names() == ["20260131-000001", "20260131-000002"]
    assert erasing.sweep([place.log]) == 0


class Unreadable(Files):
    """A disk that cannot say what it holds. (`Path.exists` calls that "nothing" since Python 3.14.)"""

    def there(self, path: Path) -> State | None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_nothing_counts_as_erased_whose_file_cannot_be_looked_at(place: Place) -> None:
    """The plain text may still be there: all that is to be erased still says that it lives, and nothing is removed."""
    name = bundle_of(place, item()).name
    with pytest.raises(OSError, match="Input/output error"):
        erasing.destroy(erasing.find([place.log], ALICE), ALICE, Unreadable())
    assert [each.lives for each in bundles.entries(place.keys / name)] == [True]
    erasing.destroy(erasing.find([place.log], ALICE), ALICE)
    with pytest.raises(OSError, match="Input/output error"):
        bundles.drop_blobs(place, name, Unreadable())


def test_an_entry_cannot_make_erasing_write_beyond_its_file(place: Place) -> None:
    """A hostile place for a blob: the file keeps its size."""
    name = bundle_of(place, item()).name
    [entry] = bundles.entries(place.keys / name)
    hostile = replace(entry, about=replace(entry.about, offset=1 << 40, length=1 << 40))
    bundles.erase(place, name, [hostile], Files())
    assert (place.blobs / name).read_bytes() == b"plain text"


def test_what_came_after_the_count_is_not_destroyed(place: Place) -> None:
    """The server appends between finding, recording and destroying: the record's count stays true."""
    bundle = bundle_of(place, item("alice"))
    found = erasing.find([place.log], ALICE)
    bundle.append([item("alice")])
    erasing.destroy(found, ALICE)
    assert [entry.lives for entry in bundles.entries(place.keys / bundle.name)] == [False, True]
