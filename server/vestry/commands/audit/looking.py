"""What `show`, `export` and `index` share: the options of a filter, where the logs are, and the record of the reading.

The rule: reading the logs of a server is recorded in them before anything is shown. Reading a copy (`--copy`) is not,
for it has no place to record it in; so what a server writes to is never taken for a copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from vestry.audit.canonical import printable
from vestry.audit.fields import RecordType
from vestry.audit.finding.filters import FIELDS, Filter, alternatives, moment_of
from vestry.audit.finding.index import INDEX
from vestry.audit.finding.search import Found, Search, merged
from vestry.audit.reading import NoLog, is_log, origins
from vestry.audit.scan import LogUnusable
from vestry.commands.common import BadSettings, settings_of
from vestry.commands.unusable import Unusable
from vestry.composition.reader import ReadingRefused, record_reading
from vestry.models.progress import Progress
from vestry.settings.tree import Settings
from vestry.types import Ending

HELD_BYTES = 16 << 20
MOST = 10_000
Wrapper = Callable[[Callable[..., None]], Callable[..., None]]


class Place(Struct, frozen=True):
    """Where the logs are. `settings` is None for a copy."""

    directory: Path
    settings: Settings | None
    logs: dict[str, Path]
    """Directories of logs, by the logs' names."""

    def index(self, origin: str) -> Path:
        """Where the index of a log is: beside the log; of a copy, which nothing is written to, in the user's cache."""
        home = self.logs[origin]
        if self.settings is not None:
            return home / INDEX
        cache = Path(os.environ.get("XDG_CACHE_HOME") or _own_cache()) / "vestry"
        with contextlib.suppress(OSError):  # opening the index says what is wrong
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cache / f"index-{hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:32]}.sqlite"


def _own_cache() -> Path:
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers: then there is no place
        return Path(os.devnull)


def _moment(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return moment_of(value, datetime.now(UTC))
    except ValueError:
        said = "write 24h, 90m, 7d (ago), a day as 2027-01-31, or a time as 2027-01-31T18:00:00Z"
        raise click.BadParameter(said) from None


_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--origin", {"help": "Which log: such as server, cli."}),
    (
        "--type",
        {"type": click.Choice([each.value for each in RecordType]), "help": "Type of record.", "metavar": "TYPE"},
    ),
    ("--tenant", {"help": "Tenant."}),
    ("--subject", {"help": "Person or program that the key belongs to."}),
    ("--model", {"help": "Model, as clients name it."}),
    ("--outcome", {"type": click.Choice([each.value for each in Ending]), "help": "How the call ended."}),
    ("--status", {"type": click.IntRange(100, 599), "help": "HTTP status of the answer."}),
    ("--code", {"help": "Error code of the answer."}),
    ("--request-id", {"help": "Id of the call, as the client was given in x-request-id."}),
    ("--key-id", {"help": "Public id of the key."}),
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a filter, and of where to look."""
    made: list[Wrapper] = [click.option(name, multiple=True, **about) for name, about in _OPTIONS]
    made += [
        click.option("--since", callback=_moment, metavar="WHEN", help="From then on: 24h, 7d, a day, a time."),
        click.option("--until", callback=_moment, metavar="WHEN", help="Before then."),
        click.option("--no-index", is_flag=True, help="Read the log itself from end to end; slow, and sure."),
        where,
    ]
    for option in reversed(made):
        command = option(command)
    return command


def where(command: Callable[..., None]) -> Callable[..., None]:
    """The options of where to look."""
    copy = click.option(
        "--copy",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="A copy of the logs, or of one log, instead: needs no settings, and records nothing.",
    )
    directory = click.option(
        "--directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory of this server's logs. Left out: the settings' one.",
    )
    return directory(copy(command))


def filter_of(asked: dict[str, Any]) -> Filter:
    """What the options ask for."""
    given = {"ending": asked["outcome"], **{name: asked[name] for name in FIELDS if name != "ending"}}
    wanted = alternatives({name: list(map(str, values)) for name, values in given.items()})
    return Filter(wanted, frozenset(asked["origin"]), asked["since"], asked["until"])


def place_of(config: Path | None, directory: Path | None, copy: Path | None, wanted: frozenset[str]) -> Place:
    """Where the logs are that are asked for. Raises click.ClickException."""
    if copy is not None and directory is not None:
        raise click.UsageError("--directory is for this server's logs, --copy for a copy: give one of them.")
    settings = settings_of(config) if copy is None else None
    folder = copy or directory or (settings or Settings()).audit_directory
    with told():
        if copy is not None and is_log(copy):
            logs = {copy.resolve().name: copy}
        else:
            logs = {name: folder / name for name in origins(folder)}
        if not logs:
            raise NoLog(f"{folder} holds no audit log.")
    if unknown := wanted - logs.keys():
        known = ", ".join(f"`{name}`" for name in logs)
        raise Unusable(f"There is no log `{min(unknown)}` in {folder}. There are: {known}.")
    if copy is not None:
        _really_a_copy(config, copy, logs)
    return Place(folder, settings, {name: home for name, home in logs.items() if not wanted or name in wanted})


def _really_a_copy(config: Path | None, copy: Path, logs: dict[str, Path]) -> None:
    """Raises Unusable for this server's own directory, and for a log that somebody writes to."""
    try:
        own = settings_of(config).audit_directory.resolve()
    except BadSettings:  # an auditor's machine need not have any
        own = None
    resolved = copy.resolve()
    if own is not None and (resolved == own or own in resolved.parents or resolved in own.parents):
        raise Unusable(f"{copy} is no copy, but this server's own audit log. Leave --copy out; reading is recorded.")
    for home in logs.values():
        if _written_to(home):
            raise Unusable(f"{home} is no copy: a server writes to it. Leave --copy out, or read a copy.")


def _written_to(home: Path) -> bool:
    try:
        descriptor = os.open(home / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


class Reading:
    """One reading: what is to be shown, counted and recorded before the first record is given out."""

    def __init__(self, place: Place, wanted: Filter, *, use_index: bool, progress: Progress) -> None:
        self._place, self._wanted = place, wanted
        self._bars = contextlib.ExitStack()
        self._progress = progress
        with told(), self._bars:
            self.searches = [
                Search(
                    home,
                    origin,
                    wanted,
                    index=place.index(origin) if use_index else None,
                    progress=self._bar,
                    told=progress.say,
                )
                for origin, home in place.logs.items()
            ]
        for search in self.searches:
            if search.first:
                progress.say(
                    f"Records before {search.first} of `{search.origin}` are not there: they were pruned, or are "
                    "missing; `vestry audit verify` tells."
                )

    def _bar(self, what: str, records: int) -> Callable[[int], None]:
        return self._bars.enter_context(self._progress.bar(what, records)).advance

    def begin(self, command: str, *, limit: int | None = None, newest_first: bool = False) -> Iterator[Found]:
        """Count what fits, record that it is about to be read, and give it out. Raises click.ClickException."""
        with told():
            held, count = self._held(limit, newest_first)
        if self._place.settings is not None:
            try:
                record_reading(
                    self._place.settings,
                    command=command,
                    asked=str(self._wanted),
                    records=count,
                )
            except ReadingRefused as error:
                raise click.ClickException(str(error)) from None
        return self._all(newest_first) if held is None else iter(held)

    def _held(self, limit: int | None, newest_first: bool) -> tuple[list[Found] | None, int]:
        """What is to be shown, where it is little; and how much it is."""
        if limit is not None:
            held = list(islice(self._all(newest_first=True), limit))
            return (held if newest_first else held[::-1]), len(held)
        counts = [search.count() for search in self.searches]
        known = [count for count in counts if count is not None]
        if len(known) == len(counts):
            return None, sum(known)
        few: list[Found] | None = []
        size = count = 0
        for found in self._all(newest_first):
            count += 1
            size += len(found.leaf) + 256
            if few is not None:
                few.append(found)
                few = few if size < HELD_BYTES else None
        return few, count

    def _all(self, newest_first: bool) -> Iterator[Found]:
        logs = [each.backward() if newest_first else each.forward() for each in self.searches]
        return merged(logs, newest_first=newest_first)

    def following(self) -> list[Found]:
        """What has come since it was last looked, in logs that have begun meanwhile too."""
        with told():
            self._join()
            return [found for search in self.searches for found in search.following()]

    def _join(self) -> None:
        """Follow the logs that were not there before, from their beginning; a copy has none."""
        wanted = self._wanted.origins
        known = {search.origin for search in self.searches}
        for origin in origins(self._place.directory) if self._place.settings is not None else ():
            if origin not in known and (not wanted or origin in wanted):
                search = Search(self._place.directory / origin, origin, self._wanted, index=None)
                search.end = search.first
                self.searches.append(search)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What is wrong with a log ends the command with its sentence, and exit status 2."""
    try:
        yield
    except (NoLog, LogUnusable) as error:
        raise Unusable(printable(str(error))) from None
    except OSError as error:
        if error.filename is None:
            raise  # the output's
        raise Unusable(printable(f"{error.filename} cannot be read: {error.strerror}.")) from None
