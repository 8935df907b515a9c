"""Our part of the chat template: it shows tools to any model, and leaves every other prompt alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest

from vestry.models import catalog, chat_template, checkpoint
from vestry.models.catalog import Entry, ModelError

# Templates of the shapes that the families have, written for these tests.
CHATML = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ message['role'] }}] {{ message['content'] }}\n"
    "{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
QUESTION = {"role": "user", "content": "How warm is it?"}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}
RESULTS = [{"role": "tool", "content": "12 degrees"}, {"role": "tool", "content": "15 degrees"}]

Messages = list[dict[str, Any]]


def render(template: str, messages: Messages, tools: Any = None) -> str:
    """As transformers renders it: sandboxed, immutable, with trimmed blocks."""
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    sandbox.filters["tojson"] = json.dumps
    sandbox.globals["raise_exception"] = pytest.fail
    return sandbox.from_string(template).render(messages=messages, tools=tools, add_generation_prompt=True)


def entry(place: str) -> Entry:
    """An entry whose tools are shown in this place."""
    return next(each for each in catalog.entries().values() if each.chat_template.tools == place)


@pytest.mark.parametrize("place", ["system", "user"])
@pytest.mark.parametrize("own", [CHATML, ALTERNATING])
def test_a_prompt_without_tools_is_the_models_own(place: str, own: str) -> None:
    """Without tools the prompt is, to the byte, what the model's own template makes."""
    messages = [QUESTION, {"role": "assistant", "content": "  Warm.\n"}, QUESTION]
    assert render(chat_template.combined(entry(place), own), messages) == render(own, messages)


def test_tools_are_described_in_a_system_message() -> None:
    """A model with a system role gets the tools there, in front of what the system message said."""
    template = chat_template.combined(entry("system"), CHATML)
    alone = render(template, [QUESTION], TOOLS)
    assert alone.startswith("<|system|>You can call these functions")
    assert json.dumps(TOOLS[0]) in alone
    assert alone.endswith("<|user|>How warm is it?<|end|>\n<|assistant|>")
    both = render(template, [{"role": "system", "content": "Be kind."}, QUESTION], TOOLS)
    assert both.count("<|system|>") == 1
    assert "</tool_call>\n\nBe kind.<|end|>" in both


def test_tools_are_described_to_a_model_without_system_role() -> None:
    """A model that knows user and assistant alone gets the tools in the first user message."""
    shown = render(chat_template.combined(entry("user"), ALTERNATING), [QUESTION], TOOLS)
    assert shown.startswith("[user] You can call these functions")
    assert shown.rstrip().endswith("How warm is it?")


@pytest.mark.parametrize("place", ["system", "user"])
def test_calls_and_results_become_texts(place: str) -> None:
    """Past calls are shown as the model would write them, and results in a row as one user message, in order."""
    template = chat_template.combined(entry(place), CHATML)
    shown = render(template, [QUESTION, ASKED, *RESULTS, {"role": "assistant", "content": "12 and 15."}])
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert f"<|assistant|>{call}\n{call}<|end|>" in shown
    results = "<tool_response>\n12 degrees\n</tool_response>\n<tool_response>\n15 degrees\n</tool_response>"
    assert f"<|user|>{results}<|end|>" in shown
    assert shown.endswith("<|assistant|>12 and 15.<|end|>\n<|assistant|>")


def test_roles_still_alternate() -> None:
    """A conversation with tools passes a template that insists on user and assistant in turns."""
    template = chat_template.combined(entry("user"), ALTERNATING)
    shown = render(template, [QUESTION, ASKED, *RESULTS], TOOLS)
    assert shown.count("[user]") == 2
    assert shown.count("[assistant]") == 1


def test_arguments_that_are_text_are_shown_as_they_are() -> None:
    """OpenAI's clients send arguments as a JSON text; it is not quoted a second time."""
    call = {"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    message = {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    shown = render(chat_template.combined(entry("system"), CHATML), [QUESTION, message])
    assert 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>' in shown


def test_the_models_own_template_is_found(tmp_path: Path) -> None:
    """It is taken from `chat_template.jinja` first, then from the tokenizer's configuration, in both of its forms."""
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "A"}, {"name": "b"}]}))
    assert checkpoint.own_template(tmp_path) == "A"
    config.write_text(json.dumps({"chat_template": "B"}))
    assert checkpoint.own_template(tmp_path) == "B"
    (tmp_path / "chat_template.jinja").write_text("C")
    assert checkpoint.own_template(tmp_path) == "C"


@pytest.mark.parametrize("text", ["{}", '{"chat_template": ""}', '{"chat_template": [1, {"name": "rag"}]}', None])
def test_a_model_without_template_is_refused(tmp_path: Path, text: str | None) -> None:
    """Without a chat template no chat can be served: said at preparation, with the mend."""
    if text is not None:
        (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"holds no chat template\. Copy"):
        checkpoint.own_template(tmp_path)
