"""What content is kept of calls goes with their records, and not before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.logs import DAY, DayLog
from vestry.audit.fields import RecordType
from vestry.audit.pruning import Hold, Policy
from vestry.audit.records import Records, rfc3339


@pytest.fixture
def log(tmp_path: Path) -> DayLog:
    """Forty days of 300 records each."""
    made = DayLog(tmp_path / "audit")
    for _ in range(40):
        made.day()
    return made


def contents(log: DayLog, days: int) -> list[str]:
    """Content of each of the last so many days, today's first."""
    names = [rfc3339(log.clock.wall - ago * DAY * 1_000_000)[:10].replace("-", "") + "-000001" for ago in range(days)]
    for folder in ("keys", "blobs"):
        (log.home / "content" / folder).mkdir(parents=True)
        for name in names:
            (log.home / "content" / folder / name).write_bytes(b"secret")
    return names


def test_content_goes_with_the_records_that_name_it(log: DayLog) -> None:
    """Bundles of days before that of the first record that is left, less the day before it; no other file."""
    days = [name[:8] for name in contents(log, 41)]
    (log.home / "content" / "keys" / "note").write_bytes(b"x")
    log.prune()
    first = log.leaves()[0]["time"][:10].replace("-", "")
    kept = sorted(day for day in days if day >= first)
    before = max(day for day in days if day < first)
    for folder in ("keys", "blobs"):
        left = sorted(path.name for path in (log.home / "content" / folder).iterdir() if path.name != "note")
        assert left == [f"{day}-000001" for day in (before, *kept)]
    assert (log.home / "content" / "keys" / "note").exists()


@pytest.mark.parametrize("hold", [Hold("case 7", tenant="elsewhere"), None])
def test_content_of_kept_records_stays_though_the_first_is_from_the_future(tmp_path: Path, hold: Hold | None) -> None:
    """A clock that was 40 days ahead for one record stops the pruning there. With a hold, content of all records behind
    it stays; without, what is younger than the policy."""
    log = DayLog(tmp_path)
    log.day(records=255)
    log.store._turn_at = 1 << 62
    log.clock.wall += 40 * DAY * 1_000_000
    log.store.commit([Records(clock=log.clock.clock).event(RecordType.SERVER_STOP, version="1")])
    log.clock.wall -= 40 * DAY * 1_000_000
    for _ in range(38):
        log.day(records=20)
        log.store._turn_at = 0
    names = contents(log, 41)
    found = log.prune(Policy(30, (hold,) if hold else ()))
    assert (found.minimum, log.leaves()[0]["index"]) == (256, 256)
    kept = [name for name in names if (log.home / "content" / "keys" / name).exists()]
    assert kept == names[: 40 if hold else 32]


def test_content_that_a_crash_left_goes_with_the_next_run(log: DayLog) -> None:
    """The process died behind the removal of the records: nothing is left to prune, and yet content is."""
    names = contents(log, 41)
    log.prune()
    shutil.rmtree(log.home / "content")
    contents(log, 41)
    log.store.close()
    log.open()
    assert log.prune().records == 0
    assert not (log.home / "content" / "keys" / names[-1]).exists()
    assert (log.home / "content" / "keys" / names[0]).exists()
