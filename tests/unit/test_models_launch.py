"""How an engine is started: nothing unsafe in its arguments, nothing secret where others see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.engines import SMALL, config_of, install_engine, put_model
from vestry.models import catalog
from vestry.models.catalog import ModelError
from vestry.models.chosen import choose
from vestry.models.launch import GUARD, KEY, Launch, plan
from vestry.models.places import Places
from vestry.settings.tree import Settings

SECRET = "a-secret-that-nobody-may-see"


def planned(state: Path, model: str = SMALL, environ: dict[str, str] | None = None, **settings: object) -> Launch:
    """The launch of a model with these settings of its own."""
    tree = Settings.model_validate({"state": state, "models": {model: settings}})
    return plan(tree, choose(tree, model), SECRET, environ or {})


@pytest.fixture
def ready(tmp_path: Path) -> Places:
    """An engine environment and a prepared model."""
    places = install_engine(tmp_path / "state")
    put_model(places)
    return places


def values(launch: Launch) -> dict[str, str]:
    """Each argument's value, where it has one."""
    return dict(zip(launch.argv, launch.argv[1:], strict=False))


def test_the_safe_arguments_are_always_there(ready: Places) -> None:
    """Address, name, format, guard, shutdown and prefix caching are as they have to be."""
    launch = planned(ready.state, engine={"port": 8155, "shutdown_seconds": 12.4})
    named = values(launch)
    assert named["--host"] == "127.0.0.1"
    assert named["--port"] == "8155"
    assert launch.url == "http://127.0.0.1:8155"
    assert named["--model"] == str(ready.model(catalog.entry(SMALL)))
    assert named["--served-model-name"] == SMALL
    assert named["--load-format"] == "safetensors"
    assert named["--middleware"] == "vestry_guard.Guard"
    assert named["--shutdown-timeout"] == "12"
    assert named["--max-model-len"] == "8192"
    assert {
        "--no-trust-remote-code",
        "--enable-prefix-caching",
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
        "--enable-auto-tool-choice",
    } <= set(launch.argv)
    assert "--trust-remote-code" not in launch.argv


def test_a_short_shutdown_is_still_a_graceful_one(ready: Places) -> None:
    """vLLM drops calls in progress if its shutdown timeout is 0, so it is 1 s at least."""
    assert values(planned(ready.state, engine={"shutdown_seconds": 0.2}))["--shutdown-timeout"] == "1"


def test_the_key_is_in_the_environment_alone(ready: Places) -> None:
    """Arguments can be read by every user of the machine: the key is not among them."""
    launch = planned(ready.state)
    assert launch.environment[KEY] == SECRET
    assert SECRET not in " ".join(launch.argv)


def test_the_environment_is_made_anew(ready: Places) -> None:
    """Of this process's variables only those pass that an engine needs; none can loosen what is set here."""
    environ = {
        "PATH": "/evil",
        "PYTHONPATH": "/evil",
        "LD_PRELOAD": "/evil.so",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "VLLM_API_KEY": "another",
        "HF_HUB_OFFLINE": "0",
        "AWS_SECRET_ACCESS_KEY": "x",
        "VESTRY_API_KEY": "x",
        "CUDA_VISIBLE_DEVICES": "1",
        "LANG": "C.UTF-8",
    }
    made = planned(ready.state, environ=environ).environment
    assert made["CUDA_VISIBLE_DEVICES"] == "1"
    assert made["LANG"] == "C.UTF-8"
    assert made["PYTHONPATH"] == str(GUARD)
    assert made["HF_HUB_OFFLINE"] == made["TRANSFORMERS_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == "1"
    assert made["DO_NOT_TRACK"] == made["PYTHONSAFEPATH"] == "1"
    assert made[KEY] == SECRET
    assert "evil" not in "".join(made.values())
    assert not {"LD_PRELOAD", "VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VESTRY_API_KEY"} & set(made)
    assert not {"AWS_SECRET_ACCESS_KEY", "VLLM_ALLOW_INSECURE_SERIALIZATION"} & set(made)


def test_the_operators_arguments_come_last(ready: Places) -> None:
    """An operator's argument stands after the catalog's, so that it holds; the context is given once."""
    arguments = ("--kv-cache-memory-bytes", "99", "--max-model-len=512")
    launch = planned(ready.state, engine={"arguments": arguments})
    assert values(launch)["--kv-cache-memory-bytes"] == "99"
    assert launch.argv.count("--max-model-len") == 1
    assert values(launch)["--max-model-len"] == "512"


def test_unsafe_arguments_start_nothing(ready: Places) -> None:
    """An unsafe argument in the settings is refused before anything is started."""
    with pytest.raises(ModelError, match="it would run code that comes with a model"):
        planned(ready.state, engine={"arguments": ("--trust-remote-code",)})


def test_a_model_name_cannot_leave_the_log_folder(ready: Places) -> None:
    """A name with slashes and dots becomes one file name in the log folder."""
    launch = planned(ready.state, "a/../../etc/x", catalog=SMALL)
    assert launch.log == ready.logs / "engine-a_.._.._etc_x.log"


def test_a_missing_environment_says_how_to_make_it(tmp_path: Path) -> None:
    """Without an engine environment the sentence names the command that makes it."""
    with pytest.raises(ModelError, match=r"no engine environment in .*`vestry up`"):
        planned(tmp_path)


def test_a_model_that_is_not_prepared_says_how_to_prepare_it(tmp_path: Path) -> None:
    """A packaged model is prepared by `vestry up`; others are brought by the operator, and the sentence says where."""
    places = install_engine(tmp_path)
    with pytest.raises(ModelError, match="Run `vestry up` to prepare it"):
        planned(tmp_path)
    with pytest.raises(ModelError, match=r"Copy microsoft/Phi-3-mini-4k-instruct \(revision 0a67.*sources/phi-3"):
        planned(tmp_path, "phi-3-mini-4k-instruct")
    source = places.source(catalog.entry("phi-3-mini-4k-instruct"))
    source.mkdir(parents=True)
    (source / "model.safetensors").touch()
    with pytest.raises(ModelError, match="Run `vestry up` to prepare it"):
        planned(tmp_path, "phi-3-mini-4k-instruct")


def test_a_damaged_model_is_not_started(ready: Places) -> None:
    """A prepared folder that differs from its manifest is refused, with the file and the mend."""
    (ready.model(catalog.entry(SMALL)) / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"has 0 bytes where the manifest says 7\. Delete .* and prepare"):
        planned(ready.state)


def test_a_model_for_gpus_is_not_started_on_a_cpu(ready: Places) -> None:
    """Mixtral's int8 experts run on a GPU only: said before anything is started."""
    with pytest.raises(ModelError, match=r"`mixtral-8x7b-instruct` needs a GPU with 80 GiB"):
        planned(ready.state, "mixtral-8x7b-instruct")


def test_a_folder_of_the_operators_own_is_served_as_it_is(ready: Places, tmp_path: Path) -> None:
    """`path` names a folder without manifest: it needs a config.json and safetensors, and nothing else."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text(str(config_of(catalog.entry(SMALL))))
    with pytest.raises(ModelError, match="holds no model"):
        planned(ready.state, "mixtral-8x7b-instruct", path=folder)
    (folder / "model.safetensors").touch()
    assert values(planned(ready.state, "mixtral-8x7b-instruct", path=folder))["--model"] == str(folder)


def test_on_a_cpu_the_worker_runs_where_it_is_scheduled(ready: Places) -> None:
    """One process less, and OpenMP is told of its threads; not with several workers or on another machine."""
    one = planned(ready.state)
    assert values(one)["--distributed-executor-backend"] == "uni"
    assert one.environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert int(one.environment["OMP_NUM_THREADS"]) >= 1
    tree = Settings.model_validate({"state": ready.state, "models": {SMALL: {}}})
    for left_to_vllm in (
        planned(ready.state, engine={"arguments": ("--tensor-parallel-size", "2")}),
        plan(tree, choose(tree, SMALL), SECRET, {}, elsewhere=True),
    ):
        assert "--distributed-executor-backend" not in left_to_vllm.argv
        assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"} & set(left_to_vllm.environment)


@pytest.mark.parametrize(("own", "compiles"), [((), False), (("--no-enforce-eager",), True)])
def test_on_a_cpu_nothing_is_compiled(ready: Places, own: tuple[str, ...], compiles: bool) -> None:
    """It would take a compiler, in the middle of a call; only an operator who asks for compilation gets it."""
    tree = Settings.model_validate({"state": ready.state, "models": {SMALL: {"engine": {"arguments": own}}}})
    for elsewhere in (False, True):
        made = plan(tree, choose(tree, SMALL), SECRET, {}, elsewhere=elsewhere)
        assert ("TORCHDYNAMO_DISABLE" not in made.environment) is compiles


@pytest.mark.parametrize(("length", "elsewhere"), [(70, False), (71, True)])
def test_a_long_folder_for_temporary_files_is_none_for_sockets(ready: Places, length: int, elsewhere: bool) -> None:
    """vLLM puts sockets into it, whose names have 107 bytes at most: it would die of a longer one at each start."""
    folder = "/".ljust(length - 1, "x") + "/"
    made = planned(ready.state, environ={"TMPDIR": folder}).environment
    assert made["TMPDIR"] == folder
    assert made.get("VLLM_RPC_BASE_PATH") == ("/tmp" if elsewhere else None)


def test_a_gpu_gets_its_own_arguments(tmp_path: Path) -> None:
    """On a GPU nothing of the CPU's arguments is left: it compiles, without CUDA's compiler, and memory is a share."""
    places = install_engine(tmp_path, device="gpu")
    put_model(places)
    launch = planned(tmp_path)
    assert "--enforce-eager" not in launch.argv
    assert "--kv-cache-memory-bytes" not in launch.argv
    assert values(launch)["--gpu-memory-utilization"] == "0.5"
    assert "--distributed-executor-backend" not in launch.argv
    assert values(launch)["--dtype"] == "float16"
    assert launch.environment["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "TORCHDYNAMO_DISABLE"} & set(launch.environment)
