"""One interpreter, one invoke at a time: short ones in the event loop, long ones in a worker thread.

A hop to a thread and back costs more than a tiny model takes. A hang in the loop stops the beats, a hang in the thread
shows as `busy_ms`: the supervisor sees both.
"""

from __future__ import annotations

import asyncio
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.runtimes.base import Array
    from edge_agent.runtimes.convert import BoundModel

INLINE_LIMIT_MS = 1.0

T = TypeVar("T")


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.loop = work, loop
        self.done: asyncio.Future[T] = loop.create_future()

    def run(self) -> None:
        try:
            result = self.work()
        except BaseException as exc:  # noqa: BLE001  whatever it is belongs to the one who waits
            self.loop.call_soon_threadsafe(self._fail, exc)
        else:
            self.loop.call_soon_threadsafe(self._succeed, result)

    def _succeed(self, result: T) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def _fail(self, exc: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


class Worker:
    """A thread that does one thing after the other; a daemon, so that a hang in it keeps no process alive."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job[object]] = SimpleQueue()
        threading.Thread(target=self._loop, name="invoke", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._jobs.get().run()

    async def run(self, work: Callable[[], T]) -> T:
        """Do it in the thread."""
        job = _Job(work, asyncio.get_running_loop())
        self._jobs.put(job)  # type: ignore[arg-type]  # a queue of jobs of any result
        return await job.done


class Outcome(NamedTuple):
    """What an invoke gave, and how long it waited and ran."""

    outputs: dict[str, Array]
    queue_ms: float
    invoke_ms: float


class Engine:
    """Runs requests one at a time, in the order of their arrival."""

    def __init__(self, model: BoundModel, worker: Worker, *, expected_ms: float) -> None:
        """Take a proven model.

        Args:
            model: used by nobody else.
            worker: the thread for what takes long.
            expected_ms: what one invoke of the interpreter takes (p50 of the self-test: noise must not decide).
        """
        self.model = model
        self._worker = worker
        self._expected_ms = expected_ms
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._began_s: float | None = None

    @property
    def busy_ms(self) -> float:
        """How long the invoke that runs now has been running; 0 when none does."""
        began_s = self._began_s
        return 0.0 if began_s is None else (time.perf_counter() - began_s) * 1e3

    async def run(self, arrays: Mapping[str, Array], rows: int) -> Outcome:
        """Infer.

        Raises:
            edge_agent.errors.ModelInvokeError: the interpreter failed.
        """
        if not self._waiting and self._expected_ms * self.model.invocations(rows) < INLINE_LIMIT_MS:
            return self._invoke(arrays, rows, asked_s=time.perf_counter())
        asked_s = time.perf_counter()
        self._waiting += 1
        try:
            async with self._turn:
                return await self._worker.run(lambda: self._invoke(arrays, rows, asked_s=asked_s))
        finally:
            self._waiting -= 1

    def _invoke(self, arrays: Mapping[str, Array], rows: int, *, asked_s: float) -> Outcome:
        began_s = self._began_s = time.perf_counter()
        try:
            outputs = self.model.run_checked(arrays, rows)
        finally:
            self._began_s = None
        return Outcome(outputs, (began_s - asked_s) * 1e3, (time.perf_counter() - began_s) * 1e3)
