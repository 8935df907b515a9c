"""Quantize a model to W8A8: int8 weights, one scale an output channel; int8 activations, one scale a token.

    python -I quantize.py SOURCE TARGET [--only REGEX]

SOURCE is a folder with `config.json` and safetensors files in bf16, fp16 or fp32; TARGET, which must be
empty or absent, gets the quantized safetensors files and a `config.json` that says so in the words of the
compressed-tensors format (`int-quantized`), which vLLM reads. Weights are rounded to the nearest step,
symmetrically: with s = max|row| / 127 each weight w becomes q = round(w / s) and is read back as q * s, so
that it is off by half a step, s / 2, at most. Activations are quantized by the engine as they come, so that
no calibration data is needed. Embeddings, the output layer, norms and routers stay as they are.

It reads and writes one file at a time: memory is bounded by the largest file, not by the model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

STEPS = 127
KEPT = re.compile(r"(^|\.)(lm_head|embed_tokens|embed_out|wte|wpe|gate|router|[^.]*norm[^.]*)$")
FLOATS = (torch.bfloat16, torch.float16, torch.float32)


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


def read_config(source: Path) -> dict[str, Any]:
    """config.json without the pointers to code (`auto_map`) that a checkpoint may carry."""
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        refuse(f"{source / 'config.json'} cannot be read: {fault}")
    if "quantization_config" in config:
        refuse(f"the model in {source} is quantized already; give the original weights")
    config.pop("auto_map", None)
    return config


def convert(
    shard: Path, target: Path, only: re.Pattern[str] | None, bar: tqdm[Any]
) -> tuple[dict[str, int], list[str]]:
    """Quantize one file. Returns the size in bytes of each tensor written, and the linear layers left as they were."""
    written: dict[str, torch.Tensor] = {}
    kept: list[str] = []
    with safe_open(str(shard), framework="pt", device="cpu") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
            weight = tensors.get_tensor(name)
            if chosen(name, weight, only):
                written[name], written[f"{name}_scale"] = quantized(weight)
            else:
                written[name] = weight.contiguous()
                module = name.removesuffix(".weight")
                if name != module and weight.ndim == 2 and not module.endswith(("embed_tokens", "norm")):
                    kept.append(module)
            bar.update()
    save_file(written, str(target), metadata={"format": "pt"})
    return {name: tensor.numel() * tensor.element_size() for name, tensor in written.items()}, kept


def run(source: Path, target: Path, only: str | None) -> None:
    config = read_config(source)
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        refuse(f"there is no safetensors file in {source}")
    if target.exists() and any(target.iterdir()):
        refuse(f"{target} is not empty")
    target.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(only) if only else None
    total = 0
    for shard in shards:
        with safe_open(str(shard), framework="pt", device="cpu") as tensors:
            total += len(list(tensors.keys()))
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
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
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
