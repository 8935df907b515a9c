"""Our engine arguments, against vLLM's own parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.conftest import HERE, MARKS, run_inside
from vestry.models import catalog
from vestry.models.arguments import REASONS, SWITCHES, TUNABLE
from vestry.models.catalog import Device
from vestry.models.launch import device_arguments, fixed
from vestry.models.places import Places

pytestmark = MARKS

CASES: list[tuple[str, Device]] = [(name, device) for name in catalog.entries() for device in ("cpu", "gpu")]


def complete(name: str, device: Device) -> list[str]:
    """All arguments that an entry's engine gets on a device."""
    entry = catalog.entry(name)
    where = ["--model", "/nowhere", "--served-model-name", name, "--host", "127.0.0.1", "--port", "8100"]
    context = ["--max-model-len", str(entry.context_length)]
    return [*where, *context, *fixed(entry, 30), *entry.arguments_for(device), *device_arguments(device)]


@pytest.fixture(scope="module")
def answer(installed: Places) -> dict[str, object]:
    """What vLLM's parser says to every entry, and to two lists that it must refuse."""
    lists = [complete(*case) for case in CASES]
    lists += [[*lists[0], "--no-such-argument"], [*lists[0], "--tool-call-parser", "no-such-parser"]]
    said = run_inside(installed, HERE / "inside" / "arguments.py", stdin=json.dumps(lists))
    found: dict[str, object] = json.loads(said[said.index("{") :])
    return found


def test_vllm_accepts_every_entrys_arguments(answer: dict[str, object]) -> None:
    """Each catalog entry's arguments, on each kind of device, are accepted by vLLM's own parser and checks."""
    verdicts = answer["verdicts"]
    assert isinstance(verdicts, list)
    assert dict(zip(CASES, verdicts, strict=False)) == dict.fromkeys(CASES)
    assert "no-such-argument" in verdicts[-2]
    assert "no-such-parser" in verdicts[-1]


def test_what_an_operator_may_set_exists(answer: dict[str, object]) -> None:
    """Every argument that operators may set is one of vLLM's, and is a switch there exactly if it is one here."""
    options = answer["options"]
    assert isinstance(options, dict)
    assert {name: options.get(name) for name in TUNABLE} == {name: name in SWITCHES for name in TUNABLE}


def test_what_is_refused_by_name_exists(answer: dict[str, object]) -> None:
    """The arguments that are refused with a reason of their own are vLLM's: no danger is known by a wrong name."""
    options = answer["options"]
    assert isinstance(options, dict)
    assert set(REASONS) <= set(options)


def test_the_guard_is_where_the_engine_looks() -> None:
    """The middleware that the arguments name is a file that the engine's environment can import."""
    guard = Path(catalog.__file__).parent / "guard" / "vestry_guard.py"
    assert "class Guard" in guard.read_text()
