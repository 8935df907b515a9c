"""What an operator may say to an engine: its address, and arguments of vLLM from a list of harmless ones.

A list of dangerous arguments would be out of date with the next release of vLLM, and its parser takes
abbreviations, underscores and dotted names; so it is the harmless ones that are listed, in full.
"""

from __future__ import annotations

import re

from vestry.models.catalog import Entry, ModelError
from vestry.settings.section import address_of, is_private

TUNABLE = frozenset(
    {
        "--async-scheduling",
        "--attention-backend",
        "--block-size",
        "--cpu-offload-gb",
        "--disable-custom-all-reduce",
        "--dtype",
        "--enable-chunked-prefill",
        "--enable-expert-parallel",
        "--enforce-eager",
        "--gpu-memory-utilization",
        "--kv-cache-dtype",
        "--kv-cache-memory-bytes",
        "--max-logprobs",
        "--max-model-len",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--no-async-scheduling",
        "--no-enable-chunked-prefill",
        "--no-enable-prefix-caching",
        "--no-enforce-eager",
        "--pipeline-parallel-size",
        "--quantization",
        "--scheduling-policy",
        "--seed",
        "--tensor-parallel-size",
    }
)
SWITCHES = frozenset(
    {
        "--async-scheduling",
        "--disable-custom-all-reduce",
        "--enable-chunked-prefill",
        "--enable-expert-parallel",
        "--enforce-eager",
        *(name for name in TUNABLE if name.startswith("--no-")),
    }
)
VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
REASONS = {
    "--trust-remote-code": "it would run code that comes with a model",
    "--load-format": "only safetensors are loaded: other formats can run code",
    "--model-loader-extra-config": "only safetensors are loaded: other formats can run code",
    "--host": "the address is a setting of its own, `engine.host`",
    "--port": "the port is a setting of its own, `engine.port`",
    "--api-key": "the key is made and passed on by Vestry, never as an argument",
    "--model": "the model is a setting of its own, `path`",
    "--tokenizer": "the tokenizer is the model's own",
    "--served-model-name": "the name is the one under `models`",
    "--chat-template": "the chat template is the model's own",
    "--middleware": "it would load code into the engine",
    "--tool-parser-plugin": "it would load code into the engine",
    "--reasoning-parser-plugin": "it would load code into the engine",
    "--config": "a second file could set anything",
    "--enable-lora": "adapters are not served yet",
    "--enable-log-requests": "it would write prompts to a log",
    "--enable-log-outputs": "it would write answers to a log",
    "--shutdown-timeout": "the time is a setting of its own, `engine.shutdown_seconds`",
    "--allowed-local-media-path": "it would let requests read files of this machine",
    "--tool-server": "it would let the model run tools on this machine",
}


def address(host: str, port: int) -> str:
    """The engine's URL. Raises ModelError for an address that strangers could reach, and for port 0."""
    found = address_of("127.0.0.1" if host == "localhost" else host)
    if found is None:
        raise ModelError(f"`engine.host` is `{host}`: write the IP address of a loopback or private interface.")
    if not is_private(found):
        raise ModelError(f"`engine.host` is `{host}`: an engine listens on a loopback or private address only.")
    if port == 0:
        raise ModelError("`engine.port` is 0: give the engine a port, so that the server can find it.")
    return f"http://[{found}]:{port}" if found.version == 6 else f"http://{found}:{port}"


def checked(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The operator's own arguments, as `--name value` pairs. Raises ModelError for one that is not allowed."""
    accepted: list[str] = []
    waiting = list(arguments)
    while waiting:
        name, given, value = waiting.pop(0).partition("=")
        name = name.replace("_", "-")
        if name not in TUNABLE:
            base = name.split(".", 1)[0].replace("--no-", "--", 1)
            reason = REASONS.get(name) or REASONS.get(base) or "it is not among those known to be safe"
            raise ModelError(
                f"`engine.arguments`: `{name}` is refused: {reason}. Allowed: {', '.join(sorted(TUNABLE))}."
            )
        accepted.append(name)
        if name in SWITCHES:
            if given:
                raise ModelError(f"`engine.arguments`: `{name}` takes no value.")
            continue
        if not given:
            value = waiting.pop(0) if waiting else ""
        if not VALUE.fullmatch(value):
            raise ModelError(f"`engine.arguments`: `{name}` needs a plain value, a word or a number.")
        accepted.append(value)
    return tuple(accepted)


def context_length(entry: Entry, arguments: tuple[str, ...]) -> int:
    """Tokens that one call may hold: the catalog's, or what `--max-model-len` says. Raises ModelError."""
    found = checked(arguments)
    given = [found[place + 1] for place, name in enumerate(found) if name == "--max-model-len"]
    if not given:
        return entry.context_length
    if not given[-1].isdecimal() or not 1 <= int(given[-1]) <= entry.context_length:
        raise ModelError(f"`--max-model-len` needs a number from 1 to {entry.context_length}, the model's own context.")
    return int(given[-1])


def without_context(arguments: tuple[str, ...]) -> tuple[str, ...]:
    kept = list(arguments)
    while "--max-model-len" in kept:
        place = kept.index("--max-model-len")
        del kept[place : place + 2]
    return tuple(kept)
