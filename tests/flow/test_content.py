"""Content through the front door: what each mode keeps, of whatever kind of answer, and that no more is anywhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from fakes.audit import read
from fakes.engine import FakeEngine
from support.house import PLAIN, House, chat, until
from support.outcomes import answered, content, events, idle, metric, only_outcome, said
from support.wire import Wire, chat_request
from vestry.audit.content import opening
from vestry.audit.content.opening import Leaf, Nothing, Opened
from vestry.audit.content.sealing import keyed_hash, new_private, tenant_key
from vestry.audit.files import Files
from vestry.errors import AuditUnavailable
from vestry.secret_files import content_hash

CANARY = "canary-7f3a9"
PRIVATE, PUBLIC = new_private()
WORDS = ("The", " answer", " is", f" {CANARY}", ".")
SAID = "".join(WORDS)
MODES = ["metadata", "hashed", "sealed", "full"]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine whose answer holds a word that is nowhere else."""
    with FakeEngine() as engine:
        engine.behave(words=WORDS)
        yield engine


def unsalted(body: bytes) -> bytes:
    """What the engine got, without its tenant's salt: that is no part of the prompt, and is not kept."""
    return re.sub(rb',"cache_salt":"[A-Za-z0-9_-]{43}"', b"", body)


def house_of(folder: Path, engine: FakeEngine, mode: str, **settings: Any) -> House:
    """A house whose one tenant keeps its content in this mode."""
    tenant = {"content": {"default": mode, **settings.pop("content", {})}}
    audit = {"auditor": str(PUBLIC), **settings.pop("audit", {})}
    return House(folder / "state", [engine], tenants={"default": tenant}, audit=audit, **settings)


def home(house: House) -> Path:
    return house.settings.audit_directory / house.settings.audit.origin


def leaves(house: House, request_id: str) -> list[Leaf]:
    return opening.call_of(house.settings.audit_directory, request_id).leaves


def opened(house: House, answer: httpx.Response) -> tuple[Opened, Opened]:
    """Prompt and answer of a call, verified."""
    prompt, outcome = leaves(house, answer.headers["x-request-id"])
    return opening.open_content(home(house), prompt, PRIVATE), opening.open_content(home(house), outcome, PRIVATE)


def files_with(house: House, text: str) -> list[str]:
    """The files under the record that hold these bytes anywhere."""
    return sorted(
        path.relative_to(house.settings.audit_directory).parts[-2]
        for path in house.settings.audit_directory.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    )


def hashes_of(data: bytes) -> set[str]:
    """Every plain hash that somebody could look for."""
    return {hashlib.new(name, data).hexdigest() for name in ("sha256", "sha1", "md5", "sha512")}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_keeps_what_it_says(tmp_path: Path, engine: FakeEngine, mode: str, stream: bool) -> None:
    """The answer is the same for the client in every mode, and content is nowhere where it must not be."""
    with house_of(tmp_path, engine, mode) as house:
        answer = house.post(json=chat(f"Tell me of {CANARY}", stream=stream))
        assert content(answer) == SAID
        outcome = answered(house, answer)
        request_id = answer.headers["x-request-id"]
        prompt, end = leaves(house, request_id)
        assert (prompt.content_mode, end.content_mode) == (mode, mode)
        house.stop()
        records = read(house.settings.audit_directory)
    assert files_with(house, CANARY) == (["blobs"] if mode == "full" else [])
    raw = "\n".join(json.dumps(record) for record in records)
    body = unsalted(engine.calls[0].body)
    document = msgspec.json.encode({"choices": [{"finish_reason": "stop", "index": 0, "text": SAID}]})
    for plain in (body, document, SAID.encode(), f"Tell me of {CANARY}".encode(), answer.content):
        assert not any(each in raw for each in hashes_of(plain))
    if mode == "metadata":
        assert "content" not in outcome
        assert not (home(house) / "content").exists()
        return
    if mode == "hashed":
        key = tenant_key(content_hash(house.settings), "default")
        assert prompt.content is not None
        assert end.content is not None
        assert prompt.content.hmac == keyed_hash(key, body)
        assert prompt.content.texts == (keyed_hash(key, f"Tell me of {CANARY}".encode()),)
        assert end.content.texts == (keyed_hash(key, SAID.encode()),)
        assert opening.fits(home(house), prompt, body)
        assert opening.fits(home(house), end, document)
        assert not opening.fits(home(house), end, document + b" ")
        with pytest.raises(Nothing, match="only hashes"):
            opening.open_content(home(house), end, PRIVATE)
        return
    asked, said_ = opened(house, answer)
    assert asked.content == body
    assert said_.content == document


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_route_has_its_own_mode(tmp_path: Path, engine: FakeEngine, path: str) -> None:
    """`routes` wins over `default`; both records say the mode that was in force."""
    with house_of(tmp_path, engine, "full", content={"routes": {"completions": "metadata"}}) as house:
        body = chat() if path.endswith("chat/completions") else {"model": "small", "prompt": "Hi"}
        outcome = answered(house, house.post(path, json=body))
        assert outcome["content_mode"] == ("full" if "chat" in path else "metadata")
        assert ("content" in outcome) == ("chat" in path)
        assert house.get("/v1/models").status_code == 200
        assert house.records("outcome")[-1]["content_mode"] == "metadata"


def test_a_client_has_no_word_in_it(tmp_path: Path, engine: FakeEngine) -> None:
    """No field and no header of a request changes the mode."""
    with house_of(tmp_path, engine, "sealed") as house:
        key = {"authorization": f"Bearer {house.key}"}
        answer = house.post(json=chat(store=False), headers={**key, "x-content-mode": "metadata"})
        assert answered(house, answer)["content_mode"] == "sealed"
        assert house.post(json=chat(content_mode="metadata")).status_code == 400


def test_tenants_have_modes_auditors_and_keys_of_their_own(tmp_path: Path, engine: FakeEngine) -> None:
    """What is sealed to one auditor another cannot open; the same text has another HMAC in another tenant."""
    other_private, other_public = new_private()
    tenants = {
        "default": {"content": {"default": "sealed"}},
        "law": {"content": {"default": "sealed", "auditor": str(other_public)}},
        "one": {"content": {"default": "hashed"}},
        "two": {"content": {"default": "hashed"}},
    }
    found: dict[str, Leaf] = {}
    with House(tmp_path / "state", [engine], tenants=tenants, audit={"auditor": str(PUBLIC)}) as house:
        for tenant in tenants:
            headers = {"authorization": f"Bearer {house.new_key(tenant=tenant)}"}
            answer = house.post(json=chat(), headers=headers)
            found[tenant] = leaves(house, answer.headers["x-request-id"])[0]
        assert opening.open_content(home(house), found["default"], PRIVATE)
        assert opening.open_content(home(house), found["law"], other_private)
        for tenant, private in (("default", other_private), ("law", PRIVATE)):
            with pytest.raises(opening.WrongKey):
                opening.open_content(home(house), found[tenant], private)
    one, two = found["one"].content, found["two"].content
    assert one is not None
    assert two is not None
    assert one.texts != two.texts
    assert one.hmac != two.hmac


def test_a_client_that_leaves_was_sent_what_it_was_sent(tmp_path: Path, engine: FakeEngine) -> None:
    """The answer ends where the client did, whatever the engine said after."""
    engine.behave(words=(*(f"word{number} " for number in range(50)), "end"), between_seconds=0.02)
    with house_of(tmp_path, engine, "sealed") as house:
        with Wire(house.port) as wire:
            wire.send(chat_request(house.key, chat(stream=True)))
            while b"word5" not in wire.line():
                pass
        outcome = only_outcome(house)
        assert outcome["ending"] == "cancelled"
        idle(house)
        end = leaves(house, outcome["request_id"])[1]
        [choice] = json.loads(opening.open_content(home(house), end, PRIVATE).content)["choices"]
        assert choice["text"].startswith("word0 word1 word2 word3 word4 word5 ")
        assert "word45" not in choice["text"]
        assert "finish_reason" not in choice


def test_a_client_that_leaves_before_a_whole_answer_was_sent_nothing(tmp_path: Path, engine: FakeEngine) -> None:
    """The prompt is kept; of the answer there is nothing to keep."""
    engine.behave(first_seconds=5)
    with house_of(tmp_path, engine, "full") as house:
        with Wire(house.port) as wire:
            wire.send(chat_request(house.key, chat()))
            until(lambda: engine.calls, what="the engine to be asked")
        outcome = only_outcome(house)
        assert outcome["ending"] == "cancelled"
        assert "content" not in outcome
        prompt, end = leaves(house, outcome["request_id"])
        assert opening.open_content(home(house), prompt, None).content == unsalted(engine.calls[0].body)
        with pytest.raises(Nothing, match="nothing of it was sent"):
            opening.open_content(home(house), end, None)


def test_of_an_engine_that_dies_what_came_through_is_kept(tmp_path: Path, engine: FakeEngine) -> None:
    """And the error event, which is no word of the model's, is not."""
    engine.behave(die_after=3)
    with house_of(tmp_path, engine, "sealed") as house:
        answer = house.post(json=chat(stream=True))
        assert answered(house, answer)["ending"] == "truncated"
        found = events(answer.text)
        assert "error" in found[-1]
        text = json.loads(opened(house, answer)[1].content)["choices"][0]["text"]
        assert text == said(found[:-1])
        assert text
        assert text != SAID


def test_a_call_that_fails_before_its_answer_keeps_its_prompt(tmp_path: Path, engine: FakeEngine) -> None:
    """502, with the prompt and without an answer."""
    engine.behave(status=500)
    with house_of(tmp_path, engine, "full") as house:
        answer = house.post(json=chat())
        assert answer.status_code == 502
        outcome = answered(house, answer)
        assert "content" not in outcome
        assert json.loads(opening.open_content(home(house), leaves(house, outcome["request_id"])[0], None).content)


def test_several_choices_and_tools_are_kept(tmp_path: Path, engine: FakeEngine) -> None:
    """Streamed or not, the same."""
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    with house_of(tmp_path, engine, "full") as house:
        engine.behave(words=WORDS)
        pairs = [house.post(json=chat(n=3, stream=stream)) for stream in (False, True)]
        texts = [[each["text"] for each in json.loads(opened(house, pair)[1].content)["choices"]] for pair in pairs]
        assert texts == [[SAID] * 3] * 2
        engine.behave(tool_call="look_up", finish_reason="tool_calls")
        pairs = [house.post(json=chat(tools=tools, stream=stream)) for stream in (False, True)]
        calls = [json.loads(opened(house, pair)[1].content)["choices"][0]["tool_calls"] for pair in pairs]
        assert calls[0][0]["name"] == calls[1][0]["name"] == "look_up"
        assert calls[0][0]["arguments"] == calls[1][0]["arguments"]


def test_what_is_too_long_is_cut_and_said(tmp_path: Path, engine: FakeEngine) -> None:
    """Prompt and answer, each at the bound; the client gets all of it."""
    engine.behave(words=("x" * 3000, "y" * 3000))
    with house_of(tmp_path, engine, "sealed", audit={"content_bytes": 4096}) as house:
        for stream in (False, True):
            answer = house.post(json=chat("p" * 5000, stream=stream))
            assert content(answer) == "x" * 3000 + "y" * 3000
            asked, end = opened(house, answer)
            assert len(asked.content) == 4096
            assert asked.left_out == len(unsalted(engine.calls[-1].body)) - 4096
            assert json.loads(end.content)["choices"][0]["text"] == "x" * 3000 + "y" * 1096
            assert end.left_out == 1904


class ContentDisk:
    """The disk under the content alone: the log beside it is well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        write, create = Files.write, Files.create

        def failing_write(files: Files, descriptor: int, data: bytes) -> int:
            self._judge(Path(f"/proc/self/fd/{descriptor}").readlink())
            return write(files, descriptor, data)

        def failing_create(files: Files, path: Path) -> int:
            self._judge(path)
            return create(files, path)

        monkeypatch.setattr(Files, "write", failing_write)
        monkeypatch.setattr(Files, "create", failing_create)

    def _judge(self, path: Path) -> None:
        if self.full and "content" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> ContentDisk:
    """The disk under the content."""
    return ContentDisk(monkeypatch)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_cannot_be_kept_is_not_asked(tmp_path: Path, engine: FakeEngine, disk: ContentDisk, stream: bool) -> None:
    """503 before the engine is asked, as for a record; not ready; it mends by itself; a refusal is in the log."""
    with house_of(tmp_path, engine, "full") as house:
        assert house.post(json=chat()).status_code == 200
        disk.full = True
        engine.asked.clear()
        answer = house.post(json=chat(stream=stream))
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "audit_unavailable"
        assert answer.headers["x-should-retry"] == "false"
        assert engine.calls == []
        assert house.get_ops("/readyz").json()["missing"] == {"content": "content that is to be kept cannot be written"}
        assert metric(house, "vestry_audit_content_failures_total") == 1
        [refusal] = [each for each in house.records("refusal") if each["request_id"] == answer.headers["x-request-id"]]
        assert refusal["code"] == "audit_unavailable"
        disk.full = False
        until(lambda: house.get_ops("/readyz").status_code == 200, what="readiness")
        assert opened(house, house.post(json=chat(stream=stream)))
        house.stop()
        read(house.settings.audit_directory)


def test_while_content_cannot_be_kept_calls_without_any_go_on(
    tmp_path: Path, engine: FakeEngine, disk: ContentDisk
) -> None:
    """A route of mode `metadata` is served."""
    with house_of(tmp_path, engine, "full", content={"routes": {"completions": "metadata"}}) as house:
        disk.full = True
        assert house.post(json=chat()).status_code == 503
        assert house.post("/v1/completions", json={"model": "small", "prompt": "Hi"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_cannot_be_kept_is_not_delivered(
    tmp_path: Path, engine: FakeEngine, disk: ContentDisk, stream: bool
) -> None:
    """In one piece: 503, without it. Streamed: an error event in the place of its end. One outcome says so."""
    engine.behave(words=WORDS, first_seconds=0.2, between_seconds=0.05)
    with house_of(tmp_path, engine, "full") as house:
        client = house.client()
        if stream:
            parts = iter(client.chat.completions.create(**chat(stream=True)))
            next(parts)
            disk.full = True
            with pytest.raises(openai.APIError, match="could not be recorded"):
                list(parts)
        else:
            with Wire(house.port) as wire:
                wire.send(chat_request(house.key, chat()))
                until(lambda: engine.calls, what="the engine to be asked")
                disk.full = True
                answer = wire.answer()
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == AuditUnavailable.code
            assert CANARY not in answer.text
        outcome = only_outcome(house)
        assert outcome["content"] == {"lost": True}
        assert (outcome["ending"], outcome["status"]) == (("truncated", 200) if stream else ("failed", 503))
        assert outcome["code"] == "audit_unavailable"
        assert outcome["completion_tokens"] == 5
        assert metric(house, "vestry_outcomes_total", ending=outcome["ending"]) == 1
        idle(house)
        disk.full = False
        house.stop()
        kinds = [record["type"] for record in read(house.settings.audit_directory)]
        assert kinds.count("outcome") == kinds.count("intent") == 1
        assert "refusal" not in kinds


def test_a_client_that_left_and_a_full_disk(tmp_path: Path, engine: FakeEngine, disk: ContentDisk) -> None:
    """The outcome is still `cancelled`, and says that the answer was lost."""
    engine.behave(words=WORDS * 20, between_seconds=0.02)
    with house_of(tmp_path, engine, "full") as house:
        with Wire(house.port) as wire:
            wire.send(chat_request(house.key, chat(stream=True)))
            while CANARY.encode() not in wire.line():
                pass
            disk.full = True
        outcome = only_outcome(house)
        assert (outcome["ending"], outcome["content"]) == ("cancelled", {"lost": True})
        disk.full = False


def test_chunks_leave_when_they_come(tmp_path: Path, engine: FakeEngine) -> None:
    """Keeping a stream does not hold it up."""
    engine.behave(between_seconds=0.1)
    came: list[float] = []
    with (
        house_of(tmp_path, engine, "sealed") as house,
        httpx.Client(verify=PLAIN, headers={"authorization": f"Bearer {house.key}"}) as client,
        client.stream("POST", house.url + "/v1/chat/completions", json=chat(stream=True)) as answer,
    ):
        came.extend(time.monotonic() for line in answer.iter_lines() if '"content":' in line)
    assert came[-1] - came[0] > 0.3


def test_a_stop_ends_streams_with_their_content(tmp_path: Path, engine: FakeEngine) -> None:
    """Drained: what was streamed is whole, and kept."""
    engine.behave(words=WORDS, between_seconds=0.1)
    with house_of(tmp_path, engine, "sealed") as house, Wire(house.port) as wire:
        wire.send(chat_request(house.key, chat(stream=True)))
        until(lambda: engine.calls, what="the engine to be asked")
        house.stop()
        outcome = only_outcome(house)
        assert outcome["ending"] == "complete"
        end = leaves(house, outcome["request_id"])[1]
        assert SAID.encode() in opening.open_content(home(house), end, PRIVATE).content
