"""`vestry audit keygen`, `open`, `tenant-key`: beside a real server that runs, and on a copy."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fakes.audit import read
from support import audit_logs
from support.cli import Cli
from support.house import chat
from support.office import CANARY, WORDS, Office


def test_a_key_pair_is_made(tmp_path: Path) -> None:
    """The public half is printed alone, the private one is in a file for its owner; an existing file is left alone."""
    cli, path = Cli(tmp_path / "state"), tmp_path / "auditor.key"
    printed = cli.ok("audit", "keygen", str(path))
    assert printed.startswith("vestry-auditor-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert printed.strip() in path.read_text()
    before = path.read_bytes()
    again = cli("audit", "keygen", str(path))
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert path.read_bytes() == before
    assert cli("audit", "keygen", str(tmp_path / "no" / "such")).exit_code == 2


def test_the_auditor_opens_what_was_sealed(office: Office) -> None:
    """Prompt and answer, by request id and by index, streamed or not; each reading is recorded before."""
    for stream in (False, True):
        request_id = office.ask(stream=stream)
        shown = office.open(request_id)
        assert shown.exit_code == 0, shown.output
        assert f"Say {CANARY}" in shown.output
        assert f'"text":"It is {CANARY}."' in shown.output
        assert shown.output.count("verified against the commitment") == 2
    index = next(r["index"] for r in office.server.records("intent") if r["request_id"] == request_id)
    assert office.open(str(index)).output == shown.output
    reads = office.recorded("log.read")
    assert len(reads) == 3
    assert (reads[-1]["command"], reads[-1]["filter"]) == ("audit open", request_id)
    assert reads[-1]["records"] == 2
    assert reads[-1]["actor"]
    assert CANARY.encode() not in office.raw()
    read(office.audit, "cli")


def test_another_key_or_none_opens_nothing(office: Office) -> None:
    """A sentence that says whose it is, and exit status 2."""
    request_id = office.ask()
    other = office.folder / "other.key"
    office.cli.ok("audit", "keygen", str(other))
    for shown in (office.open(request_id, key=other), office.cli("audit", "open", request_id)):
        assert shown.exit_code == 2
        assert "auditor's key" in shown.output
        assert CANARY not in shown.output
        assert "Traceback" not in shown.output


def test_on_a_copy_nothing_is_written(office: Office) -> None:
    """The auditor needs no settings and no server, and the copy stays as it was."""
    request_id = office.ask()
    copy = office.folder / "copy"
    shutil.copytree(office.audit, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    elsewhere = Cli(office.folder / "elsewhere")
    for directory in (copy, copy / "server"):
        shown = elsewhere("audit", "open", request_id, "--private-key", str(office.key), "--directory", str(directory))
        assert shown.exit_code == 0, shown.output
        assert CANARY in shown.output
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert office.recorded("log.read") == []


def test_the_servers_own_record_is_no_copy_of_itself(office: Office) -> None:
    """Whichever folder it is named by: the reading is recorded. A copy in the same folder stays one."""
    request_id = office.ask()
    link = office.folder / "link"
    link.symlink_to(office.audit)
    for count, directory in enumerate((office.audit, office.audit / "server", link, office.audit.parent), start=1):
        assert office.open(request_id, "--directory", str(directory)).exit_code == 0
        assert len(office.recorded("log.read")) == count, directory
    copy = office.audit.parent / "a-copy"
    shutil.copytree(office.audit, copy)
    assert office.open(request_id, "--directory", str(copy.parent)).exit_code == 0
    assert len(office.recorded("log.read")) == count


def test_what_is_opened_can_be_proven_to_others(office: Office) -> None:
    """Content and salt, hashed by anybody, are what the record has; plain text needs no key."""
    for request_id in (office.ask(), office.complete()):
        shown = office.open(request_id, "--json")
        assert shown.exit_code == 0
        records = [r for r in office.server.records() if r.get("request_id") == request_id]
        for part, record in zip(json.loads(shown.output)["parts"], records, strict=True):
            salted = bytes.fromhex(part["salt"]) + part["text"].encode()
            assert hashlib.sha256(salted).hexdigest() == record["content"]["commitment"]
            assert part["index"] == record["index"]
    assert office.cli("audit", "open", request_id).exit_code == 0


def test_control_characters_reach_no_terminal(office: Office) -> None:
    """What a client sent is shown as an escape."""
    request_id = office.complete("\x1b[31mred\x07\u202e")
    shown = office.open(request_id)
    assert "red" in shown.output
    assert "\x1b" not in shown.output
    assert "\u202e" not in shown.output


def test_what_was_altered_or_is_missing_is_said(office: Office) -> None:
    """Ciphertext, plain text, an entry, a file: a sentence each, exit status 1, and no content of the altered."""
    sealed, plain = office.ask(), office.complete()
    [name] = office.place.names()
    blobs, keys = office.place.blobs / name, office.place.keys / name
    good = blobs.read_bytes()
    for request_id, at in ((sealed, 5), (plain, len(good) - 5)):
        altered = bytearray(good)
        altered[at] ^= 1
        blobs.write_bytes(altered)
        shown = office.open(request_id)
        assert shown.exit_code == 1
        assert "altered" in shown.output
    blobs.write_bytes(good[:10])
    assert "ends before byte" in office.open(sealed).output
    blobs.unlink()
    shown = office.open(sealed)
    assert (shown.exit_code, "missing" in shown.output) == (1, True)
    blobs.write_bytes(good)
    good_keys = keys.read_bytes()
    keys.write_bytes(good_keys.replace(b"VKE1", b"VKE2"))
    shown = office.open(sealed)
    assert (shown.exit_code, "no entry stands there" in shown.output) == (1, True)
    keys.write_bytes(good_keys.replace(b"VKE1L", b"VKE1E"))
    shown = office.open(sealed)
    assert shown.exit_code == 1
    assert "no record of the log `cli` says that it was" in shown.output
    keys.write_bytes(good_keys)
    assert office.open(sealed).exit_code == 0


def test_swapped_contents_are_found(office: Office) -> None:
    """One call's entry in the place of another's."""
    first, second = office.ask("one"), office.ask("two")
    [name] = office.place.names()
    keys = office.place.keys / name
    good = keys.read_bytes()
    assert len(first) == len(second)
    keys.write_bytes(good.replace(first.encode(), b"*" * 36).replace(second.encode(), first.encode()))
    shown = office.open(first)
    assert shown.exit_code == 1
    assert '"one"' not in shown.output
    assert '"two"' not in shown.output


@pytest.mark.parametrize(
    ("which", "said"),
    [("req_nobody", "no log in"), ("99999", "has no record"), ("0", "is no intent"), ("9" * 40, "has no record")],
)
def test_what_is_not_there_is_said(office: Office, which: str, said: str) -> None:
    """An unknown id, an index beyond the end, a record that is no call: exit status 2."""
    shown = office.open(which)
    assert shown.exit_code == 2
    assert said in shown.output
    assert office.recorded("log.read") == []


def test_wrong_directories_and_keys_are_said(office: Office, tmp_path: Path) -> None:
    """A directory that is no log, a log that is not there, a file that is no key: exit status 2, a sentence."""
    empty = tmp_path / "empty"
    empty.mkdir()
    request_id = office.ask()
    for shown in (
        office.open(request_id, "--directory", str(empty)),
        office.open("0", "--directory", str(empty)),
        office.open("0", "--origin", "nobody"),
        office.open("0", "--origin", "../../.."),
        office.open(request_id, key=office.server.config),
        office.open(request_id, key=empty / "missing"),
    ):
        assert shown.exit_code == 2, shown.output
        assert "Error" in shown.output
        assert "Traceback" not in shown.output


def test_a_reading_that_cannot_be_recorded_shows_nothing(office: Office) -> None:
    """On the server's own record."""
    request_id = office.ask()
    (office.audit / "cli").write_text("in the way")
    shown = office.open(request_id)
    assert shown.exit_code == 1
    assert CANARY not in shown.output


def test_a_killed_server_loses_no_acknowledged_content(office: Office) -> None:
    """kill -9, and start again: every answered call can be opened; what comes after goes into another bundle."""
    asked = [office.ask(f"number {number}") for number in range(10)]
    assert office.server.process is not None
    office.server.process.kill()
    office.server.wait()
    office.server.start()
    asked.append(office.ask("number 10"))
    assert len(office.place.names()) == 2
    for number, request_id in enumerate(asked):
        assert f'"number {number}"' in office.open(request_id).output


def test_a_text_can_be_tested_with_the_tenants_key_only(office: Office, tmp_path: Path) -> None:
    """HMAC-SHA-256 by any library; handing the key out is recorded; a candidate is compared byte for byte."""
    with office.server.client() as client:
        key = office.cli.ok("keys", "create", "--owner", "bob", "--tenant", "research").strip()
        headers = {"authorization": f"Bearer {key}"}
        answer: httpx.Response = client.post("/v1/chat/completions", json=chat("was this asked?"), headers=headers)
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    [intent] = [r for r in office.server.records("intent") if r["request_id"] == request_id]
    keys = [bytes.fromhex(office.cli.ok("audit", "tenant-key", name).strip()) for name in ("research", "default")]
    wanted = [hmac.new(key, b"was this asked?", "sha256").hexdigest() for key in keys]
    assert wanted[0] in intent["content"]["texts"]
    assert wanted[1] not in intent["content"]["texts"]
    read = [(each["command"], each["filter"]) for each in office.recorded("log.read")]
    assert read == [("audit tenant-key", "research"), ("audit tenant-key", "default")]
    assert office.cli("audit", "tenant-key", "nobody").exit_code == 2
    candidate = tmp_path / "candidate"
    candidate.write_text(
        json.dumps({"choices": [{"finish_reason": "stop", "index": 0, "text": "".join(WORDS)}]}, separators=(",", ":"))
    )
    shown = office.open(request_id, "--candidate", str(candidate))
    assert "answer" in shown.output
    assert "this is what the file holds" in shown.output
    assert shown.exit_code == 0
    parts = json.loads(office.open(request_id, "--candidate", str(candidate), "--json").output)["parts"]
    assert [part["fits"] for part in parts] == [False, True]
    other = tmp_path / "other"
    other.write_text("was this asked?")
    assert office.open(request_id, "--candidate", str(other)).exit_code == 1
    assert "only hashes of it are kept" in office.open(request_id).output
    erased = office.erase("--subject", "bob")
    assert erased.exit_code == 0
    assert "it was erased at" in office.open(request_id, "--candidate", str(candidate)).output


def test_a_lost_secret_of_the_hashes_is_not_replaced(office: Office) -> None:
    """Texts asked before would no longer be found with any key: the server says so and does not start; restored, or
    begun anew by hand, it does.
    """
    office.ask_as("bob", tenant="research")
    secret = office.server.settings.secrets_directory / "content-hash"
    kept = secret.read_bytes()
    office.server.stop()
    secret.unlink()
    with pytest.raises(AssertionError, match="content was hashed with it"):
        office.server.start()
    assert not secret.exists()
    assert "it was lost" in office.cli("audit", "tenant-key", "research").output
    for content in (kept, b"n" * 32):
        secret.write_bytes(content)
        secret.chmod(0o600)
        office.server.start()
        office.server.stop()


def test_a_tenant_of_the_directory_has_a_key_too(office: Office) -> None:
    """Its content may be hashed as that of any other; and what was hashed can be tested after it was removed."""
    office.cli.ok("tenants", "set", "lab", "--content", "{default: hashed}")
    key = office.cli.ok("audit", "tenant-key", "lab")
    request_id = office.ask_as("bob", tenant="lab")
    [intent] = [r for r in office.server.records("intent") if r["request_id"] == request_id]
    wanted = hmac.new(bytes.fromhex(key.strip()), f"Say {CANARY}".encode(), "sha256").hexdigest()
    assert intent["content"]["texts"] == [wanted]
    for listed in json.loads(office.cli.ok("keys", "list", "--tenant", "lab", "--json")):
        office.cli.ok("keys", "revoke", listed["id"])
    office.cli.ok("tenants", "remove", "lab")
    assert office.cli.ok("audit", "tenant-key", "lab") == key


def test_a_call_whose_intent_was_pruned(tmp_path: Path) -> None:
    """It is said why there is no prompt to be seen: the first record that is left may be an outcome."""
    call = {"request_id": "req_b", "tenant": "radiology", "subject": "alice", "content_mode": "metadata"}
    log = audit_logs.House(tmp_path / "audit").log("server", 255)
    log.add([{**call, "type": "intent"}, {**call, "type": "outcome"}, *({"type": "x"} for _ in range(700))])
    log.checkpoint()
    words = ("audit", "open", "req_b", "--directory", str(tmp_path / "audit"))
    assert "prompt (record 255, metadata): nothing is kept" in Cli(tmp_path / "state").ok(*words)
    log.prune(256)
    [prompt, answer] = Cli(tmp_path / "state").ok(*words).splitlines()
    assert prompt == "prompt: the log has no intent of this call: its records below 256 were pruned, or are missing"
    assert answer.startswith("answer (record 256, metadata): nothing is kept")


def test_sealing_needs_a_key(tmp_path: Path) -> None:
    """`vestry check` names the tenant, the place and the mend; and so does a key that was mistyped."""
    cli, path = Cli(tmp_path / "state"), tmp_path / "vestry.yaml"
    public = cli.ok("audit", "keygen", str(tmp_path / "auditor.key")).strip()
    content: dict[str, Any] = {"routes": {"chat.completions": "sealed"}}
    path.write_text(yaml.safe_dump({"tenants": {"radiology": {"content": content}}}))
    told = cli("check", VESTRY_CONFIG=str(path))
    assert told.exit_code == 2
    assert "tenants.radiology.content" in told.output
    assert "vestry audit keygen" in told.output
    content["auditor"] = public[:-1] + ("A" if public[-1] != "A" else "B")
    path.write_text(yaml.safe_dump({"tenants": {"radiology": {"content": content}}}))
    told = cli("check", VESTRY_CONFIG=str(path))
    assert "checksum is wrong" in told.output
    assert "tenants.radiology.content.auditor" in told.output
