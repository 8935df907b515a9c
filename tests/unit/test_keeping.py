"""The keeping step inside the corridor: what is kept before what, and what becomes of a call whose content is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from fakes.calls import PRINCIPAL, call, head
from fakes.journal import MemoryJournal
from fakes.wires import until
from unit.test_pipeline import Bench, Visitor
from vestry.audit.calls import Content
from vestry.audit.content.sealing import Context
from vestry.audit.content.texts import Kept
from vestry.errors import AuditUnavailable
from vestry.keeping import Keep
from vestry.types import ContentMode, Ending, Outcome, Usage

MODES = {("default", "chat.completions"): ContentMode.FULL}
ANSWER = b'{"choices":[{"index":0,"message":{"content":"hello"},"finish_reason":"stop"}]}'
WHOLE = Outcome(Ending.COMPLETE, 200, usage=Usage(3, 5), replica="a", attempts=1, last=ANSWER)


class Memory:
    """Stands in for the keeper: remembers what it was given, and what the journal had by then."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.kept: list[tuple[str, bytes, list[str]]] = []
        self.fail_at = self.hang_at = ""
        self._journal = journal

    async def keep(self, context: Context, mode: ContentMode, make: Callable[[], Kept]) -> Content:
        if context.kind == self.fail_at:
            raise AuditUnavailable
        if context.kind == self.hang_at:
            await asyncio.Event().wait()
        self.kept.append((context.kind, make().content, [each["type"] for each in self._journal.records]))
        return Content(size=1, commitment="0" * 64)


def bench_of(outcome: Outcome = WHOLE) -> tuple[Bench, Memory]:
    async def engine() -> Outcome:
        return outcome

    bench = Bench(engine)
    memory = Memory(bench.journal)
    keep: Any = memory
    bench.corridor.keep = Keep(lambda: keep, limit=1000)
    bench.corridor.house = replace(bench.corridor.house, contents=MODES)
    return bench, memory


def test_prompt_before_intent_and_answer_before_outcome() -> None:
    """Each is durable before the record that names it."""
    bench, memory = bench_of()
    visitor = bench.walk(Visitor(body=call(body=b'{"prompt":"hi"}')))
    assert visitor.answer == ANSWER
    assert memory.kept == [
        ("prompt", b'{"prompt":"hi"}', []),
        ("answer", b'{"choices":[{"finish_reason":"stop","index":0,"text":"hello"}]}', ["intent"]),
    ]
    assert all(record["content"]["size"] == 1 for record in bench.journal.records)


def test_a_prompt_that_cannot_be_kept_stops_the_call() -> None:
    """No intent, no engine: one refusal."""
    bench, memory = bench_of()
    memory.fail_at = "prompt"
    visitor = bench.walk(Visitor())
    assert isinstance(visitor.refusal, AuditUnavailable)
    assert (bench.kinds, bench.forwarded) == (["refusal"], 0)


@pytest.mark.parametrize(
    ("outcome", "ending", "status"),
    [
        (WHOLE, "failed", 503),
        (Outcome(Ending.TRUNCATED, 200, "engine_error", Usage(3, 5), last=b"data: {}\n\n"), "truncated", 200),
    ],
)
def test_an_answer_that_cannot_be_kept_is_one_outcome(outcome: Outcome, ending: str, status: int) -> None:
    """It has the tokens, and says that the answer was lost; the client gets the refusal; no second record."""
    bench, memory = bench_of(outcome)
    memory.fail_at = "answer"
    visitor = bench.walk(Visitor(body=call(stream=ending == "truncated")))
    assert visitor.answer is None
    assert isinstance(visitor.refusal, AuditUnavailable)
    assert bench.kinds == ["intent", "outcome"]
    record = bench.journal.records[-1]
    assert (record["ending"], record["status"], record["completion_tokens"]) == (ending, status, 5)
    assert record["content"] == {"lost": True}


def test_a_stop_does_not_wait_for_a_disk_that_hangs() -> None:
    """Cancelled while the answer is being kept: the outcome is recorded, and the client is told."""
    bench, memory = bench_of()
    memory.hang_at = "answer"
    visitor = Visitor()

    async def run() -> None:
        task = asyncio.create_task(bench.corridor.walk(visitor))
        await until(lambda: bench.kinds == ["intent"] and bench.forwarded)
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(run())
    assert bench.kinds == ["intent", "outcome"]
    assert bench.journal.records[-1]["content"] == {"lost": True}
    assert visitor.refusal is not None
    assert visitor.refusal.code == bench.journal.records[-1]["code"]


def test_a_call_whose_mode_is_metadata_is_not_touched() -> None:
    """There is nothing between the engine and its client, and nothing is called for a chunk."""
    bench, memory = bench_of()
    assert bench.corridor.keep is not None
    assert bench.corridor.keep.of(head(), PRINCIPAL, ContentMode.METADATA) is None
    bench.corridor.house = replace(bench.corridor.house, contents={})
    assert bench.walk(Visitor()).answer == ANSWER
    assert memory.kept == []
    assert ["content" in record for record in bench.journal.records] == [False, False]
