"""The chat template of a prepared model: the model's own, with our handling of tools in front of it.

The part in front (`tools.jinja`) rewrites conversations that hold tools into plain texts, which every model's
template can show; where there are none it does nothing, and the prompt is the model's own to the byte.
"""

from __future__ import annotations

from importlib.resources import files

from vestry.models.catalog import Entry

FILE = "chat_template.jinja"


def combined(entry: Entry, own: str) -> str:
    """The template to serve, from the model's own one."""
    ours = files("vestry.models").joinpath("tools.jinja").read_text(encoding="utf-8")
    return f'{{%- set vestry_tools_place = "{entry.chat_template.tools}" -%}}\n{ours.rstrip()}\n{own}'
