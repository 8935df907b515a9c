"""Outside copies of a whole server: checkpoints of real calls go out, and a rolled back log stops the start."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fakes.engine import FakeEngine
from fakes.witness import Witness
from support.house import SIGNING, House, chat, until
from vestry.audit.copies.comparing import CopyMissing
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.cosignatures import Cosigner
from vestry.audit.tlog.notes import Checkpoint
from vestry.faults import ConfigurationError

PUBLIC = SIGNING.signer.public.of("server")


def size_at(path: Path) -> int:
    """Size of a checkpoint in a file, its signature verified; 0 for none."""
    return Checkpoint.open(path.read_text(), PUBLIC).size if path.exists() else 0


def house_of(tmp_path: Path, engine: FakeEngine, *copies: dict[str, Any]) -> House:
    return House(tmp_path / "state", [engine], audit={"copies": list(copies)})


@pytest.fixture
def vault(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "vault").mkdir()
    return {"kind": "directory", "name": "vault", "path": str(tmp_path / "vault")}


def test_from_a_call_to_the_copies(tmp_path: Path, vault: dict[str, Any]) -> None:
    """Checkpoints on demand and at the stop are in the directory and cosigned; so is the registry; metrics tell."""
    with FakeEngine() as engine, Witness() as witness:
        witness.know(str(PUBLIC))
        web = {"kind": "witness", "name": "w1", "url": witness.url, "public_key": witness.vkey}
        home = tmp_path / "state/audit/server"
        with house_of(tmp_path, engine, vault, web) as house:
            assert house.post(json=chat()).status_code == 200
            house.checkpoint()
            until(lambda: size_at(tmp_path / "vault/server/latest") >= 3, what="a checkpoint in the directory")
            until(lambda: size_at(home / "cosigned/w1.note") >= 3, what="a cosigned one")
            counted = re.compile(r'vestry_audit_copies_total\{copy="w1"\} [1-9]')
            until(lambda: counted.search(house.metrics()), what="it to be counted")
            shown = house.metrics()
            assert 'vestry_audit_copy_compared{copy="vault"} 1.0' in shown
            assert 'vestry_audit_copy_behind_seconds{copy="vault"} 0.0' in shown
            assert house.post(json=chat()).status_code == 200
        final = size_at(home / "checkpoint")
        assert final > 3
        assert size_at(tmp_path / "vault/server/latest") == final, "the last one went out at the stop"
        cosigned = (home / "cosigned/w1.note").read_text()
        assert (size_at(home / "cosigned/w1.note"), len(Cosigner.parse(witness.vkey).cosigned(cosigned))) == (final, 1)
        assert (tmp_path / "vault/origins").read_text() == (home.parent / "origins").read_text()
        with house_of(tmp_path, engine, vault, web) as house:
            assert house.post(json=chat()).status_code == 200


def test_a_new_place_gets_the_registry_too(tmp_path: Path, vault: dict[str, Any]) -> None:
    """A disk that was replaced, or another path under the same name: nothing has changed but that."""
    origins = tmp_path / "vault/origins"
    with FakeEngine() as engine:
        with house_of(tmp_path, engine, vault):
            until(origins.exists, what="the registry in the directory")
        shutil.rmtree(tmp_path / "vault")
        (tmp_path / "vault").mkdir()
        with house_of(tmp_path, engine, vault):
            until(origins.exists, what="the registry in the new one")
    assert origins.read_text() == (tmp_path / "state/audit/origins").read_text()
    assert len(list((tmp_path / "vault/registry").iterdir())) == 1


@pytest.mark.parametrize("by", ["vault", "w1"])
def test_a_rolled_back_log_stops_the_start(tmp_path: Path, vault: dict[str, Any], by: str) -> None:
    """An older copy of the state directory is caught, and left as it is."""
    with FakeEngine() as engine, Witness() as witness:
        witness.know(str(PUBLIC))
        web = {"kind": "witness", "name": "w1", "url": witness.url, "public_key": witness.vkey}
        copy = vault if by == "vault" else web
        with house_of(tmp_path, engine, copy) as house:
            assert house.post(json=chat()).status_code == 200
        audit, snapshot = tmp_path / "state/audit", tmp_path / "snapshot"
        shutil.copytree(audit, snapshot)
        with house_of(tmp_path, engine, copy) as house:
            assert house.post(json=chat()).status_code == 200
        shutil.rmtree(audit)
        shutil.copytree(snapshot, audit)
        before = {path: path.read_bytes() for path in audit.rglob("*") if path.is_file() and path.name != "lock"}
        with pytest.raises(LogDamaged, match=f"was rolled back or cut off: `{by}`"), house_of(tmp_path, engine, copy):
            pass
        after = {path: path.read_bytes() for path in audit.rglob("*") if path.is_file() and path.name != "lock"}
        assert after == before
        shutil.rmtree(audit)
        with pytest.raises(LogDamaged, match="the log's own newest one has 0"), house_of(tmp_path, engine, copy):
            pass


def test_a_copy_that_is_down(tmp_path: Path, vault: dict[str, Any]) -> None:
    """The server starts and serves without it, and delivers later; where it is required, it does not start."""
    shutil.rmtree(tmp_path / "vault")
    with FakeEngine() as engine:
        required = {**vault, "required": True}
        with pytest.raises(CopyMissing, match="`vault`"), house_of(tmp_path, engine, required):
            pass
        with house_of(tmp_path, engine, vault) as house:
            assert house.post(json=chat()).status_code == 200
            house.checkpoint()
            until(lambda: 'vestry_audit_copies_waiting{copy="vault"} 2.0' in house.metrics(), what="two to wait")
            assert 'vestry_audit_copy_compared{copy="vault"} 0.0' in house.metrics()
            assert house.post(json=chat()).status_code == 200
        (tmp_path / "vault").mkdir()
        with house_of(tmp_path, engine, required):
            until(lambda: len(list((tmp_path / "vault").rglob("0*-*"))) >= 2, what="what waited")
            until((tmp_path / "vault/origins").exists, what="the registry")


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    """A witness's key that is damaged, and credentials that others may read, stop the start with sentences."""
    key = Witness().vkey
    exposed = tmp_path / "credentials"
    exposed.write_text("[default]\naws_access_key_id = AKID\naws_secret_access_key = secret\n")
    exposed.chmod(0o644)
    web = {"kind": "witness", "name": "w1", "url": "https://w.example", "public_key": key.replace("+", "0+", 1)}
    bucket = {"kind": "s3", "name": "s3", "endpoint": "https://s3.example", "bucket": "audit",
              "credentials": str(exposed)}  # fmt: skip
    with FakeEngine() as engine, pytest.raises(ConfigurationError) as raised, house_of(tmp_path, engine, web, bucket):
        pass
    assert "audit.copies[0].public_key: the witness's public key is damaged" in str(raised.value)
    assert "others may read or write it" in str(raised.value)
    assert "secret\n" not in str(raised.value)


def test_a_log_is_covered_from_its_first_seconds(tmp_path: Path, vault: dict[str, Any]) -> None:
    """Long before `audit.checkpoint_seconds` have passed: here, and in the copy."""
    with FakeEngine() as engine, house_of(tmp_path, engine, vault):
        until(lambda: size_at(tmp_path / "state/audit/server/checkpoint") > 0, what="the first checkpoint")
        until(lambda: size_at(tmp_path / "vault/server/latest") > 0, what="its copy")
