"""`vestry audit erase`, beside a real server that runs: what is gone, what stays, and what stops it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from fakes.audit import read
from fakes.engine import FakeEngine
from support.office import CANARY, WORDS, Office
from vestry.audit.content.bundles import entries
from vestry.audit.records import Clock, Records
from vestry.composition import custody

NEVER = "9999-12-31T23:59:59.999999Z"


def test_erasing_destroys_content_and_nothing_else(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server runs: what was kept cannot be opened, says so, and the log is as it was; others' stays."""
    sealed, plain = office.ask(), office.complete()
    assert CANARY.encode() in office.raw()
    secrets = [entry.secret for name in office.place.names() for entry in entries(office.place.keys / name)]
    log = b"".join(path.read_bytes() for path in sorted((office.audit / "server").glob("*.jsonl")))
    done = office.erase("--subject", "tester")
    assert done.exit_code == 0, done.output
    assert "4 contents of `tester` erased" in done.output
    raw = office.raw()
    assert CANARY.encode() not in raw
    assert not any(secret in raw for secret in secrets)
    [record] = office.recorded("content.erase")
    assert (record["subject"], record["count"], record["reason"]) == ("tester", 4, "request")
    for request_id in (sealed, plain):
        shown = office.open(request_id)
        assert shown.exit_code == 0
        assert (
            shown.output.count(f"it was erased at {record['time']}, as record {record['index']} of the log `cli`") == 2
        )
    after = b"".join(path.read_bytes() for path in sorted((office.audit / "server").glob("*.jsonl")))
    assert after == log
    later = office.ask()
    assert CANARY in office.open(later).output
    assert "Nothing is kept" not in office.erase("--subject", "tester").output
    assert "Nothing is kept" in office.erase("--subject", "tester").output
    assert len(office.recorded("content.erase")) == 2
    office.server.signal(signal.SIGTERM)
    assert office.server.wait() == 0
    read(office.audit)
    read(office.audit, "cli")
    copy = shutil.copytree(office.audit, tmp_path / "copy")
    (copy / "cli").rename(copy / "ward-3-cli")  # as `audit.commands` may name it
    assert "of the log `ward-3-cli`" in office.open(sealed, "--directory", str(copy)).output
    monkeypatch.chdir(copy / "server")
    assert "of the log `ward-3-cli`" in office.open(sealed, "--directory", ".").output
    shutil.rmtree(copy / "ward-3-cli")
    assert "cannot be seen here, without the log `cli`" in office.open(sealed, "--directory", str(copy)).output


def test_the_clock_may_have_gone_back_before_an_erasure(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The erasure's own time is before that of what it erased: it is no sign that anything was altered."""
    asked = office.ask()
    earlier = Clock(wall=lambda: Clock().wall() - 3_600_000_000)
    monkeypatch.setattr(custody, "Records", lambda: Records(clock=earlier))
    assert office.erase("--subject", "tester").exit_code == 0
    [record] = office.recorded("content.erase")
    assert record["time"] < record["newest"]
    shown = office.open(asked)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(f"it was erased at {record['time']}") == 2


def test_a_damaged_entry_is_named(office: Office) -> None:
    """What can be read is erased; whose the damaged one is nobody can tell, so it is left, named, and a failure."""
    office.ask()
    [name] = office.place.names()
    path = office.place.keys / name
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    done = office.erase("--subject", "tester")
    assert done.exit_code == 1
    assert "1 content of `tester` erased." in done.output
    assert f"{path} is damaged at byte 0" in done.output


def test_what_is_erased_can_be_bounded(office: Office) -> None:
    """By tenant and by time; what is beyond is not touched."""
    office.ask()
    for options in (
        ("--subject", "nobody"),
        ("--subject", "tester", "--tenant", "research"),
        ("--subject", "tester", "--before", "2020-01-31"),
        ("--subject", "tester", "--before", "2020-01-31T10:00:00+02:00"),
        ("--subject", "tester", "--before", "0027-01-31"),
    ):
        done = office.erase(*options)
        assert (done.exit_code, "Nothing is kept" in done.output) == (0, True), done.output
    assert office.recorded("content.erase") == []
    assert "2 contents" in office.erase("--subject", "tester", "--before", NEVER, "--tenant", "default").output
    [record] = office.recorded("content.erase")
    assert (record["tenant"], record["before"]) == ("default", NEVER)


@pytest.mark.parametrize(
    "options",
    [
        ("--subject", " "),
        ("--subject", "tester", "--reason", ""),
        ("--subject", "tester", "--before", "yesterday"),
        ("--subject", "tester", "--before", "2027-01-31T10:00:00"),
        ("--subject", "tester", "--before", "0001-01-01T00:00:00+01:00"),
        (),
    ],
)
def test_what_makes_no_sense_is_refused(office: Office, options: tuple[str, ...]) -> None:
    """Exit status 2, and nothing is erased."""
    assert office.erase(*options).exit_code == 2
    assert office.recorded("content.erase") == []


@pytest.mark.parametrize(
    "hold",
    [{"subject": "tester"}, {"tenant": "default"}, {"tenant": "default", "subject": "tester"}],
    ids=["subject", "tenant", "both"],
)
def test_a_legal_hold_stops_it(tmp_path: Path, engine: FakeEngine, hold: dict[str, str]) -> None:
    """Refused with the hold's reason, whether or not the tenant is named; nothing is recorded, nothing erased."""
    engine.behave(words=WORDS)
    office = Office(tmp_path, engine, holds=[{**hold, "reason": "lawsuit 117"}])
    with office.server:
        office.server.start()
        request_id = office.ask()
        for options in (("--subject", "tester"), ("--subject", "tester", "--tenant", "default")):
            done = office.erase(*options)
            assert done.exit_code == 1
            assert "legal hold" in done.output
            assert "lawsuit 117" in done.output
        assert office.recorded("content.erase") == []
        assert CANARY in office.open(request_id).output
        assert office.erase("--subject", "somebody else").exit_code == 0


def test_settings_without_the_hold_show_in_the_record(tmp_path: Path, engine: FakeEngine) -> None:
    """Whoever leaves the hold out for the command's time leaves a digest that no start of the server has."""
    office = Office(tmp_path, engine, holds=[{"subject": "tester", "reason": "lawsuit 117"}])
    with office.server:
        office.server.start()
        office.ask()
        other = office.ask_as("other")
        started = office.server.records("server.start")[0]["configuration_digest"]
        assert office.erase("--subject", "other").exit_code == 0
        assert office.recorded("content.erase")[0]["configuration_digest"] == started
        office.cli.variables["VESTRY_AUDIT__HOLDS"] = "[]"
        assert office.erase("--subject", "tester").exit_code == 0
        assert office.recorded("content.erase")[1]["configuration_digest"] not in {started, ""}
        assert office.open(other).exit_code == 0


def test_a_name_with_a_backslash_is_given_as_it_is(tmp_path: Path, engine: FakeEngine) -> None:
    """As a Windows domain names people; records escape it. Held is held, however the name is written; what is erased is
    found by the name, and its erasure by its record; and so are the calls.
    """
    engine.behave(words=WORDS)
    office = Office(tmp_path, engine, holds=[{"subject": r"CORP\alice", "reason": "lawsuit 117"}])
    with office.server:
        office.server.start()
        calls = {name: office.ask_as(rf"CORP\{name}") for name in ("alice", "bob")}
        for name in (r"CORP\alice", r"CORP\\alice"):
            office.erase("--subject", name)
        assert CANARY in office.open(calls["alice"]).output
        assert "legal hold" in office.erase("--subject", r"CORP\alice").output
        refused = office.erase("--subject", r"CORP\\bob")
        assert (refused.exit_code, "Give the name itself" in refused.output) == (1, True), refused.output
        assert r"2 contents of `CORP\bob` erased" in office.erase("--subject", r"CORP\bob").output
        opened = office.open(calls["bob"])
        assert (opened.exit_code, opened.output.count("it was erased at")) == (0, 2), opened.output
        for name in (r"CORP\bob", r"CORP\\bob"):
            found = office.cli.ok("audit", "show", "--type", "intent", "--subject", name)
            assert r"subject=CORP\\bob " in found
            assert calls["bob"] in found


def test_two_people_whose_escaped_names_are_long_stay_two(office: Office) -> None:
    """Records bound a name; what is beyond the bound still tells one person from another."""
    names = [rf"CORP\Александр Константинопольский {number}" for number in (1, 2)]
    calls = [office.ask_as(name) for name in names]
    subjects = [record["subject"] for record in office.server.records("outcome")]
    assert len(set(subjects)) == 2
    assert max(map(len, subjects)) == 128
    assert [record["subject"] for record in office.recorded("key.create")] == subjects
    for name in names:
        office.cli.ok("users", "set", name, "--tenant", "default", "--disabled")
        office.cli.ok("users", "remove", name, "--tenant", "default")
    assert {record["name"] for record in office.recorded("user.change")} == set(subjects)
    assert "2 contents of" in office.erase("--subject", names[0]).output
    assert office.open(calls[0]).output.count("it was erased at") == 2
    assert CANARY in office.open(calls[1]).output


def test_a_name_that_is_hardly_another_is_told(office: Office) -> None:
    """Two names may be two people, so nothing of the other is erased; that there is one is not left unsaid."""
    name = "Jos\u00e9 Ruiz"
    calls = [office.ask_as(name), office.ask_as("Joseph Ruiz")]
    for other in ("Jose\u0301 Ruiz", "JOS\u00c9 RUIZ", "Jos\u00e9\u00a0Ruiz", "Jos\u00e9 Ruiz "):
        done = office.erase("--subject", other)
        assert (done.exit_code, "Nothing is kept of" in done.output) == (0, True), done.output
        assert f"Something is kept of `{name}`, which differs in case" in done.stderr
        assert "Joseph" not in done.output
    assert CANARY in office.open(calls[0]).output
    done = office.erase("--subject", name)
    assert "2 contents of" in done.output
    assert "Something is kept" not in done.output + office.erase("--subject", name.upper()).output


def test_an_erasure_that_cannot_be_recorded_is_not_done(office: Office) -> None:
    """The log of the command line is in the way: refused, and everything is still there."""
    request_id = office.ask()
    (office.audit / "cli").write_text("in the way")
    done = office.erase("--subject", "tester")
    assert done.exit_code == 1
    assert "could not be recorded" in done.output
    (office.audit / "cli").unlink()
    assert CANARY in office.open(request_id).output
