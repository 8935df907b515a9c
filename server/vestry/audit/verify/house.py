"""Verifies a copy: all logs of an audit directory against the signed registry, or one log alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from vestry.audit.canonical import clean
from vestry.audit.reading import ORIGIN, is_log
from vestry.audit.registry import REGISTRY, parse
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, PublicKey, split
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.audit.verify import disk
from vestry.audit.verify.disk import Unreadable
from vestry.audit.verify.findings import BadInput, Findings, Progress, Report
from vestry.audit.verify.log import LogVerifier
from vestry.regular import is_folder

_DEPTH = 32
NAMED = 20


class Outside(Struct, frozen=True):
    """A checkpoint or registry that was kept elsewhere: its note, and where it came from, for sentences."""

    source: str
    note: str


class _Log(Struct):
    """A log before it is verified: its origin, its place, and its checkpoint as it lies there."""

    origin: str
    home: Path
    findings: Findings
    note: str | None = None
    head: Checkpoint | None = None
    others: list[Checkpoint] = []


def verify(
    directory: Path,
    key: PublicKey,
    *,
    checkpoints: Sequence[Outside] = (),
    registries: Sequence[Outside] = (),
    progress: Progress | None = None,
) -> Report:
    """Verify what lies in `directory`. `key` is the house's key, or for one log that log's own.

    Raises BadInput where there is no log, where nothing is signed by `key`, and for a checkpoint or registry that is
    none, or has nothing here to be compared with.
    """
    house = Findings("")
    alone = not disk.regular(directory / REGISTRY) and is_log(directory)
    logs = [_alone(directory, key)] if alone else _all(directory)
    registry = None if alone else _note(directory / REGISTRY, house, "registry")
    _right_key(directory, key, [registry, *(each.note for each in logs)])
    listed = {} if alone else _listed(registry, key, house)
    _keep(registries, key, listed, house, alone=alone)
    for log in logs:
        _open(log, key, alone=alone)
    _distribute(checkpoints, key, logs, house, alone=alone)
    if not alone:
        _compare(set(listed), logs, house)
    reports = []
    for log in logs:
        verifier = LogVerifier(log.home, log.origin, log.head, log.findings, others=log.others, progress=progress)
        reports.append(verifier.run())
        if not alone:
            _named(log.origin, verifier.chronicle.origins, listed, house)
    return Report(key=str(key), alone=alone, logs=reports, house=house.kept)


def sizes(directory: Path) -> int:
    """How many records the checkpoints of a copy cover, as they say themselves: for a bar."""
    homes = [directory] if disk.regular(directory / CHECKPOINT) else [home for _, home in _homes(directory)]
    total = 0
    for home in homes:
        try:
            total += Checkpoint.parse(split(disk.text(home / CHECKPOINT) or "")[0]).size
        except (Unreadable, NoteRefused):
            continue
    return total


def notes_of(text: str) -> list[str]:
    """The notes in a file that holds one or more, one after the other. Raises BadInput for what is none."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if found[-1] and found[-1][-1].startswith("— ") and not line.startswith("— "):
            found.append([])
        if line or found[-1]:
            found[-1].append(line)
    notes = ["\n".join(lines) + "\n" for lines in found if lines]
    if not notes:
        raise BadInput("it holds no signed note")
    return notes


def signed_by(note: str, key: PublicKey) -> bool:
    """Whether a note claims a signature by this key. Raises NoteRefused for what is no note."""
    return any(name == key.name and value[:4] == key.id for name, value in split(note)[1])


def key_for(name: str, key: PublicKey) -> PublicKey | None:
    """The key that signs as `name`: this one, or the house's key under the name of one of its logs."""
    if name == key.name:
        return key
    origin = name.removeprefix(f"{key.name}/")
    return key.of(origin) if origin != name and ORIGIN.fullmatch(origin) else None


def origin_of(key: PublicKey, name: str) -> str:
    """The origin of the log that signs as `name`; a log's own key does not tell where the house's name ends."""
    return name.removeprefix(f"{key.name}/") if name != key.name else ""


def _homes(directory: Path) -> list[tuple[str, Path]]:
    """The logs below a directory, by name; deeper ones included."""
    found: list[tuple[str, Path]] = []
    waiting = [(each, 1) for each in disk.folders(directory)]
    while waiting:
        home, depth = waiting.pop()
        name = home.relative_to(directory).as_posix()
        if not ORIGIN.fullmatch(name):
            continue
        if is_log(home):
            found.append((name, home))
        if depth < _DEPTH:
            waiting.extend((each, depth + 1) for each in disk.folders(home) if each.name != "tile")
    return sorted(found)


def _all(directory: Path) -> list[_Log]:
    if not is_folder(directory):
        raise BadInput(f"{directory} is no directory.")
    logs = [_Log(name, home, Findings(name)) for name, home in _homes(directory)]
    if not disk.regular(directory / REGISTRY):
        if not logs:
            raise BadInput(
                f"{directory} is no audit directory: it holds no log, and no registry of logs (`{REGISTRY}`)."
            )
        _none_below(directory, logs)
    for log in logs:
        log.note = _note(log.home / CHECKPOINT, log.findings, "checkpoint")
    return logs


def _none_below(directory: Path, logs: Sequence[_Log]) -> None:
    """Raises BadInput where the logs lie in audit directories of their own, below the one that was given."""
    above = {each for log in logs for each in log.home.parents if directory in each.parents}
    if found := sorted(str(each) for each in above if disk.regular(each / REGISTRY)):
        named = ", ".join(f"`{clean(each, 200)}`" for each in found[:NAMED])
        raise BadInput(f"{directory} is no audit directory itself, but holds some: verify each for itself: {named}.")


def _alone(home: Path, key: PublicKey) -> _Log:
    """One log. Its origin is what its checkpoint says, under the key's name."""
    findings = Findings("")
    note = _note(home / CHECKPOINT, findings, "checkpoint")
    name = "" if note is None else note.partition("\n")[0]
    origin = origin_of(key, name) or name.rpartition("/")[2] or home.resolve().name
    findings.origin = origin = clean(origin, 64)
    return _Log(origin, home, findings, note)


def _note(path: Path, findings: Findings, what: str) -> str | None:
    """The text of a signed note; None where it is missing or is no note, which is reported."""
    try:
        note = disk.text(path)
        if note is not None:
            split(note)
            return note
        findings.fail(f"{what}-missing", f"{path} is missing: without it nothing here is proven.", None, "a file")
    except (Unreadable, NoteRefused) as error:
        sentence = str(error) if isinstance(error, Unreadable) else f"{path} is damaged: {error}"
        findings.fail(f"{what}-damaged", f"{sentence}.", None, "a signed note")
    return None


def _right_key(directory: Path, key: PublicKey, notes: Sequence[str | None]) -> None:
    """Raises BadInput where not one note claims to be signed by the key: it is that of another house."""
    there = [each for each in notes if each is not None]
    for note in there:
        mine = key_for(note.partition("\n")[0], key)
        if signed_by(note, key) or (mine is not None and signed_by(note, mine)):
            return
    if there:
        names = sorted(
            {clean(f"{name} (key {value[:4].hex()})", 200) for each in there for name, value in split(each)[1]}
        )
        raise BadInput(
            f"Nothing in {directory} is signed by {key.name} with the key {key.id.hex()}, but by "
            f"{', '.join(names[:3])}. Either this is not the key of that house, or everything was signed anew."
        )


def _listed(registry: str | None, key: PublicKey, house: Findings) -> dict[str, str]:
    """The origins of the registry, and when each was first seen; none where it is missing or wrong, which is said."""
    if registry is None:
        return {}
    try:
        text = key.verify(registry)
    except NoteRefused as error:
        house.fail("registry-signature", f"The registry of logs (`{REGISTRY}`) counts for nothing: {error}.")
        return {}
    try:
        return parse(text, key.name)
    except NoteRefused:
        house.fail("registry-damaged", f"The registry of logs (`{REGISTRY}`) is signed, but malformed.")
        return {}


def _keep(
    registries: Sequence[Outside], key: PublicKey, listed: dict[str, str], house: Findings, *, alone: bool
) -> None:
    """What older and outside registries list must still be listed so: no log ever leaves, or begins anew."""
    if alone and registries:
        raise BadInput(f"{registries[0].source} cannot be compared with one log alone: give the audit directory.")
    gone: dict[tuple[str, str], str] = {}
    for outside in registries:
        try:
            known = parse(key.verify(outside.note), key.name)
        except NoteRefused as error:
            raise BadInput(f"{outside.source} is no registry that can be compared with: {error}.") from None
        gone |= {each: outside.source for each in known.items() if listed.get(each[0]) != each[1]}
    for (name, seen), source in sorted(gone.items()):
        house.fail(
            "registry-short",
            f"The log `{name}` stands in a registry that was signed earlier ({source}): a whole log was removed or "
            "replaced, and the registry signed anew, or the one here is an older one.",
            None,
            f"{name}, first seen {seen}",
            f"first seen {listed[name]}" if name in listed else "no entry",
            origin=name,
        )


def _open(log: _Log, key: PublicKey, *, alone: bool) -> None:
    """The checkpoint of a log, if its signature is good and it is this log's."""
    if log.note is None:
        return
    expected = key if alone and log.note.partition("\n")[0] == key.name else key.of(log.origin)
    try:
        log.head = Checkpoint.open(log.note, expected)
    except NoteRefused as error:
        log.findings.fail(
            "checkpoint-signature",
            f"The checkpoint counts for nothing: {error}.",
            None,
            f"a checkpoint signed by {expected.name} with the key {expected.id.hex()}",
            clean(log.note.partition("\n")[0], 100),
        )


def _distribute(
    checkpoints: Sequence[Outside], key: PublicKey, logs: list[_Log], house: Findings, *, alone: bool
) -> None:
    """Give each outside checkpoint to its log. Raises BadInput for one that is not this house's."""
    for outside in checkpoints:
        name = outside.note.partition("\n")[0]
        mine = key_for(name, key)
        if mine is None or (mine is key and not alone):
            raise BadInput(f"{outside.source} is no checkpoint of a log of {key.name}.")
        try:
            found = Checkpoint.open(outside.note, mine)
        except NoteRefused as error:
            raise BadInput(f"{outside.source} is no checkpoint that can be compared with: {error}.") from None
        origin = origin_of(key, name)
        log = next((each for each in logs if each.origin == origin or name == key.name), None)
        if log is not None:
            log.others.append(found)
        elif alone:
            raise BadInput(f"{outside.source} is a checkpoint of {name}, which is another log than the one here.")
        else:
            house.fail(
                "log-missing",
                f"A checkpoint of the log `{origin}` was signed, with {found.size} records, and there is no such log "
                "here.",
                0,
                f"{found.size} records",
                "no log",
                origin=origin,
            )


def _compare(listed: set[str], logs: list[_Log], house: Findings) -> None:
    """The registry against what is there."""
    there = {each.origin for each in logs}
    for name in sorted(listed - there):
        house.fail(
            "log-missing", f"The log `{name}` stands in the registry, and is not here.", 0, "a log", "none", origin=name
        )
    for name in sorted(there - listed) if listed else []:
        house.fail(
            "log-unlisted", f"The log `{name}` does not stand in the registry.", None, "an entry", "none", origin=name
        )


def _named(origin: str, named: dict[str, int], listed: dict[str, str], house: Findings) -> None:
    """The origins that the `server.start` records of one log knew, against the registry."""
    for name, index in sorted(named.items()):
        if name not in listed:
            house.fail(
                "registry-short",
                f"Record {index} of the log `{origin}` knows a log `{clean(name, 64)}`, which does not stand in the "
                "registry: an entry was removed, or the registry is an older one.",
                None,
                "an entry",
                "none",
                origin=clean(name, 64),
            )
