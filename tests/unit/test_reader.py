"""Who runs a command, and what of their reading is recorded before anything is shown."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from vestry.composition.reader import ReadingRefused, record_reading, user_of_this_process
from vestry.composition.signing import make_signer
from vestry.settings.tree import Settings


def test_users_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user may have a number only; SUDO_USER is told only where it differs."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    name = pwd.getpwuid(os.getuid()).pw_name
    assert user_of_this_process() == name
    monkeypatch.setenv("SUDO_USER", name)
    assert user_of_this_process() == name

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("SUDO_USER")
    assert user_of_this_process() == f"uid {os.getuid()}"


def test_a_reading_is_held_against_the_copies(tmp_path: Path) -> None:
    """Its record goes out like any other of the log `cli`; where that log was rolled back, nothing is shown."""
    (tmp_path / "vault").mkdir()
    copy = {"kind": "directory", "name": "vault", "path": str(tmp_path / "vault")}
    settings = Settings.model_validate({"state": tmp_path / "state", "audit": {"copies": [copy]}})
    make_signer(settings, "house.test/vestry")
    log, snapshot = settings.audit_directory / "cli", tmp_path / "snapshot"
    record_reading(settings, command="audit show", asked="all", records=1)
    shutil.copytree(log, snapshot)
    record_reading(settings, command="audit show", asked="all", records=2)
    assert (tmp_path / "vault/cli/latest").read_text() == (log / "checkpoint").read_text()
    shutil.rmtree(log)
    shutil.copytree(snapshot, log)
    with pytest.raises(ReadingRefused, match=r"Nothing is shown.*was rolled back or cut off: `vault`"):
        record_reading(settings, command="audit show", asked="all", records=3)


def test_a_reading_without_a_key_to_sign_it_is_refused(tmp_path: Path) -> None:
    """In a sentence that names the key and how to make it."""
    with pytest.raises(ReadingRefused, match=r"Nothing is shown.*the key that signs the audit log is missing"):
        record_reading(Settings(state=tmp_path / "state"), command="audit show", asked="all", records=1)
