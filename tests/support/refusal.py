"""What must follow from one bad request: the answer's shape, one record, an engine that heard nothing, good health."""

from __future__ import annotations

import itertools
import json
import re
import ssl
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from fakes.engine import FakeEngine
from support.house import House, chat, until
from support.wire import Wire, chat_request

REQUEST_ID = re.compile(r"req_[0-9a-f]{32}")
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ANY: Any = object()
"""Whatever `param` is."""
_sources = itertools.count(2)
_ledgers: WeakKeyDictionary[House, Ledger] = WeakKeyDictionary()


class Ledger:
    """Follows the refusals in a house's record: each in a record of its own, or counted in a summary."""

    def __init__(self, house: House) -> None:
        self._directory = house.settings.audit_directory / house.settings.audit.origin
        self._read: dict[Path, int] = {}
        self.codes: Counter[str] = Counter()
        self.single: dict[str, dict[str, Any]] = {}

    def look(self) -> int:
        """Read what has been added; the number of refusals so far."""
        for segment in sorted(self._directory.glob("*.jsonl")):
            with segment.open("rb") as file:
                file.seek(self._read.get(segment, 0))
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._read[segment] = self._read.get(segment, 0) + len(whole)
            for line in whole.splitlines():
                self._take(json.loads(line))
        return self.codes.total()

    def _take(self, record: dict[str, Any]) -> None:
        if record["type"] == "refusal":
            self.codes[record["code"]] += 1
            self.single[record["request_id"]] = record
        elif record["type"] == "refusals.summary":
            for row in record["counts"]:
                self.codes[row["code"]] += row["count"]
            if record["others"]:
                self.codes["?"] += record["others"]


class Visit:
    """One bad request to a house, from a key and an address of its own, so that its refusal is not one of a flood."""

    def __init__(self, house: House, engine: FakeEngine, *, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self.house, self.engine = house, engine
        self._key: str | None = None
        number = next(_sources)
        self.source = f"127.1.{number // 250}.{number % 250 + 1}"
        self._ledger = _ledgers.setdefault(house, Ledger(house))
        self._ledger.look()

    @property
    def key(self) -> str:
        """A key that nobody else has, made at first use."""
        if self._key is None:
            self._key = self.house.new_key()
        return self._key

    def wire(self, **options: Any) -> Wire:
        """A connection from this visit's address."""
        return Wire(self.house.port, source=self.source, context=self._context, **options)

    def send(self, data: bytes) -> httpx.Response:
        """Send bytes on a new connection; the answer."""
        with self.wire() as wire:
            wire.send(data)
            return wire.answer()

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """POST a body: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"authorization": f"Bearer {self.key}", "content-type": "application/json", **headers}
        transport = httpx.HTTPTransport(verify=False, local_address=self.source)  # without reading certificates
        with httpx.Client(transport=transport, timeout=30) as client:
            return client.post(self.house.url + path, content=content, headers=given)

    def refused(
        self,
        answer: httpx.Response,
        status: int,
        code: str,
        *,
        param: Any = ANY,
        unlike: tuple[str, ...] = (),
        engine: bool = False,
    ) -> None:
        """Check all that must follow from a refusal. `unlike`: words of the client that the answer may not repeat.

        `engine` says that an engine was asked, rightly.
        """
        assert (answer.status_code, code_of(answer)) == (status, code), answer.text
        check_shape(answer)
        if param is not ANY:
            assert answer.json()["error"]["param"] == param, answer.text
        for word in unlike:
            assert word not in answer.text, f"the answer repeats {word!r}"
            assert word not in str(answer.headers), f"the answer's headers repeat {word!r}"
        self.recorded(answer, code)
        assert engine or self.engine.calls == [], "the request reached an engine"
        self.well()

    def recorded(self, answer: httpx.Response, code: str) -> None:
        """Check that exactly one refusal was added to the record, alone or in a sum."""
        before = self._ledger.codes.copy()
        until(lambda: self._ledger.look() > before.total(), what="a record of the refusal")
        added = self._ledger.codes - before
        assert added == Counter({code: 1}), f"the record has {added}"
        record = self._ledger.single.get(answer.headers["x-request-id"])
        if record is not None:
            assert (record["status"], record["code"]) == (answer.status_code, code)
            assert not answer.content or record["reason"] in {(error := answer.json()["error"])["message"], bare(error)}
            assert (record["decision"], record["ending"]) == ("deny", "refused")

    def well(self) -> None:
        """Check that the server is healthy, and answers a good call."""
        asked = len(self.engine.calls)
        with self.wire() as wire:
            wire.send(chat_request(self.house.key, chat()))
            answer = wire.answer()
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."
        assert len(self.engine.calls) == asked + 1
        del self.engine.asked[:]


def code_of(answer: httpx.Response) -> str:
    """The error code of an answer; empty for one that is no error."""
    error = answer.json().get("error") or {}
    return str(error.get("code", ""))


def bare(error: dict[str, Any]) -> str:
    """An error's message without the field that it ends with, as the record has it."""
    return str(error["message"]).removesuffix(f" (`{error['param']}`).") + "."


def check_shape(answer: httpx.Response) -> None:
    """OpenAI's error object, exactly; the request's id; the type of content."""
    assert answer.headers["content-type"] == "application/json"
    assert REQUEST_ID.fullmatch(answer.headers["x-request-id"])
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["type"] == KINDS.get(answer.status_code, "invalid_request_error")
    assert isinstance(error["message"], str)
    assert error["message"].endswith(".")
    assert error["param"] is None or f"`{error['param']}`" in error["message"]
