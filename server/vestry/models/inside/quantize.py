"""Quantize a model to W8A8: int8 weights, one scale an output channel; int8 activations, one scale a token.

    python -I quantize.py SOURCE TARGET [--only REGEX]

SOURCE is a folder with `config.json` and safetensors files in bf16, fp16 or fp32; TARGET, which must be
empty or absent, gets the quantized safetensors files and a `config.json` that says so in the words of the
compressed-tensors format (`int-quantized`), which vLLM reads. Weights are rounded to the nearest step,
symmetrically: with s = max|row| / 127 each weight w becomes q = round(w / s) and is read back as q * s, so
that it is off by half a step, s / 2, at most. Activations are quantized by the engine as they come, so that
no calibration data is needed. Embeddings, the output layer, norms and routers stay as they are.

It reads and writes one file at a time: memory is bounded by the largest file, not by the model. A checkpoint that is
not whole is refused: a quantized model that lacks weights is loaded all the same, with whatever its memory held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

STEPS = 127
KEPT = re.compile(r"(^|\.)(lm_head|embed_tokens|embed_out|wte|wpe|gate|router|[^.]*norm[^.]*)$")
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
INDEX = "model.safetensors.index.json"
PART = re.compile(r"-[0-9]+-of-([0-9]+)\.safetensors")


def refuse(sentence: str) -> NoReturn:
    sys.exit(f"quantize: {sentence}")


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [out, in] -> (int8 [out, in], float32 scale [out, 1]). A row of zeros gets the scale 1."""
    exact = weight.to(torch.float32)
    scale = exact.abs().amax(dim=1, keepdim=True) / STEPS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.clamp(torch.round(exact / scale), -STEPS, STEPS).to(torch.int8), scale


def chosen(name: str, weight: torch.Tensor, only: re.Pattern[str] | None) -> bool:
    """Whether this tensor is the weight of a linear layer that is to be quantized."""
    module, _, last = name.rpartition(".")
    if last != "weight" or weight.ndim != 2 or weight.dtype not in FLOATS or KEPT.search(module):
        return False
    return only is None or only.match(module) is not None


def description(kept: list[str], only: str | None) -> dict[str, Any]:
    """The `quantization_config` of config.json."""
    common: dict[str, Any] = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "group_size": None,
        "block_structure": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": kept,
        "config_groups": {
            "group_0": {
                "targets": ["Linear" if only is None else f"re:{only}"],
                "weights": {**common, "strategy": "channel", "dynamic": False, "observer": "minmax"},
                "input_activations": {**common, "strategy": "token", "dynamic": True, "observer": None},
                "output_activations": None,
            }
        },
    }


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        refuse(f"{path} cannot be read: {fault}")
    if not isinstance(found, dict):
        refuse(f"{path} holds no JSON object")
    return found


def read_config(source: Path) -> dict[str, Any]:
    """config.json without the pointers to code (`auto_map`) that a checkpoint may carry."""
    config = read_object(source / "config.json")
    if "quantization_config" in config:
        refuse(f"the model in {source} is quantized already; give the original weights")
    config.pop("auto_map", None)
    return config


def whole(source: Path) -> list[Path]:
    """The files of the checkpoint: those that its index names; without an index, every one."""
    found = sorted(source.glob("*.safetensors"))
    if not found:
        refuse(f"there is no safetensors file in {source}")
    if (source / INDEX).exists():
        return indexed(source)
    parts = [int(part[1]) for path in found if (part := PART.search(path.name))]
    if parts and len(parts) < max(parts):
        refuse(f"{source} holds {len(parts)} of the {max(parts)} parts of the weights; copy the others too")
    return found


def indexed(source: Path) -> list[Path]:
    """The files that the index names, once each has proved to hold what the index says."""
    listed = read_object(source / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) and "/" not in name for name in listed.values()):
        refuse(f"{source / INDEX} says of no tensor in which file it is")
    shards = [source / name for name in sorted(set(listed.values()))]
    for shard in shards:
        if not shard.is_file():
            refuse(f"{shard} is missing, which {INDEX} names; copy it too")
        with opened(shard) as tensors:
            held = set(tensors.keys())
        lost = sorted(name for name, file in listed.items() if file == shard.name and name not in held)
        if lost:
            refuse(f"{shard} does not hold {lost[0]}, as {INDEX} says; copy both anew")
    return shards


@contextlib.contextmanager
def opened(shard: Path) -> Iterator[Any]:
    """A safetensors file."""
    try:
        with safe_open(str(shard), framework="pt", device="cpu") as tensors:
            yield tensors
    except (SafetensorError, OSError) as fault:
        refuse(f"{shard} cannot be read: {fault}")


def save(tensors: dict[str, torch.Tensor], target: Path) -> None:
    try:
        save_file(tensors, str(target), metadata={"format": "pt"})
    except (SafetensorError, OSError) as fault:
        refuse(f"{target} cannot be written: {fault}")


def convert(
    shard: Path, target: Path, only: re.Pattern[str] | None, bar: tqdm[Any]
) -> tuple[dict[str, int], list[str]]:
    """Quantize one file. Returns the size in bytes of each tensor written, and the linear layers left as they were."""
    written: dict[str, torch.Tensor] = {}
    kept: list[str] = []
    with opened(shard) as tensors:
        for name in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
            weight = tensors.get_tensor(name)
            if name.endswith("weight") and weight.dtype in FLOATS and not bool(torch.isfinite(weight).all()):
                refuse(f"{name} in {shard} holds what is no finite number; copy the file anew")
            if chosen(name, weight, only):
                written[name], written[f"{name}_scale"] = quantized(weight)
            else:
                written[name] = weight.contiguous()
                module = name.removesuffix(".weight")
                if name != module and weight.ndim == 2 and not module.endswith(("embed_tokens", "norm")):
                    kept.append(module)
            bar.update()
    save(written, target)
    return {name: tensor.numel() * tensor.element_size() for name, tensor in written.items()}, kept


def count(shards: list[Path]) -> int:
    """How many tensors the files hold, each of them once."""
    seen: dict[str, Path] = {}
    for shard in shards:
        with opened(shard) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
                if name in seen:
                    refuse(f"{name} is in {seen[name]} and in {shard}; leave one of the files out")
                seen[name] = shard
    return len(seen)


def run(source: Path, target: Path, only: str | None) -> None:
    config = read_config(source)
    shards = whole(source)
    if target.exists() and any(target.iterdir()):
        refuse(f"{target} is not empty")
    target.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(only) if only else None
    total = count(shards)
    where: dict[str, str] = {}
    kept: list[str] = ["lm_head"]
    size = 0
    with tqdm(total=total, desc="  quantize to W8A8", unit="tensor", disable=None) as bar:
        for number, shard in enumerate(shards, 1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
            sizes, left = convert(shard, target / name, pattern, bar)
            where.update(dict.fromkeys(sizes, name))
            kept += [module for module in left if module not in kept]
            size += sum(sizes.values())
    if not any(name.endswith("weight_scale") for name in where):
        refuse(f"no linear layer in {source} matches, so nothing was quantized")
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config["quantization_config"] = description(kept if only is None else ["lm_head"], only)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize a folder of safetensors to W8A8.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--only", help="regular expression; only layers whose name it matches are quantized")
    given = parser.parse_args()
    run(given.source, given.target, given.only)


if __name__ == "__main__":
    main()
