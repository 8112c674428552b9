"""The runners: started, watched, swapped, stopped. What becomes of them is told to the core as events.

One model: its runner accepts on the shared TCP port. Several: the front process accepts there and forwards to each
model's Unix socket. The descriptors are the supervisor's own and are inherited, so a port is never without a listener.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.deployments.events import (
    Event,
    Leave,
    RunnerBeat,
    RunnerExited,
    RunnerHung,
    RunnerNotStarted,
    RunnerProven,
    RunnerRefused,
    RunnerServing,
    ShadowCompared,
)
from edge_agent.runner.control import (
    ANSWER_S,
    FROM_RUNNER,
    Beat,
    Compared,
    Drain,
    FromRunner,
    Mirror,
    Proven,
    Refused,
    RunnerSpec,
    Serve,
    Serving,
    SetWindow,
    ShadowSpec,
    StopAccepting,
    Window,
)
from edge_agent.supervisor.child import STOP_PATIENCE_S, Child
from edge_agent.supervisor.front import Front
from edge_agent.supervisor.listeners import OWN_MODE, listen_unix
from edge_agent.supervisor.programs import environment, own_program
from edge_agent.telemetry import board

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from edge_agent.deployments.events import Activate, StartRunner
    from edge_agent.layout import Layout
    from edge_agent.settings import AgentSettings
    from edge_agent.storage.variants import VariantFolders
    from edge_agent.supervisor.listeners import Listeners

log = logging.getLogger(__name__)
RESTART_PROBE_RUNS = 3  # one that was proven here before only has to come up
HURRIED_DRAIN_S = 1.0  # a client that asks meanwhile is told to connect again, an idle one is cut off
SERVING_SPACE_BYTES = 256 << 20


def address_space_for(file_bytes: int, *, memory_bytes: int) -> int:
    """How much address space a model may add to its runner: more than it needs, less than what hurts the machine.

    Address space is not memory: a thread's malloc arena reserves 64 MiB and touches little of it (hence
    `SERVING_SPACE_BYTES`; measured: 17 MB of EfficientNet-Lite0 add 45 to 110 MB), a file is mapped whole and packed
    once more. What a model really takes the self-test compares with its limit; this one stops a model that takes all.
    """
    return SERVING_SPACE_BYTES + 2 * file_bytes + memory_bytes


class _Runner:
    def __init__(self, child: Child, action: StartRunner, copies: socket.socket | None) -> None:
        self.child, self.deployment_id, self.model = child, action.deployment_id, action.manifest.model
        self.proven = self.serving = self.leaving = False
        self.refused: Refused | None = None
        self.hung = ""
        self.retire: str | None = None  # the one that leaves once this one serves
        self.descriptors: tuple[int, ...] = ()
        self.copies = copies  # where a shadow gets copies of requests


class Runners:
    """Every living child: the runners, and the front where they need one.

    Args:
        settings: how long to wait for what.
        layout: where the models' sockets are.
        folders: where the files are.
        listeners: what the runners accept on.
        watch: called with a child's control socket and a callback when it is started.
        unwatch: called with the control socket of one that has ended.
        deliver: takes the events.
        on_window: takes telemetry.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        layout: Layout,
        folders: VariantFolders,
        listeners: Listeners,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        deliver: Callable[[Event], None],
        on_window: Callable[[Window], None],
    ) -> None:
        self._settings, self._layout, self._folders, self._listeners = settings, layout, folders, listeners
        self._environment = environment(layout.bytecode_dir)
        self._front = Front(
            settings, environment=self._environment, watch=watch, unwatch=unwatch, on_serving=self._front_accepts
        )
        self._watch, self._unwatch, self._deliver, self._on_window = watch, unwatch, deliver, on_window
        self._runners: dict[str, _Runner] = {}
        self._served: dict[str, str] = {}  # model -> the deployment that answers
        self._shadows: dict[str, str] = {}  # model -> the deployment that gets copies of its requests
        self._unannounced: set[str] = set()  # runners that serve, but not yet on the shared port
        self.window_s = 10.0  # of telemetry

    @property
    def pids(self) -> dict[str, int]:
        """Process ids, for people and for measurements."""
        found = {deployment_id: runner.child.process.pid for deployment_id, runner in self._runners.items()}
        if self._front.pid is not None:
            found["front"] = self._front.pid
        return found

    def beat(self, deployment_id: str) -> Beat | None:
        """A runner's last sign of life."""
        runner = self._runners.get(deployment_id)
        return None if runner is None else runner.child.last_beat

    def start(self, action: StartRunner) -> None:
        """Start a runner; `RunnerProven`, `RunnerRefused` or an end follows."""
        manifest, copies = action.manifest, None
        command = self._settings.runner_command or own_program("edge_agent.runner")
        try:
            descriptors = [self._listeners.unix(manifest.model).fileno()]
            if self._listeners.tcp is not None:
                descriptors.append(self._listeners.tcp.fileno())
            if action.shadow is not None:
                copies = listen_unix(self._layout.shadow_socket(action.deployment_id), mode=OWN_MODE)
                descriptors.append(copies.fileno())
            child = Child(command, descriptors=descriptors, environment=self._environment, now_s=time.monotonic())
        except OSError as exc:
            if copies is not None:
                copies.close()
            log.warning("the runner of %s can't be started: %s", action.deployment_id, exc)
            self._deliver(RunnerNotStarted(action.deployment_id, f"its runner can't be started: {exc.strerror}"))
            return
        runner = _Runner(child, action, copies)
        self._runners[action.deployment_id] = runner
        self._watch(child.control.fileno(), lambda: self._readable(runner))
        spec = RunnerSpec(
            deployment_id=action.deployment_id,
            manifest=manifest,
            model_path=self._folders.model_path(action.manifest_sha256),
            golden_path=self._folders.golden_path(action.manifest_sha256),
            limits=action.limits,
            address_space_bytes=address_space_for(
                manifest.model_file.size_bytes,
                memory_bytes=action.limits.ram_bytes
                or self._settings.memory_budget_bytes
                or board.memory_total_bytes(),
            ),
            window_s=self.window_s,
            journal_dir=self._layout.journal_dir,
        )
        if not action.proving:
            spec = spec.model_copy(update={"probe_runs": RESTART_PROBE_RUNS})
        if action.shadow is not None and copies is not None:
            shadow = ShadowSpec(plan=action.shadow, descriptor=copies.fileno())
            spec = spec.model_copy(update={"shadow": shadow})
        child.send(spec)

    def shadow(self, deployment_id: str) -> None:
        """Let whoever answers copy requests to this proven runner; whoever follows that one, too."""
        runner = self._runners.get(deployment_id)
        if runner is None:
            return
        self._shadows[runner.model] = deployment_id
        answering = self._runners.get(self._served.get(runner.model, ""))
        if answering is not None and answering.proven and not answering.leaving:
            self._mirror(answering)

    def activate(self, action: Activate) -> None:
        """Let a proven runner accept; the old one leaves once it does."""
        runner = self._runners.get(action.deployment_id)
        if runner is None:
            return
        self._end_shadow(runner)
        runner.retire = action.retire
        self._served[runner.model] = runner.deployment_id
        self._arrange()

    def stop(self, deployment_id: str, after: Leave) -> None:
        """Let a runner leave. Told again, it takes the shorter time."""
        runner = self._runners.get(deployment_id)
        if runner is None:
            return
        runner.leaving = True
        if after is Leave.NOTHING:
            runner.child.kill()
        else:
            self._drain(runner, self._settings.drain_s if after is Leave.CONNECTIONS else HURRIED_DRAIN_S)

    def deactivate(self, model: str) -> None:
        """Nobody answers for a model any more."""
        self._served.pop(model, None)
        self._listeners.drop(model)
        self._arrange()

    def set_window(self, window_s: float) -> None:
        """Cut telemetry into windows of this length."""
        self.window_s = window_s
        for runner in self._runners.values():
            runner.child.send(SetWindow(window_s=window_s))

    def check(self, now_s: float) -> None:
        """Find those that hang, and end those whose time is over."""
        for runner in list(self._runners.values()):
            child = runner.child
            if child.kill_at_s is not None and now_s >= child.kill_at_s:
                child.kill()
                child.kill_at_s = None
            elif not runner.leaving and not runner.hung and (why := self._hangs(runner, now_s)):
                runner.hung = why
                log.warning("the runner of %s hangs and is ended: %s", runner.deployment_id, why)
                child.kill()
        self._front.check(now_s)
        if len(self._served) > 1 and self._front.is_due(now_s):
            self._arrange()

    def close(self, *, patience_s: float = STOP_PATIENCE_S) -> None:
        """Let all finish what they are answering, then end them."""
        children = [*self._front.children, *(runner.child for runner in self._runners.values())]
        for child in children:
            child.send(Drain(deadline_s=patience_s))
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at and any(child.process.poll() is None for child in children):
            for runner in self._runners.values():
                self._take_windows(runner)
            time.sleep(0.02)
        for runner in self._runners.values():
            self._take_windows(runner)
        for child in children:
            child.kill()
            child.reap()
        for runner in self._runners.values():
            self._end_shadow(runner)
        self._runners.clear()
        self._front.forget()

    def _hangs(self, runner: _Runner, now_s: float) -> str:
        silence_s = now_s - runner.child.heard_s
        if not runner.proven:
            limit_s = self._settings.runner_start_s
            return f"not proven after {limit_s:.0f} s" if now_s - runner.child.started_s > limit_s else ""
        if silence_s > self._settings.runner_silence_s:
            return f"no sign of life for {silence_s:.0f} s"
        if runner.child.last_beat.busy_ms > self._settings.invoke_limit_s * 1000:
            return f"one invoke runs for more than {self._settings.invoke_limit_s:.0f} s"
        return ""

    def _readable(self, runner: _Runner) -> None:
        try:
            messages = runner.child.receive(FROM_RUNNER, now_s=time.monotonic())
        except (ValueError, ValidationError) as exc:
            log.warning("the runner of %s says what can't be understood: %s", runner.deployment_id, exc)
            runner.child.kill()
            runner.child.ended, messages = True, []
        for message in messages:
            self._said(runner, message)
        if runner.child.ended:
            self._gone(runner)

    def _said(self, runner: _Runner, message: FromRunner) -> None:
        match message:
            case Proven():
                runner.proven = True
                self._deliver(RunnerProven(runner.deployment_id, message.report))
            case Refused():
                runner.refused = message
            case Serving():
                self._serves(runner)
            case Compared():
                self._deliver(ShadowCompared(runner.deployment_id, message.report))
            case Beat():
                self._deliver(RunnerBeat(runner.deployment_id, message.inferences))
            case Window():
                self._on_window(message)
            case _:  # Drained: its socket ends next
                pass

    def _serves(self, runner: _Runner) -> None:
        first = not runner.serving
        runner.serving = True
        old = self._runners.get(runner.retire) if runner.retire is not None else None
        runner.retire = None
        if old is not None:
            self.stop(old.deployment_id, Leave.CONNECTIONS)
        if first:
            self._unannounced.add(runner.deployment_id)
            self._mirror(runner)
        self._arrange()
        self._announce()

    def _announce(self) -> None:
        """Tell who serves by now: with several models that is so on the shared port only once the front serves."""
        if len(self._served) > 1 and self._listeners.tcp is not None and not self._front.serves:
            return
        for deployment_id in self._unannounced & self._runners.keys():
            self._deliver(RunnerServing(deployment_id))
        self._unannounced.clear()

    def _gone(self, runner: _Runner) -> None:
        self._unwatch(runner.child.control.fileno())
        detail = runner.child.reap()
        self._end_shadow(runner)
        if self._runners.get(runner.deployment_id) is runner:
            del self._runners[runner.deployment_id]
        if runner.retire is not None:  # it ended before it served: the old one may go all the same
            self.stop(runner.retire, Leave.CONNECTIONS)
        # `_served` keeps it: its model still has its place at the front, which waits for the runner that follows
        if runner.refused is not None and not runner.leaving:
            refused = runner.refused
            self._deliver(RunnerRefused(runner.deployment_id, refused.reason, refused.detail, refused.report))
        elif runner.hung:
            self._deliver(RunnerHung(runner.deployment_id, runner.hung))
        else:
            self._deliver(RunnerExited(runner.deployment_id, detail))

    def _mirror(self, runner: _Runner) -> None:
        """Tell one that answers where a shadow listens, if there is one; it copies until that one is gone."""
        shadow = self._shadows.get(runner.model)
        if shadow is not None and shadow != runner.deployment_id:
            runner.child.send(Mirror(socket=self._layout.shadow_socket(shadow)))

    def _end_shadow(self, runner: _Runner) -> None:
        """It gets no more copies: it answers from now on, or has ended."""
        if runner.copies is None:
            return
        runner.copies.close()
        runner.copies = None
        self._layout.shadow_socket(runner.deployment_id).unlink(missing_ok=True)
        if self._shadows.get(runner.model) == runner.deployment_id:
            del self._shadows[runner.model]

    def _drain(self, runner: _Runner, deadline_s: float) -> None:
        runner.child.send(Drain(deadline_s=deadline_s))
        runner.child.kill_at_s = time.monotonic() + deadline_s + ANSWER_S + STOP_PATIENCE_S

    def _take_windows(self, runner: _Runner) -> None:
        for window in runner.child.last_windows(FROM_RUNNER, now_s=time.monotonic()):
            self._on_window(window)

    def _arrange(self) -> None:
        """Decide who accepts where, and tell those for whom it changes."""
        tcp = None if self._listeners.tcp is None else self._listeners.tcp.fileno()
        several = len(self._served) > 1 and tcp is not None
        sockets = {model: self._layout.model_socket(model) for model in self._served}
        if several and tcp is not None:
            self._front.start(tcp, sockets)
        for model, deployment_id in self._served.items():
            runner = self._runners.get(deployment_id)
            if runner is None or runner.leaving:
                continue
            wanted: tuple[int, ...] = (self._listeners.unix(model).fileno(),)
            if tcp is not None and not (several and self._front.serves):
                # until the front serves whoever had the port keeps it
                wanted = (*wanted, tcp) if not several or tcp in runner.descriptors else wanted
            self._tell(runner, wanted)
        if not several and all(self._runners[d].serving for d in self._served.values() if d in self._runners):
            self._front.release()
        self._front.route(sockets)

    def _front_accepts(self) -> None:
        self._arrange()
        self._announce()

    def _tell(self, runner: _Runner, wanted: tuple[int, ...]) -> None:
        added = tuple(fd for fd in wanted if fd not in runner.descriptors)
        removed = tuple(fd for fd in runner.descriptors if fd not in wanted)
        runner.descriptors = wanted
        if added:
            runner.child.send(Serve(descriptors=added))
        if removed:
            runner.child.send(StopAccepting(descriptors=removed))
