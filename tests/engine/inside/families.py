"""Makes tiny models of the three families, with random weights, and quantizes them: run by the engine's Python.

    python -I families.py QUANTIZE TOKENIZER TARGET cpu|gpu

QUANTIZE is our quantizer, run as a program, in this process: to import PyTorch anew takes longer than all the rest.
TOKENIZER is a folder with tokenizer files; TARGET gets one folder a family, of int8 weights. For a CPU, Mixtral's are
int8 in its attention alone, since int8 experts need a GPU.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}


ONLY = {("mixtral", "cpu"): ("--only", r".*self_attn\..*_proj$")}


def main() -> None:
    quantize, device, (tokenizer, target) = sys.argv[1], sys.argv[4], map(Path, sys.argv[2:4])
    torch.manual_seed(1)
    models = {
        "phi-3": Phi3ForCausalLM(Phi3Config(**{**SHAPE, "num_key_value_heads": 4})),
        "llama-3": LlamaForCausalLM(LlamaConfig(**SHAPE)),
        "mixtral": MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)),
    }
    for name, model in models.items():
        original = target / "original" / name
        model.to(torch.bfloat16).save_pretrained(original)
        sys.argv = [quantize, str(original), str(target / name), *ONLY.get((name, device), ())]
        runpy.run_path(quantize, run_name="__main__")
        for file in TOKENIZER:
            shutil.copyfile(tokenizer / file, target / name / file)


if __name__ == "__main__":
    main()
