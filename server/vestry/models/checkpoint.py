"""What stands beside the weights of a checkpoint: read before the weights are quantized, which takes minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from vestry.models import chat_template
from vestry.models.catalog import Entry, ModelError

VOCABULARIES = ("tokenizer.json", "tokenizer.model")
TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Checkpoint(Struct, frozen=True):
    """Its settings: the model's own chat template, and of the JSON files what a prepared model keeps of them."""

    template: str
    tokenizer: dict[str, Any] | None
    """None where there is no such file."""
    generation: dict[str, Any]


def read(folder: Path, entry: Entry) -> Checkpoint:
    """The checkpoint in this folder, once it has proved to be of the model that the catalog means. Raises ModelError
    for one of another model, or that lacks what an engine needs.
    """
    _check_config(folder, entry)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(f"{folder} holds no tokenizer. Copy the model's `{VOCABULARIES[0]}` there.")
    template = own_template(folder)
    tokenizer = json_object(folder / "tokenizer_config.json")
    if tokenizer is not None:
        tokenizer = {name: value for name, value in tokenizer.items() if name not in {"chat_template", "auto_map"}}
    # Which tokens begin and end a text. Sampling defaults stay out: those of the API hold, for every model.
    found = json_object(folder / "generation_config.json") or {}
    generation = {name: value for name, value in found.items() if name.endswith("_token_id")}
    return Checkpoint(template, tokenizer, generation)


def _check_config(folder: Path, entry: Entry) -> None:
    config = json_object(folder / "config.json")
    if config is None:
        raise ModelError(f"{folder} holds no `config.json`. Copy the model's there.")
    wanted = ([entry.architecture], entry.vocabulary, entry.context_length)
    found = (config.get("architectures"), config.get("vocab_size"), config.get("max_position_embeddings"))
    if found != wanted:
        raise ModelError(
            f"The weights of `{entry.name}` are of another model: architecture, vocabulary and context should be "
            f"{wanted}, and config.json says {found}. Put {entry.origin} there."
        )


def own_template(folder: Path) -> str:
    """The template that a model's files hold: `chat_template.jinja`, or the field of `tokenizer_config.json`.

    Raises ModelError where there is none.
    """
    path = folder / chat_template.FILE
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as fault:
        raise _unreadable(path, fault) from fault
    found = (json_object(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict) and each.get("name") == "default"]
        found = named[0].get("template") if named else None
    if not isinstance(found, str) or not found:
        mend = f"Copy the model's `{chat_template.FILE}` or `tokenizer_config.json` there."
        raise ModelError(f"{folder} holds no chat template. {mend}")
    return found


def json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object that a file of a checkpoint holds; None where there is no file. Raises ModelError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as fault:
        raise _unreadable(path, fault) from fault
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object. Copy the model's own file there.")
    return found


def _unreadable(path: Path, fault: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read ({fault}). Copy the model's own file there.")
