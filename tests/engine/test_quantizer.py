"""Our quantizer, on real weights and at its edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.conftest import HERE, MARKS, run_inside
from support.preparation import SMALL
from vestry.models import catalog, manifest
from vestry.models.catalog import Package
from vestry.models.places import Places
from vestry.models.prepare import INSIDE

pytestmark = MARKS

Report = dict[str, Any]


@pytest.fixture(scope="module")
def report(installed: Places, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the quantizer does to the small model's original weights, and what it says to wrong inputs."""
    source = catalog.entry(SMALL).source
    assert isinstance(source, Package)
    scratch = tmp_path_factory.mktemp("quantizer")
    original = scratch / "original"
    run_inside(installed, INSIDE / "convert.py", source.package, source.file, source.sha256, str(original))
    served = installed.model(catalog.entry(SMALL))
    folders = (str(original), str(served), str(scratch))
    found: Report = json.loads(
        run_inside(installed, HERE / "inside" / "quantizing.py", str(INSIDE / "quantize.py"), *folders)
    )
    return found


def test_a_weight_is_off_by_half_a_step_at_most(report: Report) -> None:
    """Every linear layer of the served model is int8, within half a step of its original and 1.5 % overall, and
    uses the whole range; embeddings and norms are the original to the bit."""
    found = report["accuracy"]
    assert found["layers"] == found["full_range"] == 30 * 7
    assert found["kept"] == ["model.embed_tokens.weight"]
    assert 0.4 < found["greatest"] <= 0.5001
    assert 0 < found["relative"] < 0.015


def test_the_same_weights_give_the_same_files(report: Report, installed: Places) -> None:
    """Quantizing is deterministic: the served weights come out again, byte for byte."""
    served = manifest.read(installed.model(catalog.entry(SMALL)))
    assert served is not None
    assert report["again"] == served.files["model.safetensors"].sha256


def test_rows_at_the_edge(report: Report) -> None:
    """A row of zeros stays zero, a row of one value is exact, and the greatest weight of a row is exact."""
    assert report["edges"]["int8"] == [[0, 0], [127, 127], [-127, 32]]
    zero, same, mixed = report["edges"]["back"]
    assert zero == [0, 0]
    assert same == pytest.approx([0.5, 0.5])
    assert mixed == pytest.approx([-1, 0.25], abs=0.5 / 127)


def test_what_cannot_be_quantized_is_a_sentence(report: Report) -> None:
    """A quantized model, a full target, a folder without weights and a pattern that matches nothing are refused."""
    said = report["said"]
    assert "is quantized already; give the original weights" in said["quantized"]
    assert "is not empty" in said["full"]
    assert "config.json cannot be read" in said["empty"]
    assert "nothing was quantized" in said["unmatched"]


def test_a_checkpoint_that_is_not_whole_is_refused(report: Report) -> None:
    """A part that was not copied, or only in part, would leave weights in the engine that nobody has set; numbers that
    are none would become zeros. What the index does not name is left out."""
    said = report["damaged"]
    assert "model-00002-of-00002.safetensors is missing, which model.safetensors.index.json names" in said["missing"]
    assert "holds 1 of the 2 parts of the weights" in said["unlisted"]
    assert "model-00001-of-00002.safetensors does not hold model.layers.0.mlp.down_proj.weight" in said["lying"]
    assert "model-00002-of-00002.safetensors cannot be read: " in said["cut"]
    assert "model.layers.0.mlp.down_proj.weight in " in said["broken"]
    assert "no finite number" in said["broken"]
    assert "other.safetensors" in said["twice"]
    assert "model.safetensors.index.json holds no JSON object" in said["garbled"]
    assert "cannot be written: " in said["written"]
    assert said["stray"] == "nothing"
    assert said["files"].count("of-00002.safetensors") == 2


def test_another_file_than_the_catalogs_is_refused(installed: Places, tmp_path: Path) -> None:
    """A package whose file is not the one of the catalog's digest is not converted."""
    source = catalog.entry(SMALL).source
    assert isinstance(source, Package)
    arguments = (source.package, source.file, "0" * 64, str(tmp_path / "x"))
    output = run_inside(installed, INSIDE / "convert.py", *arguments, status=1)
    assert "is not the file that the catalog means" in output
    assert not (tmp_path / "x").exists()
