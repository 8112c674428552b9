"""`run_stack`: start the parts in order, wait until each answers, keep them running, stop them in order.

One thread, and it must be the main one: the children die with the thread that started them (see launch.py). Signals are
blocked and waited for, so that none can interrupt half a step.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from server.backup.mark import refuse_half_restored
from server.errors import RegistryError, SettingsError
from server.settings import RegistrySettings
from server.stack.child import Child
from server.stack.commands import Command, ProcessTable, registry_processes
from server.stack.errors import StackError
from server.stack.lock import DataDirLock, wait_for_last_run
from server.stack.objects import remove_sockets
from server.stack.plan import StackPlan, host_names, make_folders, make_plan, warnings_of
from server.stack.probes import http_answers, mqtt_answers, mqtt_url_answers
from server.stack.state import process_id, stack_state, write_state
from server.trust.folder import TrustFolder
from server.trust.names import Role
from server.trust.paths import TrustPaths
from server.trust.tls import broker_context, trusting

WATCHED_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
STOP_SIGNALS: Final = WATCHED_SIGNALS - {signal.SIGCHLD}
BROKER_DEADLINE_S: Final = 10.0
OTHER_BROKER_DEADLINE_S: Final = 4.0  # it runs already, or it does not
PREPARE_DEADLINE_S: Final = 60.0
API_DEADLINE_S: Final = 60.0
PROBE_PAUSE_S: Final = 0.05
LOOK_EVERY_S: Final = 1.0
RENEW_EVERY_S: Final = 3600.0
HEALTH_PATH: Final = "/v1/health"
EXIT_SETTINGS: Final = 2


class _StopRequestedError(Exception):
    """SIGTERM, SIGINT or SIGHUP came while the stack was starting."""


def run_stack(settings: RegistrySettings, processes: ProcessTable | None = None) -> int:
    """Run the whole registry until SIGTERM or SIGINT; call it from the main thread.

    Args:
        settings: what `load_settings` gave; addresses that are set are used, the others are embedded.
        processes: the registry's own processes; None: the real ones.

    Returns:
        0 after a clean stop; 1 a part is broken; 2 bad settings; 3 no Mosquitto; 4 already running. The reason is on
        stderr in one sentence.
    """
    try:
        with _blocked_signals(), DataDirLock(settings.data_dir):
            refuse_half_restored(settings.data_dir)
            wait_for_last_run(settings.data_dir)
            make_folders(settings.data_dir)
            keep_trust(settings, now=time.time())
            plan = make_plan(settings, stack_state(settings.data_dir), random.SystemRandom())
            for warning in warnings_of(plan):
                _say(f"Warning: {warning}")
            Stack(plan, processes or registry_processes(plan.settings)).run()
    except StackError as exc:
        _say(str(exc))
        return exc.exit_code
    except RegistryError as exc:
        _say(str(exc))
        return EXIT_SETTINGS if isinstance(exc, SettingsError) else StackError.exit_code
    return 0


class Stack:
    """The running parts."""

    def __init__(self, plan: StackPlan, table: ProcessTable) -> None:
        self._plan = plan
        self._table = table
        self._environment = {**os.environ, **plan.settings.child_environment()}
        # The file was read; what it said is in the environment now, and a later edit must not split the processes.
        self._environment.pop("SHOAL_CONFIG", None)
        self._log_dir = plan.settings.log_dir
        self._children: list[Child] = []
        self._rotate_at_s = 0.0
        self._renew_at_s = time.monotonic() + RENEW_EVERY_S
        self._paths = TrustPaths(plan.settings.trust_dir)
        self._told = self._lists()

    def run(self) -> None:
        """Start, serve until a stop signal, stop.

        Raises:
            StackError: a part does not come up.
        """
        try:
            self._start()
            self._remember()
            state = self._plan.state()
            sys.stdout.write(
                f"edge-registry is up: API {state.api_url} MQTT {state.mqtt_url} S3 {state.s3_endpoint} "
                f"data {self._plan.settings.data_dir}\n"
            )
            sys.stdout.flush()
            self._serve()
        except _StopRequestedError:
            return
        finally:
            self._stop()

    def _start(self) -> None:
        for part in self._plan.parts:
            self._add(part)
        patience_s = BROKER_DEADLINE_S if self._plan.has_broker else OTHER_BROKER_DEADLINE_S
        self._wait("the MQTT broker", self._broker_answers, patience_s, self._broker_hint())
        for command in self._table.prepare:
            self._run_to_end(command)
        for command in self._table.serve:
            self._add(command)
        if any(command.name == "api" for command in self._table.serve):
            host, port = self._plan.probe_address, self._plan.ports["api"]
            hint = f"see {self._log_dir / 'api.log'}"
            tls = trusting(self._paths.root) if self._plan.settings.api_tls else None
            self._wait("the API", lambda: http_answers(host, port, HEALTH_PATH, tls=tls), API_DEADLINE_S, hint)
        self._fail_on_death()

    def _serve(self) -> None:
        while True:
            now_s = time.monotonic()
            changed = False
            for child in self._children:
                status = child.poll()
                if status is not None:
                    pause_s = child.plan_restart()
                    _say(
                        f"{child.command.name} {_ended(status)}; starting it again in {pause_s:.1f} s: {child.log_path}"
                    )
                elif child.restart_at_s is not None and child.restart_at_s <= now_s:
                    child.start()
                    changed = True
            if changed:
                self._remember()
            if now_s >= self._rotate_at_s:
                self._rotate_at_s = now_s + LOOK_EVERY_S
                for child in self._children:
                    child.rotate_log()
                self._tell_broker()
                self._renew_if_due(now_s)
            planned = [child.restart_at_s - now_s for child in self._children if child.restart_at_s is not None]
            self._pause(min([LOOK_EVERY_S, *planned]))

    def _tell_broker(self) -> None:
        """The API has written lists: Mosquitto reads them, and its certificate, when it gets SIGHUP."""
        if (lists := self._lists()) != self._told:
            self._told = lists
            for child in self._children:
                if child.command.name == "mosquitto":
                    child.send(signal.SIGHUP)

    def _lists(self) -> list[int]:
        return [path.stat().st_mtime_ns for path in (self._paths.access, self._paths.revoked) if path.exists()]

    def _renew_if_due(self, now_s: float) -> None:
        """What was issued for this machine runs out while it serves: issue anew, and let those read it who use it."""
        if now_s < self._renew_at_s:
            return
        self._renew_at_s = now_s + RENEW_EVERY_S
        try:
            changed = keep_trust(self._plan.settings, now=time.time())
        except RegistryError as exc:
            _say(f"The certificates of this machine can't be renewed: {exc}")
            return
        if changed:
            for child in self._children:
                child.send(signal.SIGHUP if child.command.name == "mosquitto" else signal.SIGTERM)

    def _stop(self) -> None:
        """The registry's processes first, together; then what they use. All within 5 + 2 + 0.5 s at the very most."""
        own = {command.name for command in self._plan.parts}
        for group in (
            [child for child in self._children if child.command.name not in own],
            *([child] for child in self._children if child.command.name in own),
        ):
            for child in group:
                child.ask_to_stop()
            asked_s = time.monotonic()
            for child in group:
                child.finish(asked_s + child.command.stop_grace_s)
        self._children.clear()
        remove_sockets(self._plan.ports)
        previous = stack_state(self._plan.settings.data_dir)
        if previous is not None:
            stopped = previous.model_copy(update={"supervisor": None, "processes": {}})
            write_state(self._plan.settings.data_dir, stopped)

    def _add(self, command: Command) -> Child:
        child = Child(command, log_dir=self._log_dir, environment=self._environment)
        self._children.append(child)
        child.start()
        return child

    def _run_to_end(self, command: Command) -> None:
        child = self._add(command)
        deadline_s = time.monotonic() + PREPARE_DEADLINE_S
        while (status := child.poll()) is None:
            if time.monotonic() > deadline_s:
                raise StackError(f"{command.name} did not end within {PREPARE_DEADLINE_S:.0f} s; see {child.log_path}.")
            self._fail_on_death(apart_from=child)
            self._pause(PROBE_PAUSE_S)
        self._children.remove(child)
        if status != 0:
            raise StackError(f"{command.name} failed: {child.last_line()} See {child.log_path}.")

    def _wait(self, what: str, answers: Callable[[], bool], deadline_s: float, hint: str) -> None:
        end_s = time.monotonic() + deadline_s
        while not answers():
            self._fail_on_death()
            if time.monotonic() > end_s:
                raise StackError(f"{what[0].upper()}{what[1:]} did not answer within {deadline_s:.0f} s; {hint}.")
            self._pause(PROBE_PAUSE_S)

    def _broker_answers(self) -> bool:
        tls = broker_context(self._plan.settings, Role.UP)
        if self._plan.has_broker:
            return mqtt_answers(self._plan.probe_address, self._plan.ports["mqtt"], tls=tls)
        return mqtt_url_answers(self._plan.settings.mqtt_url or "", tls)

    def _broker_hint(self) -> str:
        if self._plan.has_broker:
            return f"see {self._log_dir / 'mosquitto.log'}"
        return f"is a broker that speaks MQTT 5 running at {self._plan.settings.mqtt_url}?"

    def _fail_on_death(self, apart_from: Child | None = None) -> None:
        for child in self._children:
            if child is not apart_from and (status := child.poll()) is not None:
                raise StackError(
                    f"{child.command.name} {_ended(status)} while the stack was starting: {child.last_line()} "
                    f"See {child.log_path}."
                )

    def _pause(self, duration_s: float) -> None:
        """Sleep until a child ends, the time is over, or somebody wants us to stop."""
        arrived = signal.sigtimedwait(WATCHED_SIGNALS, max(0.0, duration_s))
        if arrived is not None and arrived.si_signo in STOP_SIGNALS:
            raise _StopRequestedError

    def _remember(self) -> None:
        processes = {child.command.name: child.identity for child in self._children}
        state = self._plan.state().model_copy(
            update={
                "supervisor": process_id(os.getpid()),
                "processes": {name: identity for name, identity in processes.items() if identity is not None},
            }
        )
        write_state(self._plan.settings.data_dir, state)


def keep_trust(settings: RegistrySettings, *, now: float) -> bool:
    """Make the authority on the first start, and issue what this machine's processes need; whether anything was.

    Raises:
        TrustError: the folder can't be written, or is damaged.
    """
    folder = TrustFolder(settings.trust_dir)
    if not folder.exists:
        folder.make(settings.host, now=now)
    return folder.keep_current(host_names=host_names(settings), now=now)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED_SIGNALS)
    try:
        yield
    finally:
        # A second Ctrl-C while stopping would otherwise be delivered now, as a traceback after a clean stop.
        while signal.sigtimedwait(WATCHED_SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ended(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _say(sentence: str) -> None:
    sys.stderr.write(f"edge-registry up: {sentence}\n")
    sys.stderr.flush()
