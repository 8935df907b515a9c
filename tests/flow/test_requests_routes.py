"""Paths and methods that are not ours: 404 or 405, without a new metric series, and the engine hears nothing."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable, Iterator

import pytest

from fakes.engine import FakeEngine
from support.house import House, until
from support.refusal import Ledger, Visit
from support.wire import Wire, chat_request, request

ENGINE_ROUTES = [
    "/invocations", "/ping", "/load", "/health", "/version", "/metrics", "/docs", "/redoc", "/openapi.json",
    "/collective_rpc", "/update_weights", "/init_weight_transfer_engine", "/pause", "/resume", "/is_paused",
    "/sleep", "/wake_up", "/is_sleeping", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache",
    "/inference/v1/generate", "/inference/v1/abort_requests", "/abort_requests", "/generate",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/start_profile", "/stop_profile", "/server_info",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/detokenize", "/tokenizer_info",
    "/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
    "/v1/responses", "/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/messages", "/v1/realtime",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1/chat/completions/render",
    "/v1/images/generations", "/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/engines", "/v1/moderations",
]  # fmt: skip

OTHER_PATHS = [
    "/", "/v1", "/v1/", "/v2/models", "/api/v1/models", "/chat/completions", "/v1/completions/", "/v1/chat",
    "/v1/chat/completions/", "/V1/models", "/v1/Models", "/v1/models/",
    # Written in another way
    "/v1%2fmodels", "/v1%2Fmodels", "//v1/models", "/v1//models", "///v1/models", "/./v1/models", "/v1/./models",
    "/v1/x/..", "/v1/x/../models", "/../v1/models", "/v1/%2e%2e/v1/models", "/%76%31/models", "/v1/models%00",
    "/v1/models%0d%0aX-A:%20b", "/v1/models;a=b", "/v1\\models", "/v1/models%20", "/v1/models/%2e%2e/chat/completions",
    "/v1/models/%", "/v1/models/%zz", "/v1/models/%c0%af", "/v1/models/a%00", "/v1/models/a%250a", "/v1/models/a*",
    "/v1/models?x/../../admin/", "/v1/chat/completions%3F",
    # Of others
    "/.env", "/.git/config", "/admin", "/console", "/livez", "/readyz", "/server-status", "/wp-login.php",
    "/latest/meta-data/", "/etc/passwd", "/cgi-bin/%2e%2e/bin/sh", "/@fs/etc/passwd", "/" + "a" * 8000,
]  # fmt: skip


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One request to come."""
    return Visit(house, engine)


@pytest.mark.parametrize("path", ENGINE_ROUTES)
def test_a_route_of_the_engine_that_is_not_ours_is_not_there(path: str, visit: Visit) -> None:
    """What vLLM serves beside our routes cannot be reached through the server, by any method, with a key."""
    ours = chat_request(visit.key, b"{}")
    answer = visit.send(ours.replace(b"/v1/chat/completions", path.encode()))
    visit.refused(answer, 404, "not_found", param=None, unlike=(path,))
    with visit.wire() as wire:
        for method in ("GET", "PUT", "DELETE"):
            wire.send(request(method, path, f"Authorization: Bearer {visit.key}"))
            answer = wire.answer()
            visit.recorded(answer, "not_found")
            assert answer.status_code == 404
    assert visit.engine.calls == []


@pytest.mark.parametrize("path", [path for path in OTHER_PATHS if "?" not in path])
def test_a_path_that_is_not_ours_is_not_there(path: str, visit: Visit) -> None:
    """Another path, or ours written in another way, is 404: nothing is decoded, merged or resolved before matching."""
    answer = visit.send(request("GET", path, f"Authorization: Bearer {visit.key}"))
    visit.refused(answer, 404, "not_found", param=None, unlike=(path,) if len(path) > 3 else ())


def test_a_query_does_not_change_the_route(visit: Visit) -> None:
    """What stands behind a question mark is not looked at."""
    for target in ("/v1/models?x/../../admin/", "/v1/models?", "/v1/models?api-version=1&a=%00%0d%0a"):
        assert visit.send(request("GET", target, f"Authorization: Bearer {visit.key}")).status_code == 200


@pytest.mark.parametrize(
    "name", ["other", "..", "../chat/completions", "a/b/c", "a%2Fb", "@latest", "http://evil.example", "small/"]
)
def test_a_model_that_is_not_served_is_not_found(name: str, visit: Visit) -> None:
    """A model's name is looked up as it is, slashes and all; it is no path and no address."""
    answer = visit.send(request("GET", f"/v1/models/{name}", f"Authorization: Bearer {visit.key}"))
    visit.refused(answer, 404, "model_not_found", param="model", unlike=(name,) if len(name) > 2 else ())


METHODS = [
    "GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "LOCK", "SEARCH", "PURGE",
    "M-SEARCH", "QUERY", "LINK", "REPORT", "ACL", "BIND", "SOURCE",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("path", "allow"), [("/v1/chat/completions", "POST"), ("/v1/completions", "POST"), ("/v1/models", "GET"),
                        ("/v1/models/small", "GET")],
)  # fmt: skip
def test_a_method_that_a_route_does_not_take_is_refused(method: str, path: str, allow: str, visit: Visit) -> None:
    """Every registered method but the route's own is 405 and says which is allowed; HEAD gets no body."""
    wanted = "POST" if method == allow else method
    answer = visit.send(request(wanted, path, f"Authorization: Bearer {visit.key}"))
    assert answer.headers["allow"] == allow
    visit.refused(answer, 405, "method_not_allowed", param=None)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/nothing"])
def test_head_gets_no_body(path: str, visit: Visit) -> None:
    """HEAD is refused like any method that a route does not take, without a body, and the connection goes on."""
    with visit.wire() as wire:
        wire.send(request("HEAD", path))
        head = wire.head()
        visit.recorded(head, "not_found" if path == "/nothing" else "method_not_allowed")
        assert head.status_code == (404 if path == "/nothing" else 405)
        assert int(head.headers["content-length"]) > 0
        wire.send(request("PUT", path))
        visit.refused(wire.answer(), head.status_code, "not_found" if path == "/nothing" else "method_not_allowed")


def test_a_cross_origin_question_is_not_answered(visit: Visit) -> None:
    """No page of another origin may call: a preflight is 405, and nothing speaks of origins."""
    asks = ("Origin: https://evil.example", "Access-Control-Request-Method: POST")
    answer = visit.send(request("OPTIONS", "/v1/chat/completions", *asks))
    visit.refused(answer, 405, "method_not_allowed", unlike=("evil",))
    assert not [name for name in answer.headers if name.startswith("access-control")]


def series(house: House) -> set[str]:
    """The names of all series of the server's own, with their labels."""
    return set(re.findall(r"^(vestry_\S+?(?:\{.*\})?) ", house.metrics(), re.MULTILINE))


def test_random_methods_and_paths_make_no_series(house: House, engine: FakeEngine) -> None:
    """Thousands of methods and paths are each 404, 405 or 400; the metrics have no more series than after a few."""
    dice = random.Random(7)
    ledger = Ledger(house)
    letters = string.ascii_letters + string.digits + "-._~/%!$&'()*+,;=:@\\|^[]{}<>`"
    words = ["v1", "models", "chat", "completions", "..", ".", "", "small", "%2f", "%00", "admin", "\\"]
    methods = [*METHODS, "HEAD", "POST", "FOO", "get", "X" * 30]

    def throw(requests: Iterable[tuple[str, str]]) -> int:
        """Send them one after another, on a connection for as long as it lasts; how many were refused."""
        refused = 0
        wire = Wire(house.port)
        for method, path in requests:
            wire.send(request(method, path, f"User-Agent: {method}{path}", f"X-Request-Id: {path}"))
            answer = wire.head() if method == "HEAD" else wire.answer()
            assert answer.status_code in (401, 404, 405), (method, path)
            refused += 1
            if answer.headers.get("connection") == "close":
                wire.close()
                wire = Wire(house.port)
        wire.close()
        return refused

    def dreamt(number: int) -> Iterator[tuple[str, str]]:
        for _ in range(number):
            parts = [dice.choice(words) for _ in range(dice.randrange(6))]
            made_up = "".join(dice.choices(letters, k=dice.randrange(40)))
            yield dice.choice(methods), "/" + dice.choice(("/".join(parts), made_up))

    start = ledger.look()
    ours = ("/v1/models", "/v1/models/small", "/v1/chat/completions", "/v1/completions", "/nothing")
    refused = throw((method, path) for path in ours for method in ("GET", "POST", "PUT", "FOO"))
    known = series(house)
    refused += throw(dreamt(3000))
    assert series(house) == known
    assert len(known) < 400
    until(lambda: ledger.look() - start >= refused, what="a record of every refusal")
    assert ledger.look() - start == refused
    assert len(ledger.single) < refused / 2, "a flood was not summed"
    assert engine.calls == []
    Visit(house, engine).well()
