"""`vestry audit init`, `public-key` and `checkpoint`, and what the server does without a key that it can use."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.calls import intent
from fakes.engine import FakeEngine
from support import forks
from support.cli import Cli, clean
from support.house import chat, until
from support.server import ServerProcess
from vestry.audit.opening import open_store
from vestry.audit.reading import LogReader
from vestry.audit.tlog.notes import Checkpoint, PublicKey, Signer
from vestry.commands.audit import checkpoint
from vestry.composition.signing import signing
from vestry.settings.tree import Settings

HOUSE = "hospital.example/vestry"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with a state directory that is not there yet."""
    return Cli(tmp_path / "state")


def key_file(cli: Cli) -> Path:
    return cli.state / "secrets" / "audit-key"


# init


def test_a_new_key(cli: Cli) -> None:
    """The public half, alone, on standard output; where the private one is, on standard error; it is shown nowhere.
    The state directory, made for it, is this user's alone.
    """
    umask = os.umask(0o022)
    done = cli("audit", "init", "--name", HOUSE)
    os.umask(umask)
    assert done.exit_code == 0
    public = PublicKey.parse(done.stdout)
    assert done.stdout == f"{public}\n"
    assert public == Signer.parse(key_file(cli).read_text()).public
    assert f"Made {key_file(cli)}. Keep a copy of it apart." in done.stderr
    assert "PRIVATE" not in done.output
    assert key_file(cli).stat().st_mode & 0o777 == 0o600
    assert cli.state.stat().st_mode & 0o777 == 0o700


def test_again(cli: Cli) -> None:
    """The same key, with its name or without one."""
    first = cli.ok("audit", "init", "--name", HOUSE)
    written = key_file(cli).read_bytes()
    for arguments in ((), ("--name", HOUSE)):
        done = cli("audit", "init", *arguments)
        assert (done.exit_code, done.stdout) == (0, first)
        assert "There is a key already" in done.stderr
    assert key_file(cli).read_bytes() == written


def test_again_with_another_name(cli: Cli) -> None:
    """Refused: nobody should think that the key is now another's."""
    cli.ok("audit", "init", "--name", HOUSE)
    written = key_file(cli).read_bytes()
    done = cli("audit", "init", "--name", "other.example")
    assert done.exit_code == 1
    assert f"holds the key of {HOUSE} already" in done.stderr
    assert done.stdout == ""
    assert key_file(cli).read_bytes() == written


def test_a_lost_key_is_not_made_anew(cli: Cli) -> None:
    """Beside logs that it has signed a new key could go on with none of them: nobody gets a public half to hand out.
    A new house, in another directory, has one.
    """
    cli.ok("audit", "init", "--name", HOUSE)
    cli.ok("keys", "create", "--owner", "a")
    kept = key_file(cli).rename(cli.state / "aside")
    for arguments in (("init", "--name", HOUSE), ("checkpoint", "--origin", "cli")):
        done = cli("audit", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"is missing, and the logs in {cli.state / 'audit'} were signed with it" in done.stderr
        assert "Restore it from a copy" in done.stderr
    assert not key_file(cli).exists()
    registry = (cli.state / "audit" / "origins").rename(cli.state / "origins")
    done = cli("audit", "init", "--name", HOUSE)  # the registry is gone with it, as from half of a restored copy
    assert (done.exit_code, done.stdout, key_file(cli).exists()) == (2, "", False)
    registry.rename(cli.state / "audit" / "origins")
    kept.rename(key_file(cli))
    cli.ok("keys", "create", "--owner", "b")
    key_file(cli).rename(kept)
    cli.state.joinpath("audit").rename(cli.state / "old")
    assert PublicKey.parse(cli.ok("audit", "init")) != Signer.parse(kept.read_text()).public


def test_a_name_that_cannot_be(cli: Cli) -> None:
    """Status 2, with or without `--stdout`; nothing is made."""
    for more in ((), ("--stdout",)):
        done = cli("audit", "init", "--name", "Hospital Example", *more)
        assert done.exit_code == 2
        assert "cannot name a house" in done.stderr
        assert done.stdout == ""
    assert not cli.state.exists()


def test_an_exposed_key(cli: Cli) -> None:
    """Status 2 and the mend; the public half of a key that may have leaked is not handed out."""
    cli.ok("audit", "init")
    key_file(cli).chmod(0o644)
    for command in ("init", "public-key"):
        done = cli("audit", command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"chmod 600 {key_file(cli)}" in done.stderr


def test_a_place_that_cannot_be_written(cli: Cli) -> None:
    """Status 2, a sentence."""
    cli.state.mkdir()
    (cli.state / "secrets").write_text("a file")
    done = cli.apart("audit", "init")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr


def test_to_standard_output(cli: Cli) -> None:
    """For a secret manager: the private key, and nothing else, on standard output; nothing on the disk."""
    done = cli.apart("audit", "init", "--name", HOUSE, "--stdout")
    assert done.returncode == 0
    found = Signer.parse(done.stdout)
    assert done.stdout == f"{found.written()}\n"
    assert str(found) in done.stderr
    assert "PRIVATE" not in done.stderr
    assert not cli.state.exists()
    key_file(cli).parent.mkdir(parents=True, mode=0o700)
    key_file(cli).write_text(done.stdout)
    key_file(cli).chmod(0o600)
    assert cli.ok("audit", "public-key") == f"{found.public}\n"


def test_never_to_a_terminal(cli: Cli) -> None:
    """Where it would stay in the scroll-back."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "vestry", "audit", "init", "--stdout"],
        env={**clean(os.environ), **cli.variables},
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert "is a terminal" in done.stderr


# public-key


def test_the_public_key(cli: Cli) -> None:
    """As `init` printed it; and under the name of one log, for tools that know one only."""
    public = PublicKey.parse(cli.ok("audit", "init", "--name", HOUSE))
    assert cli.ok("audit", "public-key") == f"{public}\n"
    assert cli.ok("audit", "public-key", "--origin", "cli") == f"{public.of('cli')}\n"


def test_no_public_key(cli: Cli) -> None:
    """Status 2 and the command that makes one; asking makes none."""
    done = cli("audit", "public-key")
    assert done.exit_code == 2
    assert "`vestry audit init`" in done.stderr
    assert not cli.state.exists()


# checkpoint


def opened(cli: Cli, note: str, origin: str) -> Checkpoint:
    public = PublicKey.parse(cli.ok("audit", "public-key")).of(origin)
    return Checkpoint.open(note, public)


def test_a_checkpoint_of_a_stopped_log(cli: Cli) -> None:
    """Of the records that a crash left without one: it is signed here, and printed."""
    cli.ok("audit", "init", "--name", HOUSE)
    cli.ok("keys", "create", "--owner", "a")
    settings = Settings(state=cli.state)
    store = open_store(settings.audit_directory, "cli", signing=signing(settings), segment_bytes=1 << 20)
    store.commit([intent("r1")])
    store.abandon()
    before = opened(cli, (cli.state / "audit" / "cli" / "checkpoint").read_text(), "cli")
    note = cli.ok("audit", "checkpoint", "--origin", "cli")
    head = opened(cli, note, "cli")
    assert head.size == before.size + 2, "the call, and that nobody knows how it ended"
    assert head.size == len(list(LogReader(cli.state / "audit" / "cli").leaves()))
    assert cli.ok("audit", "checkpoint", "--origin", "cli") == note, "nothing new, nothing signed"


def test_no_log(cli: Cli) -> None:
    """No server has run yet, or there is no log of that name: status 2, and none is begun."""
    cli.ok("audit", "init")
    for arguments in ((), ("--origin", "nowhere"), ("--origin", "../secrets"), ("--origin", "/")):
        done = cli("audit", "checkpoint", *arguments)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert "is no audit log" in done.stderr
    assert not (cli.state / "audit").exists()


def test_no_key_to_sign_with(cli: Cli) -> None:
    """Status 2."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    key_file(cli).unlink()
    done = cli("audit", "checkpoint", "--origin", "cli")
    assert done.exit_code == 2
    assert "is missing" in done.stderr


def test_a_damaged_log(cli: Cli) -> None:
    """Is not signed: status 1, and the sentence that the server would say."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    [segment] = (cli.state / "audit" / "cli").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"subject":"a"', b'"subject":"b"'))
    done = cli("audit", "checkpoint", "--origin", "cli")
    assert done.exit_code == 1
    assert "is not the one that was signed" in done.stderr


def test_a_segment_that_cannot_be_read(cli: Cli) -> None:
    """A sentence, and no traceback."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    (cli.state / "audit" / "cli" / "000000000000000900.jsonl").mkdir()
    done = cli("audit", "checkpoint", "--origin", "cli")
    assert done.exit_code == 2
    assert "It cannot be read: " in done.stderr


def test_whoever_is_asked_does_not_die_of_it(cli: Cli) -> None:
    """SIGUSR1 ends a program that does not know it. A command that happens to hold the log is not to end so."""
    cli.ok("audit", "init")
    program = "import os, signal, sys; from vestry.cli import main; sys.argv = ['vestry', *sys.argv[1:]]\n"
    program += "import vestry.commands.check as check\n"
    program += "check.command.callback = lambda *a, **k: (os.kill(os.getpid(), signal.SIGUSR1), print('alive'))\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program, "check"],
        env={**clean(os.environ), **cli.variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_only_whoever_holds_the_log_is_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another container or on another machine the number in the lock is a stranger's here, whom SIGUSR1 would end:
    whoever does not have the lock open is left alone, and that is said.
    """
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    settings = Settings(state=cli.state)
    store = open_store(settings.audit_directory, "cli", signing=signing(settings), segment_bytes=1 << 20)
    store.commit([intent("r1")])
    monkeypatch.setattr(checkpoint, "PATIENCE_SECONDS", 0.6)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        for process in (str(stranger.pid), "999999999"):
            (cli.state / "audit" / "cli" / "lock").write_text(f"{process}\n")
            done = cli("audit", "checkpoint", "--origin", "cli")
            assert done.exit_code == 1
            assert "run the command where the server runs" in done.stderr
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        store.close()


# The server


def test_a_checkpoint_of_a_running_server(cli: Cli, tmp_path: Path) -> None:
    """It is asked by SIGUSR1, goes on serving, and what it signs covers every call that was answered before."""
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        server.start()
        home = server.state / "audit" / "server"
        for number in range(3):
            assert server.client().post("/v1/chat/completions", json=chat()).status_code == 200
            done = cli.apart("audit", "checkpoint", VESTRY_CONFIG=str(server.config))
            assert done.returncode == 0, done.stderr
            head = Checkpoint.open(done.stdout, server.public.of("server"))
            covered = [json.loads(leaf)["type"] for _, leaf in LogReader(home).leaves(0, head.size)]
            assert covered.count("outcome") == number + 1
        assert server.ready()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_server_with_a_capability_is_asked_by_who_has_none(cli: Cli, tmp_path: Path) -> None:
    """As a unit with AmbientCapabilities= for port 443 leaves it: the files that it has open are not for the command to
    see, though both are of one user.
    """
    without = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        server.start()
        command = [*without, sys.executable, "-m", "vestry", "audit", "checkpoint"]
        environ = {**clean(os.environ), **cli.variables, "VESTRY_CONFIG": str(server.config)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert Checkpoint.open(done.stdout, server.public.of("server")).size > 0
        server.stop()


def test_a_server_signs_its_end(tmp_path: Path) -> None:
    """The last record is under the last checkpoint, which the house's public key verifies."""
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        server.start()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        home = server.state / "audit" / "server"
        head = Checkpoint.open((home / "checkpoint").read_text(), server.public.of("server"))
        records = [json.loads(leaf) for _, leaf in LogReader(home).leaves()]
        assert head.size == len(records)
        start = next(each for each in records if each["type"] == "server.start")
        assert "server" in start["origins"]


def refused(server: ServerProcess) -> tuple[int, str]:
    """Exit status and sentence of a server that does not start."""
    done = forks.run(["-m", "vestry", "--config", str(server.config), "serve"], env=clean(os.environ))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("fault", ["missing", "exposed", "none", "empty"])
def test_serving_without_a_key_that_can_be_used(tmp_path: Path, fault: str) -> None:
    """Status 2 before anything listens, with the file's name and the mend; no record is begun."""
    said = {
        "missing": "Make one with `vestry audit init`",
        "exposed": "chmod 600",
        "none": "it is no signing key",
        "empty": "it holds fewer than 16 bytes",
    }
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        path = server.settings.signing_key
        if fault == "missing":
            path.unlink()
        elif fault == "exposed":
            path.chmod(0o644)
        else:
            path.write_text("x" * 40 if fault == "none" else "")
        status, sentence = refused(server)
        assert status == 2
        assert str(path) in sentence
        assert said[fault] in sentence
        assert not (server.state / "audit").exists()


def test_serving_with_another_key(tmp_path: Path) -> None:
    """One that is well formed but not the house's: the log is left as it is; with the right one it goes on."""
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        server.start()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        path = server.settings.signing_key
        right = path.read_text()
        note = (server.state / "audit" / "server" / "checkpoint").read_text()
        path.write_text(Signer.generate("house.test/vestry").written())
        status, sentence = refused(server)
        assert status == 1
        assert "it is not signed by house.test/vestry" in sentence
        assert "Give the server the signing key that this log was begun with" in sentence
        assert (server.state / "audit" / "server" / "checkpoint").read_text() == note
        path.write_text(right)
        server.start()
        until(server.ready, what="the server with its own key")


def test_keys_without_the_signing_key(cli: Cli) -> None:
    """Refused with the command that helps; nothing is made that would be known to no record."""
    done = cli("keys", "create", "--owner", "a")
    assert done.exit_code == 1
    assert "Make one with `vestry audit init`" in done.stderr
    assert json.loads(cli.ok("keys", "list", "--json")) == []
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    [row] = json.loads(cli.ok("keys", "list", "--json"))
    key_file(cli).rename(cli.state / "aside")
    done = cli("keys", "revoke", row["id"])
    assert done.exit_code == 1
    assert "Restore it from a copy" in done.stderr
    assert [each["state"] for each in json.loads(cli.ok("keys", "list", "--json"))] == ["active"]
