"""What the README and the guide for contributors tell you to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.house import House
from vestry.configuration.reading import load
from vestry.models.arguments import context_length
from vestry.models.chosen import choose

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SERVED_AT = "http://127.0.0.1:8080"
MODEL = "smollm2-135m-instruct"
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(text: str) -> None:
    """A `make` that is named is a target of the Makefile, and one that `make help` lists."""
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks(text, "sh")) + "".join(re.findall(r"`[^`]+`", text))))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


def test_every_make_target_is_told() -> None:
    """What one may call stands in the guide for contributors or in the README; the others are steps of these."""
    offered = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)) - {"help", "tests-environment", "packages"}
    assert offered <= set(re.findall(r"\bmake ([a-z-]+)", README + CONTRIBUTING))


def test_the_readmes_call_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of the README, pointed at a server of the tests, prints the answer."""
    [snippet] = blocks(README, "python")
    assert snippet.count(SERVED_AT) == 1
    with FakeEngine(MODEL) as engine, House(tmp_path, [engine], models={MODEL: {}}) as house:
        monkeypatch.setenv("OPENAI_API_KEY", house.key)
        code = compile(snippet.replace(SERVED_AT, house.url), "README.md", "exec")
        exec(code, {"__name__": "readme"})
        assert engine.calls[0].json["temperature"] == 0
    assert capsys.readouterr().out == "The capital of France is Paris.\n"


def test_the_readmes_commands_name_what_is_there() -> None:
    """Addresses, files and folders in the README's commands are those of a server with default settings."""
    settings = load(None, {})
    assert f"http://{settings.server.host}:{settings.server.port}" == SERVED_AT
    operations = f"http://{settings.server.ops_host}:{settings.server.ops_port}/metrics"
    assert operations in README
    assert f"{settings.audit_directory}/{settings.audit.origin}/*.jsonl" in README
    assert MODEL in settings.models
    for folder in re.findall(r"`(deploy/[\w/]+)`", README):
        assert (ROOT / folder).is_dir()


MODELS = blocks((ROOT / "docs" / "bring-a-model.md").read_text(encoding="utf-8"), "yaml")


@pytest.mark.parametrize("block", MODELS)
def test_settings_for_models_are_valid(block: str, tmp_path: Path) -> None:
    """What the page about models shows loads, each model has its catalog entry, and its arguments are accepted."""
    path = tmp_path / "vestry.yaml"
    path.write_text(block)
    settings = load(path, {})
    assert settings.models
    for name in settings.models:
        chosen = choose(settings, name)
        context_length(chosen.entry, chosen.model.engine.arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_in_pages_is_well_formed(page: Path) -> None:
    """Python compiles, and the words of a shell command are quoted in pairs."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        compile(block, page.name, "exec")
    for block in blocks(text, "sh"):
        shlex.split(block.replace("\\\n", " "), comments=True)
