"""The catalog: closed, complete, and honest about what it names."""

from __future__ import annotations

from importlib.resources import files

import msgspec
import pytest

from vestry.models.catalog import Entry, Folder, ModelError, Package, entries, entry

TEXT = files("vestry.models").joinpath("catalog.yaml").read_text(encoding="utf-8")


def test_the_three_families_and_the_small_model_are_there() -> None:
    """Phi-3, Llama 3, Mixtral and the small model each have a quantized entry."""
    families = {found.family: found for found in entries().values()}
    assert {"Phi-3", "Llama 3", "Mixtral", "Llama"} == set(families)
    assert {found.quantization for found in families.values()} == {"w8a8"}


@pytest.mark.parametrize("name", list(entries()))
def test_an_entry_pins_what_it_means(name: str) -> None:
    """Every entry names one exact revision of its weights: a digest for a package, a commit for a folder."""
    found = entry(name)
    assert found.name == name
    if isinstance(found.source, Package):
        assert len(found.source.sha256) == 64
        assert found.source.version in found.revision
    else:
        assert isinstance(found.source, Folder)
        assert len(found.revision) == 40
        assert int(found.revision, 16) > 0


@pytest.mark.parametrize("name", list(entries()))
def test_an_entry_needs_more_memory_than_its_weights(name: str) -> None:
    """The GPU that an entry asks for is larger than its weights, so that a KV cache fits beside them."""
    found = entry(name)
    assert 0 < found.memory.weights < found.memory.gpu


def test_arguments_depend_on_the_device() -> None:
    """A device gets the common arguments and its own, and none of the other's."""
    small = entry("smollm2-135m-instruct")
    assert "--kv-cache-memory-bytes" in small.arguments_for("cpu")
    assert "--kv-cache-memory-bytes" not in small.arguments_for("gpu")
    assert "--gpu-memory-utilization" in small.arguments_for("gpu")


def test_an_unknown_entry_names_those_that_there_are() -> None:
    """Asking for an entry that does not exist says which do."""
    with pytest.raises(ModelError, match=r"no catalog entry `gpt-9`.*phi-3-mini-4k-instruct"):
        entry("gpt-9")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    sha256: b179", "    sha256: XYZ9"),
        ("  licence: MIT", "  licence: MIT\n  colour: green"),
        ("  modality: text", "  modality: smell"),
        ("  context_length: 4096", "  context_length: 0"),
        ("  devices: [gpu]", "  devices: []"),
        ("  tool_parser: hermes", "  tool_parser: anything"),
    ],
)
def test_the_catalog_is_closed(old: str, new: str) -> None:
    """A wrong digest, an unknown field, an unknown word or a missing device is refused, not ignored."""
    assert old in TEXT
    with pytest.raises(msgspec.ValidationError):
        msgspec.yaml.decode(TEXT.replace(old, new, 1), type=dict[str, Entry])
