"""`vestry audit status`, `reconcile` and `prune` as an operator runs them: beside a server, on copies, on no log."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.audit import SIGNING as KEY
from fakes.audit import HandClock
from fakes.engine import FakeEngine
from support.audit_logs import signer
from support.cli import Cli
from support.house import PLAIN, SIGNING, House, chat, read_records, until
from support.logs import DAY, DayLog
from vestry.audit import reconciling
from vestry.audit.notary import Signing
from vestry.audit.opening import open_store
from vestry.audit.reading import LogReader
from vestry.audit.records import Clock
from vestry.audit.store import Store
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.commands.audit import prune as pruning

FAST = {"reconcile_seconds": 0.1}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


def status(cli: Cli, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    result = cli("audit", "status", "--json", *arguments)
    assert result.exit_code == code, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def call(house: House, times: int = 1) -> None:
    for _ in range(times):
        assert house.post(json=chat()).status_code == 200


def test_status_beside_a_running_server_and_after_it(tmp_path: Path, engine: FakeEngine) -> None:
    """Sizes, the checkpoint, what waits for one, calls in progress, the engines; afterwards all of it is signed."""
    cli = Cli(tmp_path)
    with House(tmp_path, [engine], audit=FAST) as house:
        call(house, 3)
        (found,) = status(cli, code=1)
        assert found["faults"] == ["there is no checkpoint, so nothing of it is evidence yet"]
        house.checkpoint()
        until((house.settings.audit_directory / "server" / CHECKPOINT).exists, what="the checkpoint")
        call(house)
        (found,) = status(cli)
        assert found["records"] >= 10
        assert found["uncovered"] >= 2
        assert found["checkpoint"]["size"] + found["uncovered"] == found["records"]
        engine.behave(first_seconds=1.0)
        thread = threading.Thread(target=call, args=(house,))
        thread.start()
        until(lambda: status(cli)[0]["open_intents"] == 1, what="the call in progress")
        thread.join()
    (found,) = status(cli)
    assert (found["uncovered"], found["open_intents"], found["minimum_index"]) == (0, 0, 0)
    assert found["reconciled"]
    (replica,) = found["engines"]
    assert replica["readable"]
    assert replica["unexplained"] == {"prompt_tokens": 0, "completion_tokens": 0, "requests": 0}
    text = cli.ok("audit", "status")
    assert "server:" in text
    assert "agrees with the log" in text
    assert text.rstrip().endswith("Nothing is wrong.")


def test_a_replica_that_was_taken_away_is_no_fault(tmp_path: Path, engine: FakeEngine) -> None:
    """Broken, and then out of the settings: its counters need not be readable any more. What it did stays said."""
    cli = Cli(tmp_path)
    with FakeEngine() as broken:
        with House(tmp_path, [engine, broken], audit=FAST) as house:
            httpx.post(broken.url + "/v1/chat/completions", json=chat(), verify=PLAIN)
            until(lambda: len(house.records("log.reconciled")) > 1, what="the difference")
            broken.stop()
        assert any("could not be read" in fault for fault in status(cli, code=1)[0]["faults"])
    with House(tmp_path, [engine], audit=FAST) as house:
        until(lambda: house.records("log.reconciled")[-1]["cause"] == "start", what="the first look")
    (found,) = status(cli, code=1)
    assert len(found["faults"]) == 1
    assert "that no record explains" in found["faults"][0]
    assert sorted(each["left"] for each in found["engines"]) == [False, True]
    assert "it is no replica any more" in cli("audit", "status").stdout


def test_status_says_what_is_wrong(tmp_path: Path, engine: FakeEngine) -> None:
    """Work behind the back; on copies: tiles of another tree, records, a log or a checkpoint that is gone."""
    cli = Cli(tmp_path)
    with House(tmp_path, [engine], audit=FAST) as house:
        call(house, 3)
        httpx.post(engine.url + "/v1/chat/completions", json=chat(), verify=PLAIN)
        until(lambda: len(house.records("log.reconciled")) > 1, what="the difference")
    result = cli("audit", "status")
    assert result.exit_code == 1
    assert "24 prompt tokens, 7 completion tokens, 1 requests that no record explains." in result.stdout
    audit = house.settings.audit_directory

    def on_copy(change: Any) -> str:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(audit, copy)
        change(copy)
        (found,) = status(cli, "--directory", str(copy), code=1)
        return "; ".join(found["faults"])

    (tile,) = (audit / "server" / "tile" / "0").rglob("000.p/*")
    relative = tile.relative_to(audit)

    def flip(copy: Path) -> None:
        data = bytearray((copy / relative).read_bytes())
        data[5] ^= 1
        (copy / relative).write_bytes(data)

    assert "do not lead to the root" in on_copy(flip)
    assert "is missing" in on_copy(lambda copy: (copy / relative).unlink())
    assert "cannot be read from" not in on_copy(lambda copy: None)
    assert "is damaged" in on_copy(lambda copy: (copy / "server" / CHECKPOINT).write_text("x"))
    assert "no checkpoint" in on_copy(lambda copy: (copy / "server" / CHECKPOINT).unlink())
    assert "missing" in on_copy(lambda copy: shutil.rmtree(copy / "server"))

    def cut(copy: Path) -> None:
        (segment,) = (copy / "server").glob("*.jsonl")
        lines = segment.read_bytes().splitlines(keepends=True)
        segment.write_bytes(b"".join(lines[:-2]))

    assert "the journal ends before record" in on_copy(cut)

    def stale(copy: Path) -> None:
        (segment,) = (copy / "server").glob("*.jsonl")
        last = json.loads(segment.read_bytes().splitlines()[-1])
        line = {**last, "index": last["index"] + 1, "time": "2020-01-01T00:00:00.000000Z"}
        with segment.open("ab") as file:
            file.write(json.dumps(line, separators=(",", ":"), sort_keys=True).encode() + b"\n")

    said = on_copy(stale)
    assert "has been under no checkpoint since 2020" in said
    assert "or this is a copy, taken before one came" in said


@pytest.mark.parametrize("command", ["status", "reconcile"])
def test_what_is_no_log_is_told_in_a_sentence(tmp_path: Path, command: str) -> None:
    """Exit status 2, and no traceback."""
    cli = Cli(tmp_path)
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("x")
    for place in (empty, tmp_path / "nowhere", file):
        result = cli("audit", command, "--directory", str(place))
        assert result.exit_code == 2
        assert str(place) in result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["status", "reconcile", "verify"])
def test_what_cannot_be_looked_at_is_not_called_empty(tmp_path: Path, command: str) -> None:
    """The system's own words say why: there may well be a log."""
    place = tmp_path / "unanswering"
    place.symlink_to(place)  # ELOOP, as EACCES and EIO would be
    where = [str(place), "--public-key", str(signer().public)] if command == "verify" else ["--directory", str(place)]
    result = Cli(tmp_path)("audit", command, *where)
    assert result.exit_code == 2
    assert "Too many levels of symbolic links" in result.output


def test_servers_that_share_an_engine_are_added_up(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum over both logs explains it; one log alone does not; nor do both explain a call behind their backs."""
    monkeypatch.setattr(reconciling, "EDGE_SECONDS", 1)
    cli, copies = Cli(tmp_path), tmp_path / "copies"
    shared = {**FAST, "engines_shared": True}

    def live(*, behind: bool) -> None:
        one = House(tmp_path / "one", [engine], audit={**shared, "origin": "one"})
        two = House(tmp_path / "two", [engine], audit={**shared, "origin": "two"})
        with one, two:
            time.sleep(1.2)  # so near to an end a call counts as bounds
            call(one, 2)
            call(two, 3)
            if behind:
                httpx.post(engine.url + "/v1/chat/completions", json=chat(), verify=PLAIN)
            time.sleep(1.2)

    def copy(*names: str) -> Any:
        shutil.rmtree(copies, ignore_errors=True)
        for name in names:
            shutil.copytree(tmp_path / name / "audit" / name, copies / name)
        return cli("audit", "reconcile", "--json", "--directory", str(copies))

    live(behind=False)
    result = copy("one", "two")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["engine"] == found["least"] == {"prompt_tokens": 120, "completion_tokens": 35, "requests": 5}
    result = copy("one")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["unexplained"]["requests"] == 3
    live(behind=True)
    result = copy("one", "two")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["unexplained"] == {
        "prompt_tokens": 24, "completion_tokens": 7, "requests": 1,
    }  # fmt: skip
    assert "NO RECORD EXPLAINS" in cli("audit", "reconcile", "--directory", str(copies)).stdout


# Pruning


def old_log(directory: Path, origin: str, signing: Signing = KEY, *, ago: int = 0) -> None:
    """A log of forty days, of which the last is today, or so many days ago, with 300 records a day."""
    clock = HandClock()
    clock.wall = time.time_ns() // 1000 - (40 + ago) * DAY * 1_000_000
    log = DayLog(directory, clock, origin=origin, signing=signing)
    for _ in range(40):
        log.day()
    log.store.close()


@pytest.fixture(scope="module")
def forty_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty days of log, to be copied."""
    folder = tmp_path_factory.mktemp("forty-days")
    old_log(folder, "cli")
    return folder


@pytest.fixture
def kept(tmp_path: Path, forty_days: Path) -> Cli:
    """A command line with the key that signs the tests' logs, and forty days of log."""
    cli = Cli(tmp_path)
    cli.variables["VESTRY_AUDIT__RETENTION"] = "{days: 30}"
    (tmp_path / "secrets").mkdir(mode=0o700)
    key = tmp_path / "secrets" / "audit-key"
    key.write_text(KEY.signer.written() + "\n")
    key.chmod(0o600)
    shutil.copytree(forty_days, tmp_path / "audit")
    return cli


def test_prune_says_what_it_would_do_and_does_it(kept: Cli, tmp_path: Path) -> None:
    """A dry run changes nothing; the real one is recorded, and says what keeps the rest."""
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    said = kept.ok("audit", "prune", "--dry-run")
    assert "records would be pruned" in said
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files
    said = kept.ok("audit", "prune")
    assert "records pruned" in said
    assert "30 days are kept" in said
    (found,) = status(kept)
    assert found["minimum_index"] > 2000
    assert found["faults"] == []
    assert "0 records pruned" in kept.ok("audit", "prune", "--origin", "cli")
    (record,) = read_records(tmp_path / "audit" / "cli", "log.prune")
    assert record["configuration_digest"] == kept.ok("check").split("digest")[1].split()[0]


def test_a_log_that_nobody_writes_to_any_more_goes_too(
    kept: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last segments of a server that is gone, by two prunings a day apart; they held their records for good. Later
    ones leave the log as it is.
    """
    gone = HandClock()
    gone.wall = time.time_ns() // 1000 - 400 * DAY * 1_000_000
    with_old = DayLog(tmp_path / "audit", gone, origin="gone", signing=KEY)
    with_old.day(records=1000)
    with_old.day(records=1000)
    with_old.store.close()
    days = iter(range(9))

    def later(*arguments: Any, **more: Any) -> Store:
        tomorrow = next(days) * DAY * 1_000_000
        return open_store(*arguments, **more, clock=Clock(wall=lambda: Clock().wall() + tomorrow))

    monkeypatch.setattr(pruning, "open_store", later)
    for _ in range(2):
        said = kept.ok("audit", "prune", "--origin", "gone")
    assert "the rest is not under a checkpoint in whole bundles" in said
    oldest = next(LogReader(tmp_path / "audit" / "gone").leaves())[0]
    assert oldest > 2000 - 256
    home = tmp_path / "audit"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "lock"}
    for _ in range(2):
        assert "0 records pruned" in kept.ok("audit", "prune", "--origin", "gone")
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before, "where nothing goes, nothing is written"


def test_a_hold_is_named_as_what_keeps_records(kept: Cli) -> None:
    """With its reason."""
    kept.variables["VESTRY_AUDIT__HOLDS"] = "[{subject: alice, reason: case 2031-7}]"
    said = kept.ok("audit", "prune")
    assert "0 records pruned" in said
    assert "kept by the hold on subject `alice` (case 2031-7)" in said


def test_without_a_policy_or_with_a_wrong_name_nothing_is_pruned(kept: Cli) -> None:
    """Exit status 2, and a sentence."""
    assert "has no log `nobody`" in kept("audit", "prune", "--origin", "nobody").output
    del kept.variables["VESTRY_AUDIT__RETENTION"]
    result = kept("audit", "prune")
    assert result.exit_code == 2
    assert "nothing is ever pruned" in result.output


def test_what_the_outside_copy_speaks_against_is_not_pruned(kept: Cli, tmp_path: Path) -> None:
    """A log that was rolled back is neither pruned nor signed; the checkpoint of one that was pruned goes out."""
    audit, vault = tmp_path / "audit", tmp_path / "vault"
    vault.mkdir()
    kept.variables["VESTRY_AUDIT__COPIES"] = json.dumps([{"kind": "directory", "name": "vault", "path": str(vault)}])
    shutil.copytree(audit, tmp_path / "old")
    assert "records pruned" in kept.ok("audit", "prune")
    newest = (audit / "cli" / CHECKPOINT).read_text()
    assert (vault / "cli" / "latest").read_text() == newest
    shutil.rmtree(audit)
    (tmp_path / "old").rename(audit)
    signed = (audit / "cli" / CHECKPOINT).read_text()
    result = kept("audit", "prune")
    assert result.exit_code == 1
    assert "was rolled back or cut off" in result.output
    assert (audit / "cli" / CHECKPOINT).read_text() == signed
    assert status(kept)[0]["minimum_index"] == 0


def test_one_logs_own_directory_is_not_pruned(kept: Cli, tmp_path: Path) -> None:
    """No second log is made in it; a dry run looks at it."""
    home = tmp_path / "audit" / "cli"
    assert "would be pruned" in kept.ok("audit", "prune", "--dry-run", "--directory", str(home))
    before = sorted(tmp_path.rglob("*"))
    result = kept("audit", "prune", "--directory", str(home))
    assert result.exit_code == 2
    assert "is one log. Give the audit directory that it lies in" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_server_prunes_its_own_log_and_nobody_else_does(tmp_path: Path, engine: FakeEngine) -> None:
    """At its start; the command refuses while it runs, but for a dry run; calls go on, and it opens again."""
    audit = tmp_path / "audit"
    old_log(audit, "server", SIGNING)
    keep = {**FAST, "retention": {"days": 30}}
    cli = Cli(tmp_path)
    cli.variables["VESTRY_AUDIT__RETENTION"] = "{days: 30}"
    (tmp_path / "secrets").mkdir(mode=0o700)
    key = tmp_path / "secrets" / "audit-key"
    key.write_text(SIGNING.signer.written() + "\n")
    key.chmod(0o600)
    with House(tmp_path, [engine], audit=keep) as house:
        call(house, 2)
        (record,) = until(lambda: house.records("log.prune"), what="the record of the pruning")
        until(lambda: status(cli)[0]["minimum_index"] == record["minimum_index"], what="the removal")
        result = cli("audit", "prune")
        assert result.exit_code == 1
        assert "A server prunes its own log" in result.output
        assert "would be pruned" in cli.ok("audit", "prune", "--dry-run")
        call(house)
    with House(tmp_path, [engine], audit=keep) as house:
        call(house)
    assert status(cli)[0]["faults"] == []


def test_a_clock_that_is_years_ahead_at_a_start_lets_nothing_more_go(tmp_path: Path, engine: FakeEngine) -> None:
    """For the log it is as if the clock had leapt by ten years while the server was down, as one does that is not set
    yet: what goes is what was old by the log's own time.
    """
    old_log(tmp_path / "audit", "server", SIGNING, ago=3650)
    with House(tmp_path, [engine], audit={**FAST, "retention": {"days": 30}}) as house:
        call(house)
        (record,) = until(lambda: house.records("log.prune"), what="the record of the pruning")
    assert 2000 < record["records"] < 10 * 300


def test_a_pruned_log_verifies(kept: Cli, tmp_path: Path) -> None:
    """`vestry audit verify` names the minimum; a bundle that is missing above it is found all the same."""
    kept.ok("audit", "prune")
    audit, key = tmp_path / "audit", str(KEY.signer.public)
    (found,) = status(kept)
    minimum = found["minimum_index"]
    result = kept("audit", "verify", str(audit), "--public-key", key)
    assert result.exit_code == 0, result.output
    assert f"Records below {minimum} were pruned" in result.output
    (audit / "cli" / "tile" / "entries" / f"{minimum // 256:03d}").unlink()
    result = kept("audit", "verify", str(audit), "--public-key", key)
    assert result.exit_code == 1
