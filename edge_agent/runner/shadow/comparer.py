"""The shadow's end: asks for a copy whenever its CPU budget allows one, answers it for itself, and compares."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.errors import EdgeAgentError
from edge_agent.runner.shadow import frames
from edge_agent.runner.shadow.budget import CpuBudget
from edge_agent.runner.shadow.comparison import Comparison

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.shadow import ShadowPlan, ShadowReport
    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runner.engine import Engine

log = logging.getLogger(__name__)
TELL_EVERY_S = 1.0
MAX_NAME_BYTES = 256


class Comparer:
    """Compares until it is stopped; nobody waits for it.

    Args:
        plan: what it may cost, and how much is enough.
        signature: of both variants.
        engine: of the new one; nobody else uses it meanwhile.
        tell: takes what is known, whenever it has changed, about once a second.
    """

    def __init__(
        self, plan: ShadowPlan, signature: ModelSignature, engine: Engine, tell: Callable[[ShadowReport], None]
    ) -> None:
        self._plan, self._signature, self._engine, self._tell = plan, signature, engine, tell
        self._began_s, self._began_cpu_s = time.monotonic(), time.process_time()
        self._budget = CpuBudget(plan.cpu_share, now_s=self._began_s, cpu_s=self._began_cpu_s)
        self._active = ""
        self._comparison = Comparison(signature, plan)
        self._requests = self._sampled = self._too_large = 0
        self._changed = False
        self._conversation: asyncio.Task[None] | None = None
        self._invocation: asyncio.Task[None] | None = None

    async def run(self, descriptor: int) -> None:
        """Serve the active runner, and the one that follows it after a crash, on a listening socket; until cancelled.

        When it returns nothing runs in the engine any more.
        """
        server = await asyncio.start_unix_server(self._connected, sock=socket.socket(fileno=descriptor))
        try:
            while True:
                await asyncio.sleep(TELL_EVERY_S)
                if self._changed:
                    self._changed = False
                    self._tell(self._report())
        finally:
            server.close()
            if self._conversation is not None:
                self._conversation.cancel()
            if self._invocation is not None:  # an interpreter takes one caller at a time: it can't be left in there
                await asyncio.wait({self._invocation})

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._conversation is not None:
            self._conversation.cancel()  # one that answered before
        self._conversation = asyncio.current_task()
        try:
            name = await reader.readuntil(b"\n")
            if len(name) <= MAX_NAME_BYTES:
                self._begin(name.decode(errors="replace").strip())
                await self._compare_until_complete(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, asyncio.CancelledError):
            pass  # the active runner has gone, or this one is no shadow any more
        except frames.FrameError as exc:
            log.warning("the active runner sends what can't be compared: %s", exc)
        finally:
            writer.close()

    def _begin(self, active: str) -> None:
        """Who answers now; what was compared with another variant is worth nothing."""
        if self._active not in ("", active):
            self._comparison = Comparison(self._signature, self._plan)
            self._requests = self._sampled = self._too_large = 0
        self._active = active

    async def _compare_until_complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests, too_large = self._requests, self._too_large
        while not self._comparison.complete:
            await asyncio.sleep(self._budget.wait_s(now_s=time.monotonic(), cpu_s=time.process_time()))
            writer.write(frames.ASK)
            frame = await frames.read(reader)
            self._requests, self._too_large = requests + frame.requests, too_large + frame.too_large
            if frame.inputs:
                self._sampled += 1
                self._invocation = asyncio.ensure_future(self._compare(frame))
                await asyncio.shield(self._invocation)
            self._changed = True

    async def _compare(self, frame: frames.Frame) -> None:
        try:
            rows = self._engine.model.check(frame.inputs)
            outcome = await self._engine.run(frame.inputs, rows)
        except EdgeAgentError as exc:
            log.warning("the shadow could not answer what the active one answered: %s", exc)
            self._comparison.fail()
            return
        same = all(np.shape(outcome.outputs[name]) == np.shape(told) for name, told in frame.outputs.items())
        if not same or frame.outputs.keys() != outcome.outputs.keys():
            self._comparison.fail()
            return
        self._comparison.add(
            frame.outputs, outcome.outputs, rows=rows, active_ms=frame.invoke_ms, shadow_ms=outcome.invoke_ms
        )

    def _report(self) -> ShadowReport:
        return self._comparison.report().model_copy(
            update={
                "requests": self._requests,
                "sampled": self._sampled,
                "too_large": self._too_large,
                "cpu_s": time.process_time() - self._began_cpu_s,
                "elapsed_s": time.monotonic() - self._began_s,
            }
        )
