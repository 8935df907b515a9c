"""Every refusal: a status, a code, OpenAI's shape, and headers that tell clients what to do next."""

from __future__ import annotations

import json

import pytest

from vestry import errors
from vestry.errors import Refusal


def every(kind: type[Refusal] = Refusal) -> list[type[Refusal]]:
    """A class of refusals and all below it."""
    return [kind, *(found for below in kind.__subclasses__() for found in every(below))]


def made(kind: type[Refusal]) -> Refusal:
    """One of each."""
    if kind is errors.MethodNotAllowed:
        return errors.MethodNotAllowed("GET")
    return kind("closed") if issubclass(kind, errors.EngineFailed) else kind()


@pytest.mark.parametrize("kind", [each for each in every() if each.__module__ == "vestry.errors"])
def test_every_refusal_has_openais_shape(kind: type[Refusal]) -> None:
    """Status, type, code and message are there, and the message is a sentence."""
    refusal = made(kind)
    body = json.loads(refusal.body())
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert 400 <= refusal.status < 600
    assert body["error"]["code"] == refusal.code
    assert body["error"]["message"] == refusal.reason
    assert refusal.reason.endswith(".")
    assert refusal.code.replace("_", "").isalpha()
    assert refusal.code.islower()


def test_a_code_means_one_status() -> None:
    """The metrics and the record go by the code; it never stands for two statuses."""
    statuses: dict[str, int] = {}
    for kind in every():
        assert statuses.setdefault(kind.code, kind.status) == kind.status


def test_retry_after_is_whole_seconds_and_never_too_few() -> None:
    """RFC 9110 section 10.2.3 wants whole seconds: rounded up, at least one, so that waiting them is enough."""
    assert (b"retry-after", b"1") in errors.RateLimited(retry_after=0.01).headers()
    assert (b"retry-after", b"3") in errors.RateLimited(retry_after=2.001).headers()
    assert errors.RateLimited().headers() == []


def test_headers_tell_whether_to_retry_and_whether_the_connection_closes() -> None:
    """OpenAI's clients obey x-should-retry; a refusal that leaves the connection in doubt closes it."""
    assert (b"x-should-retry", b"false") in errors.AuditUnavailable().headers()
    assert (b"connection", b"close") in errors.RequestTimeout().headers()
    assert (b"www-authenticate", b"Bearer") in errors.InvalidKey().headers()
    assert (b"allow", b"GET") in errors.MethodNotAllowed("GET").headers()
    assert errors.NotFound().headers() == []


def test_a_cause_may_ask_for_a_retry() -> None:
    """A refusal may also say that a retry is worth while."""

    class Passing(Refusal):
        retry = True

    assert (b"x-should-retry", b"true") in Passing().headers()


@pytest.mark.parametrize(("reason", "said"), [("No.", "No (`top_p`)."), ("No `top_p` here.", "No `top_p` here.")])
def test_param_names_a_field_and_so_does_the_message(reason: str, said: str) -> None:
    """What the record has for a reason is what the client reads, and the field once."""
    refusal = errors.InvalidRequest(reason, param="top_p")
    error = json.loads(refusal.body())["error"]
    assert (error["param"], error["message"], refusal.reason) == ("top_p", said, reason)


def test_an_engines_failure_knows_its_cause() -> None:
    """Routing and metrics go by the cause."""
    assert errors.EngineFailed("connect").cause == "connect"
    assert errors.EngineTimeout("timeout").status == 504
