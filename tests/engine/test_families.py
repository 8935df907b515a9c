"""Phi-3, Llama 3 and Mixtral on real engines: tiny models made on the spot answer through the whole server.

They are quantized by our quantizer as a whole; where there is no GPU, Mixtral in its attention, without its experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.conftest import HERE, MARKS, Place, run_inside
from support.preparation import SMALL
from vestry.models import catalog, environment
from vestry.models.places import Places
from vestry.models.prepare import INSIDE

pytestmark = MARKS

FAMILIES = {"phi-3": "phi-3-mini-4k-instruct", "llama-3": "llama-3-8b-instruct", "mixtral": "mixtral-8x7b-instruct"}
QUESTION: Any = [{"role": "user", "content": "How warm is it?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "measure",
        "parameters": {
            "type": "object",
            "properties": {"degrees": {"type": "boolean"}},
            "required": ["degrees"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def families(installed: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One server in front of three engines, a tiny model of a family each."""
    folder = tmp_path_factory.mktemp("families")
    tokenizer = installed.model(catalog.entry(SMALL))
    program = str(INSIDE / "quantize.py")
    device = environment.require(installed.engine).device
    run_inside(installed, HERE / "inside" / "families.py", program, str(tokenizer), str(folder), device)
    models = {}
    for family, entry in FAMILIES.items():
        arguments = ["--max-model-len", "256", "--kv-cache-memory-bytes", "67108864"]
        models[family] = {"catalog": entry, "path": str(folder / family), "engine": {"arguments": arguments}}
    place = Place(folder, installed, models)
    try:
        place.wait()
        yield place
    finally:
        place.destroy()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_family_answers(families: Place, family: str) -> None:
    """A model of the family answers in one piece and as a stream, with the same tokens at temperature 0."""
    client = families.client()
    whole = client.chat.completions.create(model=family, messages=QUESTION, temperature=0, max_completion_tokens=8)
    assert whole.model == family
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    stream = client.chat.completions.create(
        model=family, messages=QUESTION, temperature=0, max_completion_tokens=8, stream=True
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == whole.choices[0].message.content


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_family_keeps_to_a_grammar(families: Place, family: str) -> None:
    """Even random weights answer one of two words where nothing else is allowed."""
    answer = families.client().chat.completions.create(
        model=family, messages=QUESTION, extra_body={"structured_outputs": {"choice": ["warm", "cold"]}}
    )
    assert answer.choices[0].message.content in {"warm", "cold"}
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_family_is_shown_tools(families: Place, family: str) -> None:
    """With a tool on offer the prompt is longer by the tool's description, and the call is accepted."""
    client = families.client()
    tokens = []
    offers: list[Any] = [{}, {"tools": [TOOL], "tool_choice": "auto"}]
    for offered in offers:
        answer = client.chat.completions.create(
            model=family, messages=QUESTION, temperature=0, max_completion_tokens=4, **offered
        )
        assert answer.usage is not None
        tokens.append(answer.usage.prompt_tokens)
    assert tokens[1] > tokens[0] + 50


def test_each_family_has_its_own_architecture(families: Place) -> None:
    """The engines really run the three architectures, each with int8 weights."""
    for family, entry in FAMILIES.items():
        log = (families.state / "logs" / f"engine-{family}.log").read_text()
        assert catalog.entry(entry).architecture in log
        assert "compressed-tensors" in log or "compressed_tensors" in log


def test_the_families_are_listed_with_their_own_contexts(families: Place) -> None:
    """All three are in the list of models."""
    assert {model.id for model in families.client().models.list()} == set(FAMILIES)


def test_stopping_three_engines_leaves_nothing(families: Place) -> None:
    """SIGTERM stops the server and all three engines; the exit status is 0, and no process is left."""
    assert families.stop() == (0, {})
