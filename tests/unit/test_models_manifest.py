"""The manifest: it notices every way in which a model's folder can differ from what was prepared."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.engines import put_model
from vestry.models import catalog, manifest
from vestry.models.catalog import ModelError
from vestry.models.places import Places


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared model."""
    places = Places(tmp_path)
    put_model(places)
    return places.model(catalog.entry("smollm2-135m-instruct"))


def faults(folder: Path, *, thorough: bool = True) -> list[str]:
    """What the check says."""
    found = manifest.read(folder)
    assert found is not None
    return manifest.check(folder, found, thorough=thorough)


def test_an_untouched_folder_is_as_its_manifest_says(folder: Path) -> None:
    """Nothing is found where nothing was changed."""
    assert faults(folder) == []


def test_a_missing_file_is_named(folder: Path) -> None:
    """A file that has gone is named with its path."""
    (folder / "model.safetensors").unlink()
    assert faults(folder, thorough=False) == [f"{folder / 'model.safetensors'} is missing"]


def test_another_size_is_seen_without_reading_the_file(folder: Path) -> None:
    """The quick check sees a truncated file by its size alone."""
    (folder / "model.safetensors").write_bytes(b"weight")
    assert "has 6 bytes where the manifest says 7" in faults(folder, thorough=False)[0]


def test_a_changed_byte_is_seen_by_the_thorough_check(folder: Path) -> None:
    """A file of the right size with other contents passes the quick check and fails the thorough one."""
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert faults(folder, thorough=False) == []
    assert "has changed" in faults(folder)[0]


def test_a_stranger_in_the_folder_is_named(folder: Path) -> None:
    """A file that was put there later, such as code, is not overlooked."""
    (folder / "modeling_evil.py").write_text("import os")
    assert faults(folder, thorough=False) == [f"{folder / 'modeling_evil.py'} is not in the manifest"]


def test_a_folder_without_manifest_has_none(tmp_path: Path) -> None:
    """No manifest is None, not an error: the operator's own folders have none."""
    assert manifest.read(tmp_path) is None
    assert manifest.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 1, "colour": "green"}'])
def test_an_unreadable_manifest_says_what_to_do(folder: Path, text: str) -> None:
    """A manifest that is empty, incomplete or of another shape is a fault with a mend."""
    (folder / manifest.NAME).write_text(text)
    with pytest.raises(ModelError, match="Delete the folder and prepare the model again"):
        manifest.read(folder)


def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    """Nobody writes into it, and nobody is waited for."""
    os.mkfifo(tmp_path / manifest.NAME)
    with pytest.raises(ModelError, match="it is no file"):
        manifest.read(tmp_path)


def test_the_weights_digest_is_what_sha256sum_gives(folder: Path) -> None:
    """Anybody can check the weights digest with coreutils."""
    (folder / "extra.safetensors").write_bytes(b"more")
    listed = manifest.describe(folder, ["model.safetensors", "extra.safetensors", "config.json"])
    done = subprocess.run(
        "sha256sum *.safetensors | sha256sum", shell=True, cwd=folder, capture_output=True, text=True, check=True
    )
    assert manifest.weights_digest(listed) == done.stdout.split()[0]
