"""The manifest of a prepared model: `vestry-model.json` in its folder says what it is and how it was made.

The same recipe and tools on the same source give the same manifest, byte for byte, whenever it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from vestry.models.catalog import ModelError
from vestry.regular import whole

NAME = "vestry-model.json"
BLOCK = 1 << 20
LARGEST = 16 << 20
"""Bytes of a manifest."""


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the model: size in bytes, and SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a prepared model is.

    `recipe` is a digest of the catalog entry's facts and of the code that prepared it. `weights_digest` is the SHA-256
    over one line `<sha256>  <name>\\n` for each weights file, sorted by name; `sha256sum *.safetensors | sha256sum`
    gives the same. `tools` names the versions that made it.
    """

    schema: int
    name: str
    origin: str
    revision: str
    licence: str
    quantization: str
    context_length: int
    vocabulary: int
    chat_template_digest: str
    weights_digest: str
    recipe: str
    tools: dict[str, str]
    files: dict[str, File]


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def weights_digest(listed: dict[str, File]) -> str:
    """The one digest of all weights files."""
    lines = (f"{file.sha256}  {name}\n" for name, file in sorted(listed.items()) if name.endswith(".safetensors"))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe(folder: Path, names: Iterable[str]) -> dict[str, File]:
    """Size and digest of each of these files."""
    return {name: File((folder / name).stat().st_size, digest_of(folder / name)) for name in sorted(names)}


def write(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(msgspec.to_builtins(manifest), indent=2, sort_keys=True) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def read(folder: Path) -> Manifest | None:
    """The folder's manifest; None where there is none. Raises ModelError if it cannot be read."""
    path = folder / NAME
    try:
        return msgspec.json.decode(whole(path, LARGEST), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as fault:
        raise ModelError(f"{folder} cannot be looked into ({fault.strerror}). Let this user read all of it.") from fault
    except (OSError, ValueError, msgspec.MsgspecError) as fault:
        raise ModelError(f"{path} cannot be read ({fault}). Delete the folder and prepare the model again.") from fault


def check(folder: Path, manifest: Manifest, *, thorough: bool) -> list[str]:
    """What differs between the folder and its manifest, one sentence each: missing files, sizes, strangers;
    with `thorough`, the digest of every file too, which reads all of it."""
    found = []
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.stat().st_size != file.size:
            found.append(f"{path} has {path.stat().st_size} bytes where the manifest says {file.size}")
        elif thorough and digest_of(path) != file.sha256:
            found.append(f"{path} has changed: its SHA-256 is not the manifest's")
    strangers = {path.name for path in folder.iterdir()} - set(manifest.files) - {NAME} if folder.is_dir() else set()
    return found + [f"{folder / name} is not in the manifest" for name in sorted(strangers)]
