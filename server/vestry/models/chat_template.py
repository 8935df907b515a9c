"""The chat template of a prepared model: the model's own, with our handling of tools in front of it.

The part in front (`tools.jinja`) rewrites conversations that hold tools into plain texts, which every model's
template can show; where there are none it does nothing, and the prompt is the model's own to the byte.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from vestry.models.catalog import Entry, ModelError

FILE = "chat_template.jinja"


def combined(entry: Entry, own: str) -> str:
    """The template to serve, from the model's own one."""
    ours = files("vestry.models").joinpath("tools.jinja").read_text(encoding="utf-8")
    return f'{{%- set vestry_tools_place = "{entry.chat_template.tools}" -%}}\n{ours.rstrip()}\n{own}'


def own_template(folder: Path) -> str:
    """The template that a model's files hold: `chat_template.jinja`, or the field of `tokenizer_config.json`.

    Raises ModelError where there is none.
    """
    path = folder / FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError) as fault:
        raise ModelError(f"{config} cannot be read ({fault}). Copy the model's tokenizer files there.") from fault
    if isinstance(found, list):
        found = next((each["template"] for each in found if each.get("name") == "default"), None)
    if not isinstance(found, str) or not found:
        raise ModelError(
            f"{folder} holds no chat template. Copy the model's `{FILE}` or `tokenizer_config.json` there."
        )
    return found
