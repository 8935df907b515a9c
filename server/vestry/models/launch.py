"""How an engine is started: the exact program, its environment, and where its output goes.

What vLLM may not do here: listen beyond loopback and private addresses, run code that comes with a model
(`trust_remote_code`, pickled weights), reach the network, tell anybody about its use, log prompts, or answer
without its key. The operator's own arguments (`engine.arguments`) come from a list of known harmless ones.
Arguments are seen by every user of the machine, so the key travels in the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from msgspec import Struct

from vestry.models import compiler, cores, environment, manifest, prepare, sources
from vestry.models.arguments import address, checked, context_length, without_context
from vestry.models.catalog import Device, Entry, ModelError
from vestry.models.chosen import Chosen
from vestry.models.places import Places
from vestry.settings.tree import Settings

GUARD = Path(str(files("vestry.models") / "guard"))
PROGRAM = ("-m", "vllm.entrypoints.openai.api_server")
COMPILING = "--no-enforce-eager"
KEY = "VLLM_API_KEY"
KEEP_ALIVE_SECONDS = 120
UNCOMPILED = {"TORCHDYNAMO_DISABLE": "1"}
"""PyTorch compiles nothing: vLLM compiles a few functions when they are first called, even where it runs eagerly. For
a CPU that takes a C++ compiler, ten seconds of the first call for log probabilities; without one the engine dies of it.
"""

PASSED_ON = re.compile(
    r"LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|NVIDIA_.*|NCCL_.*|OMP_NUM_THREADS"
    r"|VLLM_CPU_OMP_THREADS_BIND|VLLM_LOGGING_LEVEL"
)
SOCKETS = "VLLM_RPC_BASE_PATH"
SHORT = Path("/tmp")  # noqa: S108 - what vLLM makes there has names that nobody guesses
LONGEST = 107 - len("/01234567-89ab-cdef-0123-456789abcdef")
"""Bytes of a folder for sockets: that is how vLLM names them, and how long a socket's name may be (unix(7))."""


class Launch(Struct, frozen=True):
    """An engine about to be started. `environment` holds the engine's key; nothing else of this is secret."""

    model: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    url: str
    log: Path
    startup_seconds: float
    shutdown_seconds: float


def plan(
    settings: Settings, chosen: Chosen, key: str, environ: Mapping[str, str], *, elsewhere: bool = False
) -> Launch:
    """All that starting this model's engine takes: here, or on a machine whose processors are not known. Raises
    ModelError.
    """
    places = Places(settings.state)
    stamp = environment.require(places.engine)
    engine = chosen.model.engine
    entry, own = chosen.entry, checked(engine.arguments)
    if chosen.model.path is None and stamp.device not in entry.devices:
        raise ModelError(f"`{entry.name}` needs a GPU with {entry.memory.gpu} GiB; this engine environment has none.")
    folder = chosen.folder(places)
    _check_files(chosen, places)
    url = address(engine.host, engine.port)
    host, _, port = url.removeprefix("http://").rpartition(":")
    together = stamp.device == "cpu" and not elsewhere and cores.together(own, environ)
    argv = (
        os.fspath(environment.python_of(places.engine)),
        *PROGRAM,
        *("--model", os.fspath(folder), "--served-model-name", chosen.name),
        *("--host", host.strip("[]"), "--port", port),
        *("--max-model-len", str(context_length(entry, engine.arguments))),
        *fixed(entry, engine.shutdown_seconds),
        *entry.arguments_for(stamp.device),
        *device_arguments(stamp.device),
        *(cores.TOGETHER if together else ()),
        *without_context(own),
    )
    log = places.logs / f"engine-{re.sub(r'[^A-Za-z0-9._-]', '_', chosen.name)}.log"
    made = _environment(places, key, environ) | (cores.environment(environ) if together else {})
    if len(os.fsencode(environ.get("TMPDIR", ""))) > LONGEST:
        made[SOCKETS] = os.fspath(SHORT)
    made |= UNCOMPILED if stamp.device == "cpu" and COMPILING not in own else {}
    return Launch(chosen.name, argv, made, url, log, engine.startup_seconds, engine.shutdown_seconds)


def fixed(entry: Entry, shutdown_seconds: float) -> tuple[str, ...]:
    """The arguments that every engine gets: safety first, then what the API needs."""
    return (
        *("--load-format", "safetensors", "--no-trust-remote-code"),
        *("--middleware", "vestry_guard.Guard", "--disable-fastapi-docs"),
        *("--disable-uvicorn-access-log", "--no-enable-log-requests", "--uvicorn-log-level", "warning"),
        *("--shutdown-timeout", str(max(1, round(shutdown_seconds)))),
        *("--enable-prefix-caching", "--enable-prompt-tokens-details"),
        *("--enable-auto-tool-choice", "--tool-call-parser", entry.tool_parser, "--tool-strict-level", "parameter"),
        *("--chat-template-content-format", "string"),
    )


def device_arguments(device: Device) -> tuple[str, ...]:
    """On a CPU: no compilation, which costs minutes at the start, and the one 16-bit type that CPUs compute in."""
    return ("--enforce-eager", "--dtype", "bfloat16") if device == "cpu" else ()


def require_weights(chosen: Chosen, places: Places) -> None:
    """Raises ModelError where there is neither a model that could be served, nor one that could be prepared."""
    if chosen.model.path is not None:
        _check_files(chosen, places)
    elif prepare.ready(chosen.entry, places) is None and not sources.at_hand(chosen.entry, places):
        raise ModelError(prepare.missing_source(chosen.entry, places))


def _check_files(chosen: Chosen, places: Places) -> None:
    """The model's files are there, whole by their sizes. Raises ModelError."""
    folder, entry = chosen.folder(places), chosen.entry
    named = f"Put the whole model there, or look at `models.{chosen.name}.path`" if chosen.model.path else None
    found = manifest.read(folder)
    if found is not None:
        faults = manifest.check(folder, found, thorough=False)
        if faults:
            how = named or f"Delete {folder} and prepare the model again (`vestry up`)"
            raise ModelError(f"{faults[0]}. {how}.")
    elif not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        how = named or "Run `vestry up` to prepare it"
        if not named and not sources.at_hand(entry, places):
            how = prepare.missing_source(entry, places)
        raise ModelError(f"{folder} holds no model (config.json and safetensors files). {how.rstrip('.')}.")


def _environment(places: Places, key: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this process's environment but what PASSED_ON names."""
    cache = os.fspath(places.cache)
    return {
        **{name: value for name, value in environ.items() if PASSED_ON.fullmatch(name)},
        "PATH": f"{places.engine / 'bin'}:{compiler.WHERE}",
        "HOME": cache,
        "XDG_CACHE_HOME": cache,
        "HF_HOME": f"{cache}/huggingface",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "VLLM_CONFIG_ROOT": f"{cache}/vllm-config",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",  # compiled code is loaded from there; /tmp may allow none
        "PYTHONPATH": os.fspath(GUARD),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_PLUGINS": "",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # CUDA's nvcc would compile it at the start, and a driver brings none
        "VLLM_DISABLE_LOG_LOGO": "1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        KEY: key,
    }
