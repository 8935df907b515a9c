"""Turn the GGUF file of an installed package into a folder of safetensors in bfloat16, with its tokenizer.

    python -I convert.py PACKAGE FILE SHA256 TARGET

FILE is the path in the package; a file with another SHA-256 is refused. transformers reads GGUF and widens its
blocks to plain numbers; the tokenizer and the chat template come from the same file.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NoReturn


def refuse(sentence: str) -> NoReturn:
    sys.exit(f"convert: {sentence}")


def find(package: str, file: str, digest: str) -> Path:
    """The file's place on disk, once it has proved to be the one that is meant."""
    try:
        path = Path(str(distribution(package).locate_file(file)))
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (PackageNotFoundError, OSError) as fault:
        refuse(f"{file} of the package {package} cannot be read: {fault}")
    if found != digest:
        refuse(f"{path} is not the file that the catalog means: its SHA-256 is {found}, not {digest}")
    return path


def convert(path: Path, target: Path) -> None:
    """Write the folder. What takes seconds to import is imported here, once the file has proved to be the right one.

    What transformers asks for again and again is kept, which is a third of its time: it reads the whole file for the
    configuration, for the tokenizer and for the weights, and makes the table of their names for every layer.
    """
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    where: dict[str, str] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert a package's GGUF file to safetensors.")
    parser.add_argument("package")
    parser.add_argument("file")
    parser.add_argument("sha256")
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    convert(find(given.package, given.file, given.sha256), given.target)


if __name__ == "__main__":
    main()
