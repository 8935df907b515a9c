"""Everything about the quantizer that needs PyTorch, in one process: run by the engine's Python.

    python -I quantizing.py QUANTIZE_SCRIPT ORIGINAL SERVED SCRATCH

Prints JSON: how ORIGINAL and SERVED differ (`greatest`: error in steps; `relative`: of the worst layer, by the
Frobenius norm), the SHA-256 of a second quantization, and what is said to inputs that cannot be quantized.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LAYER, OUTPUT, INDEX = "model.layers.0.mlp.down_proj.weight", "lm_head.weight", "model.safetensors.index.json"


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("quantize", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensors(folder: Path) -> dict[str, Any]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    return found


def accuracy(original: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = {"greatest": 0.0, "relative": 0.0, "layers": 0, "full_range": 0, "kept": []}
    for name, weight in original.items():
        scale = made.get(f"{name}_scale")
        if scale is None:
            assert torch.equal(made[name], weight), f"{name} was not quantized, and yet it changed"
            report["kept"] += [name] if weight.ndim == 2 else []
            continue
        assert made[name].dtype == torch.int8
        assert (scale.dtype, tuple(scale.shape)) == (torch.float32, (weight.shape[0], 1))
        exact = weight.to(torch.float32)
        error = exact - made[name].to(torch.float32) * scale
        report["layers"] += 1
        report["greatest"] = max(report["greatest"], float((error.abs() / scale).max()))
        report["relative"] = max(report["relative"], float(error.norm() / exact.norm()))
        report["full_range"] += int((made[name].abs().amax(dim=1) == 127).all())
    assert {name.removesuffix("_scale") for name in made} == set(original)
    return report


def said(module: ModuleType, source: Path, target: Path, only: str | None) -> str:
    try:
        module.run(source, target, only)
    except SystemExit as ended:
        return str(ended.code)
    return "nothing"


def edges(module: ModuleType) -> dict[str, Any]:
    """Rows of zeros, of one value, and of every sign."""
    weights = torch.tensor([[0.0, 0.0], [0.5, 0.5], [-1.0, 0.25]], dtype=torch.bfloat16)
    made, scale = module.quantized(weights)
    return {"int8": made.tolist(), "back": (made * scale).tolist()}


def parts(folder: Path) -> tuple[Path, Path]:
    """A small checkpoint of two files and their index; the files."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    files = (folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    for file, name in zip(files, (LAYER, OUTPUT), strict=True):
        save_file({name: torch.ones(4, 4)}, str(file))
    listed = {LAYER: files[0].name, OUTPUT: files[1].name}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return files


def drop(*files: Path) -> int:
    for each in files:
        each.unlink()
    return len(files)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda _, second: drop(second),
    "unlisted": lambda first, second: drop(second, first.with_name(INDEX)),
    "lying": lambda first, _: save_file({"another": torch.ones(4, 4)}, str(first)),
    "cut": lambda _, second: second.write_bytes(second.read_bytes()[:-1]),
    "broken": lambda first, _: save_file({LAYER: torch.tensor([[1.0, float("nan")], [2.0, 1.0]])}, str(first)),
    "stray": lambda first, _: save_file({LAYER: torch.zeros(4, 4)}, str(first.with_name("other.safetensors"))),
    "twice": lambda first, second: (DAMAGES["stray"](first, second), drop(first.with_name(INDEX))),
    "garbled": lambda first, _: first.with_name(INDEX).write_text("[]"),
}


def damaged(module: ModuleType, scratch: Path) -> dict[str, str]:
    """What is said to checkpoints that are not whole, or more than that, and to a result that cannot be kept."""
    found = {}
    for name, damage in DAMAGES.items():
        damage(*parts(scratch / name))
        found[name] = said(module, scratch / name, scratch / f"{name}-made", None)
    found["files"] = " ".join(sorted(each.name for each in (scratch / "stray-made").iterdir()))
    try:
        module.save({LAYER: torch.ones(4, 4)}, scratch / "nowhere" / "model.safetensors")
    except SystemExit as ended:
        found["written"] = str(ended.code)
    return found


def main() -> None:
    script, original, served, scratch = (Path(each) for each in sys.argv[1:])
    quantize = load(script)
    report: dict[str, Any] = {"accuracy": accuracy(tensors(original), tensors(served)), "edges": edges(quantize)}
    quantize.run(original, scratch / "again", None)
    report["again"] = hashlib.sha256((scratch / "again" / "model.safetensors").read_bytes()).hexdigest()
    (scratch / "empty").mkdir()
    report["said"] = {
        "quantized": said(quantize, served, scratch / "a", None),
        "full": said(quantize, original, served, None),
        "empty": said(quantize, scratch / "empty", scratch / "b", None),
        "unmatched": said(quantize, original, scratch / "c", "nothing"),
    }
    report["damaged"] = damaged(quantize, scratch)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
