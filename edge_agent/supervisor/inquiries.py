"""What the registry asks of this device: one question after the other, answered in parts that leave others their turn.

The log is read here; a diagnosis hashes every variant, so a process of its own gathers it, and exits. A connection that
is lost ends what is under way: the registry asks again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.diagnosis.shorten import tail_within
from edge_agent.logbook.lines import tail
from edge_agent.logbook.ring import read
from edge_agent.protocol.inquiry import MAX_PACKED_BYTES, AnswerPart, AnswerStatus, Inquiry, InquiryKind, parts_of
from edge_agent.supervisor.programs import environment, own_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.layout import Layout
    from edge_agent.settings import AgentSettings

log = logging.getLogger(__name__)
WAITING_LIMIT = 4
METERED_BYTES = 16 << 10  # of an answer that a device sends which pays for every byte
PART_PAUSE_S = 0.2  # between two parts: telemetry and status go meanwhile
GATHER_LIMIT_S = 100.0
NICENESS = 10  # whoever answers requests meanwhile comes first


@dataclass(slots=True)
class _Gathering:
    inquiry: Inquiry
    process: subprocess.Popen[bytes]
    descriptor: int
    give_up_at_s: float
    output: bytearray = field(default_factory=bytearray)


class Inquiries:
    """The questions that wait, and the answer that is being made or sent.

    Args:
        settings: whether every byte costs.
        layout: the agent's files.
        publish: sends one part.
        watch: called with a descriptor and a callback when a process is started.
        unwatch: called with the descriptor of one that has ended.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        layout: Layout,
        publish: Callable[[AnswerPart], None],
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._settings, self._layout, self._publish = settings, layout, publish
        self._watch, self._unwatch = watch, unwatch
        self._waiting: deque[Inquiry] = deque()
        self._gathering: _Gathering | None = None
        self._sending: tuple[Inquiry, Iterator[AnswerPart]] | None = None
        self._next_part_s = 0.0

    @property
    def due_s(self) -> float | None:
        """When the next part goes, on the monotonic clock; None: there is none."""
        return None if self._sending is None else self._next_part_s

    def take(self, inquiry: Inquiry) -> None:
        """A question has come; one that is asked again while it is being answered changes nothing."""
        if inquiry.inquiry_id in self._open():
            return
        if len(self._waiting) >= WAITING_LIMIT:
            self._refuse(inquiry, "this device is answering other questions: ask again in a minute")
            return
        self._waiting.append(inquiry)

    def tick(self, now_s: float) -> None:
        """Go on with what is under way, or begin the next."""
        if self._sending is not None:
            self._send_next(now_s)
        elif self._gathering is not None:
            if now_s >= self._gathering.give_up_at_s:
                self._refuse(self._stop_gathering().inquiry, f"gathering took longer than {GATHER_LIMIT_S:.0f} s")
        elif self._waiting:
            self._begin(self._waiting.popleft(), now_s)

    def forget(self) -> None:
        """The connection is lost: whoever still wants to know asks again."""
        self._waiting.clear()
        self._sending = None
        if self._gathering is not None:
            self._stop_gathering()

    def _open(self) -> set[str]:
        found = {inquiry.inquiry_id for inquiry in self._waiting}
        if self._gathering is not None:
            found.add(self._gathering.inquiry.inquiry_id)
        if self._sending is not None:
            found.add(self._sending[0].inquiry_id)
        return found

    def _begin(self, inquiry: Inquiry, now_s: float) -> None:
        log.info("the registry asks for the %s", inquiry.kind)
        if inquiry.kind is InquiryKind.LOG:
            found = tail(read(self._layout.log_dir), inquiry, now=max(0.0, time.time()))
            self._answer(inquiry, tail_within(found, MAX_PACKED_BYTES), now_s)
            return
        try:
            self._gather(inquiry, now_s)
        except OSError as exc:
            self._refuse(inquiry, f"gathering can't be started here: {exc.strerror}")

    def _gather(self, inquiry: Inquiry, now_s: float) -> None:
        process = subprocess.Popen(  # noqa: S603  our own module, no shell
            [*own_program("edge_agent.diagnosis"), str(self._layout.root), str(inquiry.lines)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(self._layout.bytecode_dir),
            process_group=0,
        )
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        descriptor = -1 if process.stdout is None else process.stdout.fileno()
        os.set_blocking(descriptor, False)
        self._gathering = _Gathering(inquiry, process, descriptor, now_s + GATHER_LIMIT_S)
        self._watch(descriptor, self._readable)

    def _readable(self) -> None:
        gathering = self._gathering
        if gathering is None:
            return
        chunk = os.read(gathering.descriptor, 64 << 10)
        gathering.output += chunk
        if chunk and len(gathering.output) <= MAX_PACKED_BYTES:
            return
        code = self._stop_gathering().process.returncode
        if chunk:
            self._refuse(gathering.inquiry, f"what was gathered has more than {MAX_PACKED_BYTES} bytes")
        elif code:
            self._refuse(gathering.inquiry, f"gathering ended with code {code}: the agent's own log says more")
        else:
            self._answer(gathering.inquiry, bytes(gathering.output), time.monotonic())

    def _stop_gathering(self) -> _Gathering:
        """End the process, if its output has not ended before; its exit code is known then."""
        gathering, self._gathering = self._gathering, None
        if gathering is None:
            raise RuntimeError("nothing is being gathered")
        self._unwatch(gathering.descriptor)
        with contextlib.suppress(subprocess.TimeoutExpired):
            gathering.process.wait(0.5)  # one that has closed its output ends at once
        gathering.process.kill()
        gathering.process.communicate()
        return gathering

    def _answer(self, inquiry: Inquiry, packed: bytes, now_s: float) -> None:
        if self._settings.metered and not inquiry.even_metered and len(packed) > METERED_BYTES:
            advice = "ask for fewer lines, or for all the same with --even-metered"
            self._refuse(inquiry, f"every byte costs on this device, and the answer has {len(packed)}: {advice}")
            return
        self._sending, self._next_part_s = (inquiry, parts_of(inquiry.inquiry_id, packed)), now_s
        self._send_next(now_s)

    def _send_next(self, now_s: float) -> None:
        if self._sending is None or now_s < self._next_part_s:
            return
        part = next(self._sending[1], None)
        if part is None:
            self._sending = None
            return
        self._publish(part)
        self._next_part_s = now_s + PART_PAUSE_S
        if part.part + 1 == part.parts:
            self._sending = None

    def _refuse(self, inquiry: Inquiry, sentence: str) -> None:
        detail = sentence[:512]
        self._publish(AnswerPart(inquiry_id=inquiry.inquiry_id, status=AnswerStatus.REFUSED, detail=detail))
