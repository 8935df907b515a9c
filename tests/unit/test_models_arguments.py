"""What an operator may tell an engine, and what is refused with a reason."""

from __future__ import annotations

import pytest

from vestry.models import catalog
from vestry.models.arguments import REASONS, TUNABLE, address, checked, context_length, without_context
from vestry.models.catalog import ModelError

ENTRY = catalog.entry("smollm2-135m-instruct")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--trust-remote-code",),
        ("--trust_remote_code",),
        ("--trust-remote",),
        ("--host", "0.0.0.0"),
        ("--host=0.0.0.0",),
        ("--port", "1"),
        ("--uds", "/tmp/x"),
        ("--api-key", "x"),
        ("--load-format", "pt"),
        ("--load-format=tensorizer",),
        ("--model-loader-extra-config", "{}"),
        ("--model-loader-extra-config.x", "1"),
        ("--enable-lora",),
        ("--lora-modules", "a=b"),
        ("--config", "/tmp/x.yaml"),
        ("--middleware", "os.system"),
        ("--tool-parser-plugin", "/tmp/x.py"),
        ("--chat-template", "/tmp/x"),
        ("--trust-request-chat-template",),
        ("--enable-log-requests",),
        ("--no-disable-fastapi-docs",),
        ("--allowed-local-media-path", "/"),
        ("--download-dir", "/tmp"),
        ("--hf-overrides", "{}"),
        ("--kv-transfer-config", "{}"),
        ("--worker-cls", "x.Y"),
        ("--otlp-traces-endpoint", "http://elsewhere"),
        ("--seed", "1", "--trust-remote-code"),
        ("-tp", "2"),
        ("/models/other",),
        ("",),
    ],
)
def test_an_unsafe_argument_is_refused(arguments: tuple[str, ...]) -> None:
    """Whatever is not known to be harmless is refused, in every spelling, and named."""
    with pytest.raises(ModelError, match=r"`engine.arguments`: `.*` is refused: .*Allowed: --"):
        checked(arguments)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_the_reason_is_told(name: str) -> None:
    """An argument whose danger is known is refused with that reason, also in its negated form."""
    with pytest.raises(ModelError) as refused:
        checked((name,))
    assert REASONS[name] in str(refused.value)
    with pytest.raises(ModelError) as refused:
        checked((name.replace("--", "--no-", 1),))
    assert REASONS[name] in str(refused.value)


def test_harmless_arguments_pass_in_every_form() -> None:
    """Names with underscores or hyphens, values after a space or an equals sign, and switches, come out alike."""
    given = ("--max_num_seqs", "8", "--kv-cache-memory-bytes=1048576", "--enforce-eager", "--dtype", "float32")
    assert checked(given) == (
        *("--max-num-seqs", "8", "--kv-cache-memory-bytes", "1048576", "--enforce-eager", "--dtype", "float32"),
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed",), "needs a plain value"),
        (("--seed", "--enforce-eager"), "needs a plain value"),
        (("--dtype", '{"a": 1}'), "needs a plain value"),
        (("--dtype", "a b"), "needs a plain value"),
        (("--dtype=",), "needs a plain value"),
        (("--enforce-eager=1",), "takes no value"),
    ],
)
def test_a_value_is_a_plain_word(arguments: tuple[str, ...], said: str) -> None:
    """A missing value, or one that could be more than a word or a number, is refused."""
    with pytest.raises(ModelError, match=said):
        checked(arguments)


def test_no_tunable_argument_is_also_a_dangerous_one() -> None:
    """The two lists have nothing in common."""
    assert not TUNABLE & set(REASONS)


def test_the_context_is_the_catalogs_or_a_shorter_one() -> None:
    """`--max-model-len` shortens the context that the server promises; it cannot lengthen it."""
    assert context_length(ENTRY, ()) == 8192
    assert context_length(ENTRY, ("--seed", "1", "--max-model-len=512")) == 512
    for wrong in ("0", "8193", "8k", "1e3"):
        with pytest.raises(ModelError, match="from 1 to 8192"):
            context_length(ENTRY, ("--max-model-len", wrong))


def test_the_context_is_given_to_the_engine_once() -> None:
    """The operator's `--max-model-len` is taken out of the other arguments."""
    given = ("--max-model-len", "512", "--seed", "1", "--max-model-len", "256")
    assert without_context(given) == ("--seed", "1")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8100"),
        ("localhost", "http://127.0.0.1:8100"),
        ("10.1.2.3", "http://10.1.2.3:8100"),
        ("::1", "http://[::1]:8100"),
        ("fd00::5", "http://[fd00::5]:8100"),
    ],
)
def test_an_engine_listens_on_private_addresses(host: str, url: str) -> None:
    """Loopback and private addresses become the engine's URL."""
    assert address(host, 8100) == url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8", "2001:4860::1", "169.254.1.1", "engine.example"])
def test_an_engine_listens_nowhere_else(host: str) -> None:
    """Every interface, a public or link-local address, or a name that could mean anything, is refused."""
    with pytest.raises(ModelError, match=r"`engine\.host`"):
        address(host, 8100)


def test_an_engine_has_a_known_port() -> None:
    """Port 0 is refused, since the server could not find the engine."""
    with pytest.raises(ModelError, match=r"`engine\.port` is 0"):
        address("127.0.0.1", 0)
