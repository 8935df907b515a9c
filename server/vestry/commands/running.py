"""Running supervised programs in the foreground of a command: signals in, state changes out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import FrameType

from vestry.models.launch import Launch
from vestry.models.progress import Progress
from vestry.models.supervise import Program, State, Supervisor


def engine_program(launch: Launch) -> Program:
    """The engine, as something to be kept running."""
    return Program(
        name=f"engine {launch.model}",
        argv=launch.argv,
        environment=launch.environment,
        log=launch.log,
        health=f"{launch.url}/health",
        start_seconds=launch.startup_seconds,
        told=f"models.{launch.model}.engine.startup_seconds",
        stop_seconds=launch.shutdown_seconds,
    )


def ending() -> list[signal.Signals]:
    """The signals that end a program in the foreground. SIGHUP is none where it is ignored, as `nohup` has it."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def announcer(progress: Progress, name: str) -> Callable[[State, str], None]:
    """Tells what becomes of a program."""

    def announce(state: State, detail: str) -> None:
        progress.say(f"  {name}: {state}{f' ({detail})' if detail else ''}")

    return announce


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside as Ctrl-C does, by KeyboardInterrupt."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in ending()}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


async def keep(
    groups: Sequence[Sequence[Supervisor]], progress: Progress, once_ready: Callable[[], Awaitable[None]]
) -> None:
    """Run all of them until a signal comes; then stop one group after the other, the first one first.

    `once_ready` is called when all have become ready. A second signal kills what is still running. Raises
    NeverReadyError, when all the others have been stopped.
    """
    loop = asyncio.get_running_loop()
    supervisors = [each for group in groups for each in group]
    told = asyncio.Event()
    lives = {each: asyncio.create_task(each.run()) for each in supervisors}

    def on_signal() -> None:
        if told.is_set():
            for life in lives.values():
                life.cancel()
        told.set()

    for number in ending():
        loop.add_signal_handler(number, on_signal)
    ready = asyncio.create_task(_announce_ready(supervisors, once_ready))
    wait = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({wait, *lives.values()}, return_when=asyncio.FIRST_COMPLETED)
        if told.is_set():
            progress.say("Stopping; calls in progress may finish. Once more to stop at once.")
    finally:
        ready.cancel()
        wait.cancel()
        for group in groups:
            for each in group:
                each.stop()
            await asyncio.gather(*(lives[each] for each in group), return_exceptions=True)
    for life in lives.values():
        if not life.cancelled():
            life.result()


async def _announce_ready(supervisors: Sequence[Supervisor], once_ready: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(each.ready() for each in supervisors))
    await once_ready()
