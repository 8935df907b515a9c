"""Too much, too often, not theirs, not any more: limits and keys in whole calls."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import Behaviour, FakeEngine
from support import forks
from support.house import PEPPER, PLAIN, House, chat, until
from support.outcomes import idle, metric
from support.wire import Wire, chat_request
from vestry.types import Limits

REVOKE = """
import sys
from pathlib import Path
from support.keys import Keys
Keys.of(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])).revoke(sys.argv[3])
"""


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine of its own."""
    with FakeEngine() as engine:
        yield engine


def limited(answer: httpx.Response, status: int = 429, code: str = "rate_limit_exceeded") -> int:
    """Check the refusal; how many seconds it says to wait."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    seconds = int(answer.headers["retry-after"])
    assert 1 <= seconds <= 60
    return seconds


def post(house: House, key: str, **body: Any) -> httpx.Response:
    """One call with this key."""
    return house.post(json=chat(**body), headers={"authorization": f"Bearer {key}"})


class Held(ExitStack):
    """Streams that stay open until they are closed."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house

    def open(self, key: str) -> Wire:
        """One more; its first bytes have come."""
        wire = self.enter_context(Wire(self._house.port))
        wire.send(chat_request(key, chat(stream=True)))
        assert wire.line().startswith(b"HTTP/1.1 200")
        return wire


def test_calls_at_once_of_one_key(tmp_path: Path, engine: FakeEngine) -> None:
    """As many as the key may have; the next is told to wait; when one leaves, one may come; others are not touched."""
    engine.behave(hang_after=2)
    with House(tmp_path / "state", [engine]) as house, Held(house) as held:
        bound, free = house.new_key(limits=Limits(concurrency=2)), house.new_key()
        first = held.open(bound)
        held.open(bound)
        limited(post(house, bound))
        held.open(free)
        first.close()
        until(lambda: metric(house, "vestry_requests_in_progress") == 2, what="one place")
        held.open(bound)
        assert metric(house, "vestry_refusals_total", reason="rate_limit_exceeded") == 1
        assert [each["code"] for each in house.records("refusal")] == ["rate_limit_exceeded"]


def test_calls_at_once_of_one_tenant(tmp_path: Path, engine: FakeEngine) -> None:
    """All keys of a tenant share its places; another tenant has its own."""
    engine.behave(hang_after=2)
    tenants = {"default": {"concurrency": 2}, "other": {}}
    with House(tmp_path / "state", [engine], tenants=tenants) as house, Held(house) as held:
        held.open(house.new_key())
        held.open(house.new_key())
        limited(post(house, house.new_key()))
        held.open(house.new_key(tenant="other"))


def test_calls_at_once_of_the_server(tmp_path: Path, engine: FakeEngine) -> None:
    """Beyond what the server takes: 503 at once, for everybody, with a time to come back."""
    engine.behave(hang_after=2)
    with House(tmp_path / "state", [engine], server={"concurrency": 2}) as house, Held(house) as held:
        held.open(house.key)
        held.open(house.new_key())
        limited(post(house, house.new_key()), 503, "overloaded")
        assert metric(house, "vestry_requests_total", code="503") == 1


def test_calls_a_minute_and_an_honest_retry_after(tmp_path: Path, engine: FakeEngine) -> None:
    """A minute's worth at once, then 429; whoever waits as long as it says is let in. Looking at models counts too."""
    with House(tmp_path / "state", [engine]) as house:
        bound, free = house.new_key(limits=Limits(requests_per_minute=60)), house.new_key()
        with httpx.Client(verify=PLAIN, headers={"authorization": f"Bearer {bound}"}) as client:
            seen = [client.get(house.url + "/v1/models").status_code for _ in range(59)]
            seen.append(client.post(house.url + "/v1/chat/completions", json=chat()).status_code)
            assert set(seen) == {200}
            seconds = limited(post(house, bound))
            assert post(house, free).status_code == 200
            time.sleep(seconds)
            assert post(house, bound).status_code == 200


def test_a_tenants_calls_a_minute(tmp_path: Path, engine: FakeEngine) -> None:
    """Shared by its keys."""
    tenants = {"default": {"requests_per_minute": 3}, "other": {}}
    with House(tmp_path / "state", [engine], tenants=tenants) as house:
        assert [post(house, house.new_key()).status_code for _ in range(3)] == [200] * 3
        assert limited(post(house, house.new_key())) == 20
        assert post(house, house.new_key(tenant="other")).status_code == 200


ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "complete": ({}, {}, 200),
    "streamed": ({}, {"stream": True}, 200),
    "refused by the engine": ({"status": 400}, {}, 400),
    "failed": ({"status": 500}, {}, 502),
    "hung": ({"hang": True}, {}, 504),
    "truncated": ({"die_after": 3}, {"stream": True}, 200),
    "silent": ({"hang_after": 3}, {"stream": True}, 200),
    "no such model": ({}, {"model": "none-such"}, 404),
    "a bad body": ({}, {"temperature": "hot"}, 400),
}


def test_a_place_is_given_back_however_a_call_ends(tmp_path: Path, engine: FakeEngine) -> None:
    """A key with one place: after every kind of end, leaving included, the next call is let in."""
    relay = {"probe_seconds": 60, "answer_seconds": 0.3, "idle_seconds": 0.3}
    with House(tmp_path / "state", [engine], relay=relay) as house:
        key = house.new_key(limits=Limits(concurrency=1))
        for behaviour, body, status in ENDS.values():
            engine.behaviour = Behaviour(**behaviour)
            assert post(house, key, **body).status_code == status
            engine.behaviour = Behaviour()
            assert post(house, key).status_code == 200
        engine.behave(hang=True)
        for stream in (False, True):
            engine.asked.clear()
            with Wire(house.port) as wire:
                wire.send(chat_request(key, chat(stream=stream)))
                until(lambda: engine.calls, what="the engine to be asked")
                limited(post(house, key))
            idle(house)
        engine.behaviour = Behaviour()
        assert post(house, key).status_code == 200


# Keys -----------------------------------------------------------------------------------------------------------


def unknown(answer: httpx.Response) -> bool:
    """Whether the key is not, or no longer, one."""
    return answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def test_a_key_that_another_process_revokes_is_refused_at_the_very_next_call(
    tmp_path: Path, engine: FakeEngine
) -> None:
    """Also on a connection that is open and has just been used; other keys go on working."""
    with House(tmp_path / "state", [engine]) as house, httpx.Client(verify=PLAIN) as client:
        plaintext, key_id = house.keys.create(owner="alice", tenant="default")
        url, headers = house.url + "/v1/chat/completions", {"authorization": f"Bearer {plaintext}"}
        assert client.post(url, json=chat(), headers=headers).status_code == 200
        arguments = [str(house.settings.keys_database), PEPPER.hex(), key_id]
        forks.run(["-c", REVOKE, *arguments], env=os.environ).check_returncode()
        assert unknown(client.post(url, json=chat(), headers=headers))
        assert post(house, house.key).status_code == 200


def test_a_key_that_expires_is_refused_from_then_on(tmp_path: Path, engine: FakeEngine) -> None:
    """Its last moment comes while the server has it in memory."""
    with House(tmp_path / "state", [engine]) as house:
        key = house.new_key(expires=time.time_ns() // 1000 + 600_000)
        assert post(house, key).status_code == 200
        time.sleep(0.7)
        assert unknown(post(house, key))


def test_another_tenants_model_is_no_model(tmp_path: Path, engine: FakeEngine) -> None:
    """A model that is not theirs, by tenant or by key, answers exactly as one that does not exist, on every route."""
    settings: dict[str, Any] = {
        "models": {"small": {}, "other/large": {}},
        "tenants": {"default": {"models": ["small"]}, "rich": {}},
    }
    with House(tmp_path / "state", [engine], **settings) as house:
        poor, narrow = house.new_key(), house.new_key(tenant="rich", models={"small"})
        rich = house.new_key(tenant="rich")
        for key in (poor, narrow):
            headers = {"authorization": f"Bearer {key}"}
            theirs = post(house, key, model="other/large")
            none = post(house, key, model="none-such")
            assert theirs.status_code == 404
            assert theirs.json() == none.json()
            theirs, none = (house.get(f"/v1/models/{each}", headers=headers) for each in ("other/large", "none-such"))
            assert theirs.status_code == 404
            assert theirs.json() == none.json()
            listed = house.get("/v1/models", headers=headers).json()["data"]
            assert [each["id"] for each in listed] == ["small"]
        assert post(house, rich, model="other/large").status_code == 200
        assert house.get("/v1/models/other%2Flarge", headers={"authorization": f"Bearer {rich}"}).status_code == 200


def test_a_key_of_a_tenant_that_is_not_in_the_settings_is_no_key(tmp_path: Path, engine: FakeEngine) -> None:
    """Taking a tenant out of the settings ends its keys."""
    with House(tmp_path / "state", [engine]) as house:
        assert unknown(post(house, house.new_key(tenant="gone")))


def test_keys_that_cannot_be_looked_up_are_not_called_wrong(
    tmp_path: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The key store is gone: 503, not 401, and not ready; back when it is back. Why stands in the log, once."""
    with House(tmp_path / "state", [engine]) as house:
        assert post(house, house.key).status_code == 200
        store = house.settings.keys_database
        away = store.with_suffix(".away")
        store.rename(away)
        until(lambda: post(house, house.key).status_code == 503, what="503")
        assert post(house, house.key).json()["error"]["code"] == "authentication_unavailable"
        assert "keys" in house.get_ops("/readyz").json()["missing"]
        (said,) = [each for each in caplog.messages if str(store) in each]
        assert said.startswith("keys cannot be looked up: the key store")
        away.rename(store)
        until(lambda: post(house, house.key).status_code == 200, what="200")
        assert house.get_ops("/readyz").status_code == 200
