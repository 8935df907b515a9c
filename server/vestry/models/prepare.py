"""Prepare a model of the catalog: original weights in, a quantized folder that an engine can serve out.

The heavy steps are the scripts in `inside/`, run by the engine's own Python; here are the order, the files that
are kept, and the manifest. The folder is made beside its place and renamed into it when it is whole, so that a
half-made model is never served; a second preparation of the same model waits for the first, and what one that was
killed has left is cleared away. Nothing that could run code is taken over: of a source folder only safetensors,
tokenizer and configuration files are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from vestry.models import catalog, chat_template, checkpoint, children, compiler, environment, manifest, sources
from vestry.models.alone import in_turn
from vestry.models.catalog import Entry, ModelError, Package
from vestry.models.checkpoint import Checkpoint
from vestry.models.environment import Stamp
from vestry.models.manifest import Manifest
from vestry.models.places import Places
from vestry.models.progress import Progress
from vestry.regular import persist

INSIDE = Path(str(files("vestry.models") / "inside"))
RECIPE = ("inside/convert.py", "inside/quantize.py", "tools.jinja")
FACTS = (
    "architecture",
    "origin",
    "revision",
    "source",
    "quantization",
    "context_length",
    "vocabulary",
    "chat_template",
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SCHEMA = 1


def recipe(entry: Entry) -> str:
    """A digest of what decides how the prepared model comes out: the entry's facts, and our code."""
    facts = {name: getattr(entry, name) for name in FACTS}
    total = hashlib.sha256(f"{SCHEMA}\n".encode() + msgspec.json.encode(facts, order="sorted"))
    for name in RECIPE:
        total.update(files("vestry.models").joinpath(name).read_bytes())
    return total.hexdigest()


def ready(entry: Entry, places: Places) -> Manifest | None:
    """The prepared model's manifest; None if it is missing or something of it is, or has another size."""
    found = manifest.read(places.model(entry))
    if found is None or manifest.check(places.model(entry), found, thorough=False):
        return None
    return found


def prepare(entry: Entry, places: Places, stamp: Stamp, progress: Progress) -> Manifest:
    """Prepare the model unless it is there, made by the same recipe of the same source. Raises ModelError.

    A model made by an older recipe, or of another source, is kept where no source is at hand to make it anew.
    """
    wanted = recipe(entry)
    with _alone(places.models, progress):
        found = ready(entry, places)
        if found is not None:
            current = found.recipe == wanted and sources.same(entry, places)
            if current or not sources.at_hand(entry, places):
                return found
        seen = sources.look(entry, places)  # before it is read: what changes meanwhile is taken up by the next run
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=places.models) as folder:
            work = _Work(entry, places, Path(folder), progress)
            work.run(wanted, stamp)
            _replace(work.target, places.model(entry))
        sources.note(entry, places, seen)
    made = ready(entry, places)
    if made is None:
        raise ModelError(f"{places.model(entry)} changed while it was prepared. Run this again.")
    return made


def missing_source(entry: Entry, places: Places) -> str:
    """The sentence for a model whose weights the operator has to bring."""
    return (
        f"The weights of `{entry.name}` are not here, and nothing is fetched from a model hub. Copy "
        f"{entry.origin} (revision {entry.revision}, {entry.licence}) to {places.source(entry)}: the safetensors, "
        "config and tokenizer files; name it under `models` in the settings; and run `vestry up`, which quantizes it."
    )


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with in_turn(folder / ".lock", progress):
        _clear(folder)
        yield


def _clear(folder: Path) -> None:
    """Remove what preparations left that were killed. A model that one had moved aside and not replaced goes back."""
    for left in folder.glob(".replaced-*"):
        for name in catalog.entries():
            if (left / name).is_dir() and not (folder / name).exists():
                (left / name).rename(folder / name)
    for left in (*folder.glob(".preparing-*"), *folder.glob(".replaced-*")):
        shutil.rmtree(left, ignore_errors=True)


def _replace(made: Path, place: Path) -> None:
    """Put the folder in its place; what stood there goes to a name of its own first, then away."""
    for each in made.iterdir():
        persist(each)
    persist(made)
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=place.parent))
        place.rename(old / place.name)
        made.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        made.rename(place)
    persist(place.parent)


class _Work:
    """One preparation, in a folder of its own."""

    def __init__(self, entry: Entry, places: Places, folder: Path, progress: Progress):
        self._entry = entry
        self._places = places
        self._original = folder / "original"
        self._progress = progress
        self._log = places.logs / f"prepare-{entry.name}.log"
        self.target = folder / "prepared"

    def run(self, wanted: str, stamp: Stamp) -> None:
        source = self._convert() if isinstance(self._entry.source, Package) else self._brought()
        found = checkpoint.read(source, self._entry)
        with self._progress.step(f"quantize {self._entry.name} to {self._entry.quantization.upper()}"):
            self._inside("Quantizing", "quantize.py", os.fspath(source), os.fspath(self.target))
        with self._progress.step(f"manifest of {self._entry.name}"):
            self._complete(source, found, wanted, stamp)

    def _convert(self) -> Path:
        source = self._entry.source
        assert isinstance(source, Package)  # noqa: S101 - `run` asked
        with self._progress.step(f"convert {source.package} {source.version} to safetensors"):
            arguments = (source.package, source.file, source.sha256, os.fspath(self._original))
            self._inside("Converting", "convert.py", *arguments)
        return self._original

    def _brought(self) -> Path:
        if not sources.at_hand(self._entry, self._places):
            raise ModelError(missing_source(self._entry, self._places))
        return self._places.source(self._entry)

    def _inside(self, what: str, script: str, *arguments: str) -> None:
        """Run a script with the engine's Python; it draws its own bars on the terminal."""
        self._places.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        passed: dict[str, str] = {**OFFLINE, "PATH": compiler.WHERE, "HOME": str(self._places.cache)}
        passed |= _present(os.environ, "LANG", "TERM", "TMPDIR", "COLUMNS")
        argv = (os.fspath(environment.python_of(self._places.engine)), "-I", os.fspath(INSIDE / script), *arguments)
        what = f"{what} {self._entry.name}"
        children.run(what, argv, passed, self._log, own_terminal=self._progress.terminal)

    def _complete(self, source: Path, found: Checkpoint, wanted: str, stamp: Stamp) -> None:
        """Tokenizer, chat template, generation settings and manifest."""
        for name in checkpoint.TOKENIZER:
            if (source / name).is_file():
                shutil.copyfile(source / name, self.target / name)
        template = chat_template.combined(self._entry, found.template)
        (self.target / chat_template.FILE).write_text(template, encoding="utf-8")
        if found.tokenizer is not None:
            _write(self.target / "tokenizer_config.json", found.tokenizer)
        _write(self.target / "generation_config.json", found.generation)
        names = [path.name for path in self.target.iterdir()]
        for name in names:
            (self.target / name).chmod(0o644)
        listed = manifest.describe(self.target, names)
        made = Manifest(
            schema=SCHEMA,
            name=self._entry.name,
            origin=self._entry.origin,
            revision=self._entry.revision,
            licence=self._entry.licence,
            quantization=self._entry.quantization,
            context_length=self._entry.context_length,
            vocabulary=self._entry.vocabulary,
            chat_template_digest=hashlib.sha256(template.encode()).hexdigest(),
            weights_digest=manifest.weights_digest(listed),
            recipe=wanted,
            tools={stamp.engine: stamp.version, "torch": stamp.torch},
            files=listed,
        )
        manifest.write(self.target, made)


def _present(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: environ[name] for name in names if name in environ}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
