"""The life of a runner: take the spec, prove the model, serve it, drain, leave. See `control` for what is said."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Any, TypeVar

from edge_agent.runner import memory
from edge_agent.runner.channel import ControlChannel, ControlError, leave_when_orphaned
from edge_agent.runner.control import (
    BEAT_INTERVAL_S,
    TO_RUNNER,
    Beat,
    Compared,
    Drain,
    Drained,
    Mirror,
    Proven,
    Refused,
    RunnerSpec,
    Serve,
    Serving,
    SetWindow,
    StopAccepting,
    Window,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from edge_agent.protocol.shadow import ShadowReport
    from edge_agent.runner.app import RunnerApp
    from edge_agent.runner.control import ShadowSpec, ToRunner
    from edge_agent.runner.engine import Engine, Worker
    from edge_agent.runner.journal import Journal
    from edge_agent.runner.listener import Listener
    from edge_agent.runner.selftest import ProvenModel
    from edge_agent.runner.windows import WindowMeter

log = logging.getLogger(__name__)
ORPHAN_DRAIN_S = 2.0  # for open connections when the supervisor has gone
ORPHAN_LIMIT_S = 5.0  # after which even a hanging runner ends
TERMINATE_DRAIN_S = 5.0

T = TypeVar("T")


class ServingRunner:
    """A proven model with its listener, engine and meter."""

    def __init__(self, spec: RunnerSpec, proven: ProvenModel, worker: Worker) -> None:
        # imported while the first beat is on its way: numpy alone takes 0.1 s, on a small board a second
        from edge_agent.runner.app import RunnerApp  # noqa: PLC0415
        from edge_agent.runner.engine import Engine  # noqa: PLC0415
        from edge_agent.runner.journal import Journal  # noqa: PLC0415
        from edge_agent.runner.listener import Listener  # noqa: PLC0415
        from edge_agent.runner.windows import WindowMeter  # noqa: PLC0415

        self.engine: Engine = Engine(proven.model, worker, expected_ms=proven.report.p50_ms)
        manifest = spec.manifest
        self.journal: Journal | None = None
        if spec.journal_dir is not None:
            about = {"model": manifest.model, "version": manifest.version, "variant_id": manifest.variant_id}
            self.journal = Journal(spec.journal_dir, {**about, "deployment_id": spec.deployment_id})
        self.meter: WindowMeter = WindowMeter(
            manifest,
            deployment_id=spec.deployment_id,
            source="http",
            now_s=time.monotonic(),
            unix_s=time.time(),
            journal=self.journal,
        )
        self.app: RunnerApp = RunnerApp(manifest, self.engine, self.meter)
        self.listener: Listener = Listener(self.app)


class RunnerProcess:
    """Does what the supervisor says."""

    def __init__(self, channel: ControlChannel[ToRunner]) -> None:
        self._channel = channel
        self._inbox: asyncio.Queue[ToRunner | None] = asyncio.Queue()  # None: the supervisor has gone
        self._serving: ServingRunner | None = None
        self._window_s = 10.0
        self._window_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Return when there is nothing left to do."""
        spec = await self._channel.receive()
        if not isinstance(spec, RunnerSpec):
            return
        self._window_s = spec.window_s
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._inbox.put_nowait, Drain(deadline_s=TERMINATE_DRAIN_S))
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl+C reaches the whole group; the supervisor decides
        self._spawn(self._beat())
        self._spawn(self._listen())
        from edge_agent.runner.engine import Worker  # noqa: PLC0415

        worker = Worker()
        outcome = await self._prove(spec, worker)
        if isinstance(outcome, Refused):
            self._channel.send(outcome)
        elif outcome is not None:
            self._channel.send(Proven(report=outcome.report))
            if spec.serving:
                serving = ServingRunner(spec, outcome, worker)
                memory.give_back()
                await self._serve(serving, spec)
        await self._channel.flush()

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _listen(self) -> None:
        message: ToRunner | None
        while True:
            try:
                message = await self._channel.receive()
            except ControlError as exc:
                log.warning("%s", exc)  # an order that nobody understands changes nothing
                continue
            self._inbox.put_nowait(message)
            if message is None:
                return

    async def _prove(self, spec: RunnerSpec, worker: Worker) -> ProvenModel | Refused | None:
        """Prove in the worker thread, so that the runner beats meanwhile; None when it is told to leave."""
        from edge_agent.runner.selftest import prove  # noqa: PLC0415

        proof = self._spawn(worker.run(lambda: prove(spec)))
        early: list[ToRunner] = []
        while not proof.done():
            order = self._spawn(self._inbox.get())
            await asyncio.wait({proof, order}, return_when=asyncio.FIRST_COMPLETED)
            if not order.done():
                order.cancel()
                continue
            message = order.result()
            if message is None or isinstance(message, Drain):
                return None
            early.append(message)
        for message in early:
            self._inbox.put_nowait(message)
        return proof.result()

    async def _serve(self, serving: ServingRunner, spec: RunnerSpec) -> None:
        self._serving = serving
        self._spawn(self._cut_windows(serving))
        shadow = None if spec.shadow is None else self._spawn(self._compare(spec, spec.shadow, serving))
        while True:
            message = await self._inbox.get()
            if isinstance(message, Serve):
                if shadow is not None:
                    shadow.cancel()
                    await asyncio.wait({shadow})
                await serving.listener.accept(message.descriptors)
                self._channel.send(Serving())
            elif isinstance(message, StopAccepting):
                serving.listener.stop(message.descriptors)
            elif isinstance(message, Mirror):
                self._spawn(self._mirror(serving, spec.deployment_id, message.socket))
            elif isinstance(message, SetWindow):
                self._window_s = message.window_s
                self._window_changed.set()
            elif message is None or isinstance(message, Drain):
                break
        await drain_until_told(serving.listener, self._inbox, message)
        self._send_window(serving)
        self._channel.send(self._sign_of_life())  # what it answered while it left counts too
        self._channel.send(Drained())

    async def _compare(self, spec: RunnerSpec, shadow: ShadowSpec, serving: ServingRunner) -> None:
        from edge_agent.runner.shadow.comparer import Comparer  # noqa: PLC0415  few runners are ever a shadow

        def tell(report: ShadowReport) -> None:
            self._channel.send(Compared(report=report))

        await Comparer(shadow.plan, spec.manifest.signature, serving.engine, tell).run(shadow.descriptor)

    async def _mirror(self, serving: ServingRunner, deployment_id: str, path: Path) -> None:
        from edge_agent.runner.shadow.tap import Tap  # noqa: PLC0415  few runners ever have a shadow

        app = serving.app

        def lost(tap: Tap) -> None:
            if app.tap is tap:  # not one that has followed it
                app.tap = None

        with contextlib.suppress(OSError):  # the shadow has gone already
            app.tap = await Tap.open(path, deployment_id, lost)

    async def _cut_windows(self, serving: ServingRunner) -> None:
        while True:
            self._window_changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._window_changed.wait(), max(0.1, self._window_s))
            self._send_window(serving)

    def _send_window(self, serving: ServingRunner) -> None:
        from edge_agent.runtimes.measure import rss_bytes  # noqa: PLC0415

        report = serving.meter.cut(now_s=time.monotonic(), unix_s=time.time(), rss_bytes=rss_bytes())
        journal = None if serving.journal is None else serving.journal.cut()
        if report is not None:
            self._channel.send(Window(report=report, journal=journal))

    async def _beat(self) -> None:
        while True:
            self._channel.send(self._sign_of_life())
            await asyncio.sleep(BEAT_INTERVAL_S)

    def _sign_of_life(self) -> Beat:
        from edge_agent.runtimes.measure import rss_bytes  # noqa: PLC0415

        serving = self._serving
        if serving is None:
            return Beat(rss_bytes=rss_bytes())
        return Beat(
            inferences=serving.meter.inferences,
            connections=serving.listener.connections,
            busy_ms=serving.engine.busy_ms,
            rss_bytes=rss_bytes(),
        )


async def drain_until_told(listener: Listener, inbox: asyncio.Queue[Any], message: Drain | None) -> None:
    """Drain within the deadline of a `Drain`; a later one, or a supervisor that has gone (None), sets a new one."""
    ends_s = time.monotonic() + (ORPHAN_DRAIN_S if message is None else message.deadline_s)
    while True:
        draining = asyncio.ensure_future(listener.drain(max(0.0, ends_s - time.monotonic())))
        order = asyncio.ensure_future(inbox.get())
        await asyncio.wait({draining, order}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            order.cancel()
            return
        draining.cancel()
        told = order.result()
        if told is None or isinstance(told, Drain):
            ends_s = time.monotonic() + (ORPHAN_DRAIN_S if told is None else told.deadline_s)


async def run(control_descriptor: int) -> None:
    """Run until there is nothing left to do."""
    leave_when_orphaned(control_descriptor, ORPHAN_LIMIT_S)
    channel = await ControlChannel.open(control_descriptor, TO_RUNNER)
    await RunnerProcess(channel).run()


def main(control_descriptor: int) -> None:
    """Run, then end at once: a thread that hangs in the interpreter must not hold the process."""
    code = 1
    try:
        loop = asyncio.new_event_loop()  # not asyncio.run: its clean-up waits for tasks that need no waiting for
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run(control_descriptor))
        code = 0
    except Exception:  # noqa: BLE001  the top of the process: the trace goes to the log, then os._exit
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        os._exit(code)
