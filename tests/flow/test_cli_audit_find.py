"""`vestry audit show`, `export` and `index`, on the log of a real server, as a stranger types them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fakes.engine import FakeEngine
from support import forks
from support.cli import Cli, clean, shown
from support.house import chat, read_records, until
from support.server import ServerProcess
from vestry.audit.export.formats import FORMATS
from vestry.audit.finding.walk import Walker

SCHEMA = json.loads((Path(__file__).parents[1] / "ocsf" / "schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, list[str]]]:
    """A server that answered some calls and runs on, and the calls' ids."""
    with FakeEngine() as engine, ServerProcess(tmp_path_factory.mktemp("served"), [engine]) as server:
        server.start()
        bodies = [*[chat()] * 5, {"model": "none"}]
        with server.client() as client:
            ids = [client.post("/v1/chat/completions", json=body).headers["x-request-id"] for body in bodies]
        yield server, ids


@pytest.fixture
def cli(served: tuple[ServerProcess, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line with that server's settings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server, _ = served
    runner = Cli(server.state)
    runner.variables = {"VESTRY_CONFIG": str(server.config)}
    return runner


def readings(server: ServerProcess) -> list[dict[str, Any]]:
    home = server.settings.audit_directory / "cli"
    found = [json.loads(leaf) for _, leaf in Walker(home).records(0)] if home.exists() else []
    return [record for record in found if record["type"] == "log.read"]


def test_a_call_by_its_id(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """From the id that the client was given to its records; that they were read is a record, made before."""
    server, ids = served
    before = len(readings(server))
    records = shown(cli.ok("audit", "show", "--request-id", ids[2], "--json"))
    assert [record["type"] for record in records] == ["intent", "outcome"]
    assert {record["request_id"] for record in records} == {ids[2]}
    [reading] = readings(server)[before:]
    assert (reading["command"], reading["filter"], reading["records"]) == ("audit show", f"request_id={ids[2]}", 2)
    assert reading["actor"]


def test_lines_for_people(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """Without --json a record is one readable line, newest last; --reverse and --limit do what they say."""
    _, ids = served
    lines = cli.ok("audit", "show", "--type", "outcome", "--origin", "server").splitlines()
    assert [line.rpartition("request_id=")[2] for line in lines] == ids[:5]
    assert all("ending=complete" in line and "server#" in line for line in lines)
    newest = cli.ok("audit", "show", "--type", "outcome", "--reverse", "--limit", "2").splitlines()
    assert newest == lines[:-3:-1]
    assert cli.ok("audit", "show", "--type", "outcome", "--limit", "2").splitlines() == lines[-2:]


def test_filters_by_who_and_how(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """Options narrow each other; alternatives of one do not."""
    _, ids = served
    refused = shown(cli.ok("audit", "show", "--json", "--outcome", "refused", "--since", "1h"))
    assert [record["request_id"] for record in refused] == [ids[5]]
    assert shown(cli.ok("audit", "show", "--json", "--code", refused[0]["code"], "--tenant", "default")) == refused
    assert cli.ok("audit", "show", "--until", "1h") == ""
    assert cli.ok("audit", "show", "--subject", "tester", "--tenant", "nobody") == ""
    both = shown(cli.ok("audit", "show", "--json", "--type", "server.start", "--type", "refusal"))
    assert [record["type"] for record in both] == ["server.start", "refusal"]
    same = cli.ok("audit", "show", "--no-index", "--json", "--outcome", "refused")
    assert shown(same) == refused


def test_all_logs_in_the_order_of_time(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """Without --origin every log of the directory is shown, merged by time; each keeps its own order."""
    cli.ok("audit", "show", "--limit", "1")
    records = shown(cli.ok("audit", "show", "--json"))
    assert {record["origin"] for record in records} == {"server", "cli"}
    for origin in ("server", "cli"):
        places = [record["index"] for record in records if record["origin"] == origin]
        assert places == list(range(len(places)))
    first = next(place for place, record in enumerate(records) if record["origin"] == "cli")
    assert first > 0
    assert all(record["time"] <= records[first]["time"] for record in records[:first])


@pytest.mark.parametrize("form", ["jsonl", "ocsf", "cef"])
def test_exporting(cli: Cli, served: tuple[ServerProcess, list[str]], tmp_path: Path, form: str) -> None:
    """An export has every record in its format, is for its owner alone, and is a record itself."""
    server, _ = served
    file = tmp_path / "out"
    cli.ok("audit", "export", "--format", form, "--origin", "server", "--output", str(file))
    lines = file.read_bytes().splitlines()
    leaves = [leaf for _, leaf in Walker(server.settings.audit_directory / "server").records(0)]
    assert len(lines) == len(leaves)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert readings(server)[-1]["command"] == f"audit export --format {form}"
    assert readings(server)[-1]["records"] == len(leaves)
    if form == "jsonl":
        assert lines == leaves
    if form == "ocsf":
        shapes = {int(uid): {**shape, "$defs": SCHEMA["objects"]} for uid, shape in SCHEMA["classes"].items()}
        validators = {uid: jsonschema.Draft202012Validator(shape) for uid, shape in shapes.items()}
        for event in map(json.loads, lines):
            validators[event["class_uid"]].validate(event)
    if form == "cef":
        assert all(line.startswith(b"CEF:0|Vestry|Vestry|") for line in lines)
    streamed = cli("audit", "export", "--format", form, "--origin", "server", "--output", "-")
    assert streamed.stdout_bytes.splitlines()[: len(lines)] == lines
    again = cli("audit", "export", "--output", str(file))
    assert again.exit_code == 2
    assert "is there already" in again.output


def test_a_draft_of_an_export_is_nobody_elses_file(cli: Cli, tmp_path: Path) -> None:
    """What stands beside the new file stays as it is, whatever its name; and no draft is left."""
    part = tmp_path / "out.part"
    part.write_text("mine")
    cli.ok("audit", "export", "--output", str(tmp_path / "out"))
    assert part.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out", "out.part"]


def test_exporting_where_there_are_no_hard_links(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a memory stick (FAT): the file is there, whole and alone; one that came meanwhile stays."""

    def refused(_old: Path, new: Path) -> None:
        if new.name == "late":
            new.write_text("mine")
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    cli.ok("audit", "export", "--origin", "server", "--output", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text().count("\n") > 1
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    late = cli("audit", "export", "--output", str(tmp_path / "late"))
    assert (late.exit_code, (tmp_path / "late").read_text()) == (1, "mine")
    assert "File exists" in late.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["late", "out"]


def test_an_export_that_cannot_be_given_its_name_leaves_none(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links the name is taken first: where that is all that came of it, the next try finds it free."""

    def refused(*_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    out = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(os, "link", refused)
        broken.setattr(Path, "replace", refused)
        assert "Input/output error" in cli("audit", "export", "--output", str(out)).stderr
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
    cli.ok("audit", "export", "--output", str(out))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_is_told_to_end_leaves_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """SIGTERM in the midst of it, or the end of its terminal: no records are left under a name that nobody gave. Where
    the latter is ignored, as with nohup, it goes on.
    """

    def ended(leaf: bytes) -> bytes:
        os.kill(os.getpid(), number)
        return leaf

    monkeypatch.setitem(FORMATS, "jsonl", ended)
    before = signal.signal(number, signal.default_int_handler)
    try:
        done = cli("audit", "export", "--output", str(tmp_path / "out"))
        assert signal.getsignal(number) == signal.default_int_handler
        assert [path for path in tmp_path.iterdir() if path.is_file()] == []
        signal.signal(number, signal.SIG_IGN)
        ignored = cli("audit", "export", "--output", str(tmp_path / "out"))
    finally:
        signal.signal(number, before)
    assert done.exit_code == 128 + number
    assert (ignored.exit_code == 0) == (number == signal.SIGHUP)


@pytest.mark.parametrize(
    "command",
    [
        *["audit show", "audit export", "audit status", "audit index", "audit prune --dry-run", "audit prune"],
        *["audit checkpoint --origin cli", "audit prove 0 --origin cli --output -", "keys list", "check"],
    ],
)
def test_a_full_disk_under_the_output_is_told(cli: Cli, tmp_path: Path, command: str) -> None:
    """A sentence, exit status 1; and a pipe that nobody reads any more is no fault of the record."""
    cli.ok("audit", "show", "--limit", "1")
    cli.ok("audit", "checkpoint", "--origin", "cli")
    environment = {**clean(os.environ), **cli.variables, "VESTRY_AUDIT__RETENTION__DAYS": "30"}
    with Path("/dev/full").open("w") as full, (tmp_path / "said").open("w") as said:
        process = forks.Child(["-m", "vestry", *command.split()], env=environment, stdout=full, stderr=said)
        assert process.wait(60) == 1
    assert (tmp_path / "said").read_text() == "Error: The output cannot be written: No space left on device.\n"
    unread, pipe = os.pipe()
    os.close(unread)
    with os.fdopen(pipe, "w") as closed, (tmp_path / "said").open("w") as said:
        process = forks.Child(["-m", "vestry", *command.split()], env=environment, stdout=closed, stderr=said)
        assert process.wait(60) == 1
    assert (tmp_path / "said").read_text() == ""


def test_following(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """--follow shows what comes after it began, until Ctrl-C."""
    server, _ = served
    environment = {**os.environ, **cli.variables, "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-m",
        "vestry",
        *["audit", "show", "--follow", "--limit", "1", "--json", "--type", "outcome"],
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    json.loads(process.stdout.readline())
    with server.client() as client:
        asked = client.post("/v1/chat/completions", json=chat()).headers["x-request-id"]
    assert json.loads(process.stdout.readline())["request_id"] == asked
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert readings(server)[-1]["command"] == "audit show --follow"


def test_a_log_that_begins_meanwhile_is_followed(tmp_path: Path) -> None:
    """Here that of the command line: nothing was recorded there before somebody began to follow."""
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        server.start()
        cli = Cli(server.state)
        cli.variables = {"VESTRY_CONFIG": str(server.config)}
        environment = {**clean(os.environ), **cli.variables}
        follow = ["audit", "show", "--follow", "--json", "--type", "key.create"]
        following = forks.Child(["-m", "vestry", *follow], env=environment)
        until((server.settings.audit_directory / "cli" / "checkpoint").exists, what="the record of the reading")
        cli.ok("keys", "create", "--owner", "alice")
        ready, _, _ = select.select([following.stdout], [], [], 10)
        following.kill()
        assert ready
        with following.stdout as shown_there:
            assert json.loads(shown_there.readline())["subject"] == "alice"


def test_what_cannot_be_recorded_is_not_shown(
    cli: Cli, served: tuple[ServerProcess, list[str]], tmp_path: Path
) -> None:
    """Fail closed: without a log to record the reading in, or without the signing key, nothing is shown."""
    server, _ = served
    lock = os.open(server.settings.audit_directory / "cli" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        result = cli("audit", "show", "--json")
    finally:
        os.close(lock)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: Nothing is shown, because the reading could not be recorded.")
    result = cli("audit", "export", VESTRY_AUDIT__SIGNING_KEY=str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (1, "")


def test_the_index_of_a_running_server(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """It stands beside the log, and can be made anew while the server writes; the log itself does not change."""
    server, _ = served
    said = cli.ok("audit", "index", "--rebuild", "--origin", "server")
    assert said.startswith("server: ")
    index = server.settings.audit_directory / "server" / "index.sqlite"
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    with server.client() as client:
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_servers_log_is_no_copy(cli: Cli, served: tuple[ServerProcess, list[str]], tmp_path: Path) -> None:
    """--copy is not a way around the record of readings: neither this server's directory nor a log in use is a copy."""
    server, _ = served
    own = server.settings.audit_directory
    (tmp_path / "link").symlink_to(own)
    for directory in (own, own / "server", tmp_path / "link"):
        result = cli("audit", "show", "--copy", str(directory))
        assert result.exit_code == 2
        assert "is no copy, but this server's own audit log" in result.output
    elsewhere = cli("audit", "show", "--copy", str(own), VESTRY_CONFIG="", VESTRY_STATE=str(tmp_path / "other"))
    assert elsewhere.exit_code == 2
    assert "is no copy: a server writes to it" in elsewhere.output


def test_a_readings_record_fits_the_schema(cli: Cli, served: tuple[ServerProcess, list[str]]) -> None:
    """However long a filter is, its record is whole."""
    server, _ = served
    many = [part for number in range(300) for part in ("--subject", f"somebody-{number}")]
    cli.ok("audit", "show", *many)
    reading = readings(server)[-1]
    assert reading["filter"].endswith(" characters]")
    assert len(reading["filter"]) <= 1024
    assert read_records(server.settings.audit_directory / "cli", "log.read")
