"""The catalog: the models that Vestry knows how to prepare and to serve, from `catalog.yaml` beside this file.

It is closed: an entry with an unknown field, or without one that is needed, is a fault of the package.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Device = Literal["cpu", "gpu"]
Count = Annotated[int, Meta(gt=0)]


class ModelError(Exception):
    """A model cannot be prepared or served. The message says what is wrong, where, and the mend."""


class Package(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="package"):
    """Weights that come in a package of the engine's environment, as one GGUF file.

    `file` is its path in the package, `sha256` its digest.
    """

    package: str
    version: str
    file: str
    sha256: Sha256


class Folder(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="folder"):
    """Weights that the operator brings: a copy of `origin` at `revision`, as safetensors files, in
    `sources/<entry>/` under the state directory."""


class ChatTemplate(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the chat template comes from (the model's own files), and where our description of tools is put
    in front of it: into a system message, or into the first user message for models that have no system role."""

    source: Literal["model"]
    tools: Literal["system", "user"]


class Memory(Struct, frozen=True, forbid_unknown_fields=True):
    """GiB: of the prepared weights, and of a GPU on which the model can be served."""

    weights: float
    gpu: int


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalog.

    `created` is when the original weights were published (seconds since the epoch); `context_length` and
    `vocabulary` are counted in tokens. `arguments` are for vLLM, on every device; `cpu_arguments` and
    `gpu_arguments` are added to them on one kind of device.
    """

    title: str
    family: str
    architecture: str
    licence: str
    origin: str
    revision: str
    created: Count
    source: Package | Folder
    quantization: Literal["w8a8"]
    modality: Literal["text"]
    context_length: Count
    vocabulary: Count
    chat_template: ChatTemplate
    tool_parser: Literal["hermes"]
    devices: Annotated[tuple[Device, ...], Meta(min_length=1)]
    memory: Memory
    arguments: tuple[str, ...]
    cpu_arguments: tuple[str, ...]
    gpu_arguments: tuple[str, ...]
    name: str = ""

    def arguments_for(self, device: Device) -> tuple[str, ...]:
        """The arguments for vLLM on this kind of device."""
        return self.arguments + (self.cpu_arguments if device == "cpu" else self.gpu_arguments)


@cache
def entries() -> dict[str, Entry]:
    """Every entry, by name, in the file's order."""
    read = msgspec.yaml.decode(files("vestry.models").joinpath("catalog.yaml").read_bytes(), type=dict[str, Entry])
    return {name: msgspec.structs.replace(entry, name=name) for name, entry in read.items()}


def entry(name: str) -> Entry:
    """The entry of this name. Raises ModelError, which names those that there are."""
    found = entries().get(name)
    if found is None:
        raise ModelError(f"There is no catalog entry `{name}`. There are: {', '.join(entries())}.")
    return found
