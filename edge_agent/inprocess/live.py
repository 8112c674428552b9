"""A model that follows what the agent makes active.

The agent is never waited for: without it the model goes on answering with what is loaded, and keeps its reports.
Open it after a fork, not before: the thread that follows does not come along.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter, ValidationError

from edge_agent.defer import defer, release
from edge_agent.errors import EdgeAgentError, ModelNotActiveError
from edge_agent.inprocess.reports import Reports, failure
from edge_agent.inprocess.variant import LoadedVariant, load, named
from edge_agent.layout import Layout, default_data_dir
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.base import Name
from edge_agent.runtimes.convert import InputError, require_finite
from edge_agent.runtimes.measure import rss_bytes
from edge_agent.supervisor.control import NoAgentError, RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runner.windows import WindowMeter

    Array = NDArray[Any]

log = logging.getLogger(__name__)
RETRY_S = 60.0  # a variant that did not load is tried again: memory may have been short
LONGEST_WAIT_S = 3600.0  # `Event.wait` refuses what no clock can count: a window may be given as any number
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class LiveModel:
    """A model that stays the one that the agent has made active. Thread-safe; one inference at a time.

    Use `open`, or `edge_agent.load`; it is a context manager.
    """

    def __init__(self, layout: Layout, model: str) -> None:
        """Load the active variant.

        Raises:
            ModelNotActiveError: the agent has no active variant of this model.
            EdgeAgentError: it does not load here.
        """
        self._layout, self._pointer_path = layout, str(layout.active_pointer(model))
        self._mark = self._read_mark()
        self._loaded: LoadedVariant = load(self._read_pointer(model), layout)
        self._model = model
        self._reports = Reports(layout)
        self._load_error: EdgeAgentError | None = None
        self._retry_at_s: float | None = None
        self._closed = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow-{model}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @classmethod
    def open(cls, model: str, data_dir: str | Path | None = None) -> Self:
        """Open the active variant of a model.

        Args:
            model: its name.
            data_dir: the agent's data directory; by default `SHOAL_AGENT_DIR`, then the agent's own default.

        Raises:
            ModelNotActiveError: the agent has no active variant of this model.
            EdgeAgentError: it does not load here.
        """
        try:
            _NAME.validate_python(model)
        except ValidationError as exc:
            raise ModelNotActiveError(f"{model!r} is no model name: see edge-agent status for the models here") from exc
        return cls(Layout(default_data_dir() if data_dir is None else Path(data_dir)), model)

    @property
    def signature(self) -> ModelSignature:
        """Inputs and outputs as the model has them."""
        return self._loaded.manifest.signature

    @property
    def version(self) -> str:
        """The version that answers now."""
        return self._loaded.pointer.version

    @property
    def variant_id(self) -> str:
        """The variant that answers now."""
        return self._loaded.pointer.variant_id

    @property
    def load_error(self) -> EdgeAgentError | None:
        """Why the newest variant is not the one that answers; None when it is."""
        return self._load_error

    def run(self, inputs: Mapping[str, Array] | Array) -> dict[str, Array]:
        """Infer.

        Args:
            inputs: arrays by input name, or one array for a model with one input; in the signature's element types;
                floats of another width are converted.

        Raises:
            InputError: the inputs do not fit the signature, or hold NaN or infinity.
            edge_agent.errors.ModelInvokeError: the interpreter failed.
            ModelNotActiveError: it has been closed.
        """
        began_s = time.perf_counter()
        if self._read_mark() != self._mark:
            self._wake.set()
        while True:
            loaded = self._loaded
            arrays, rows = self._checked(loaded, inputs)
            asked_s = time.perf_counter()
            with loaded.lock:
                if loaded.retired:  # swapped while we waited
                    if self._closed:
                        raise ModelNotActiveError(f"model {self._model} has been closed")
                    continue
                return loaded.infer(arrays, rows, began_s=began_s, asked_s=asked_s)

    @contextmanager
    def defer(self, for_s: float, *, reason: str) -> Iterator[bool]:
        """Ask that nothing takes this variant's place until the block ends, at most for a while.

        The rollout's limit wins, and a variant that is taken back does not wait. Without an agent there is nobody who
        could swap or promise not to: the block runs all the same.

        Args:
            for_s: seconds after which it ends by itself, at most a day.
            reason: for people, who see it while something waits.

        Yields:
            whether an agent has promised it.

        Raises:
            DeferError: the time or the reason can't be.
        """
        try:
            token = defer(self._layout, for_s=for_s, reason=reason, model=self._model).token
        except (NoAgentError, RequestRefusedError) as exc:
            log.warning("a swap of model %s is not deferred: %s", self._model, exc)
            yield False
            return
        try:
            yield True
        finally:
            with suppress(NoAgentError):  # it ends by its own time
                release(self._layout, token)

    def close(self) -> None:
        """Send the last window and let go of the model."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        """Stay open until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _checked(self, loaded: LoadedVariant, inputs: Mapping[str, Array] | Array) -> tuple[dict[str, Array], int]:
        try:
            arrays = named(inputs, loaded.manifest.signature)
            rows = loaded.model.check(arrays)
            require_finite(arrays)
        except InputError:
            with loaded.lock:
                loaded.meter.fail("bad_request")
            raise
        return arrays, rows

    def _read_mark(self) -> tuple[int, int] | None:
        """What changes whenever the pointer is replaced; None when there is none."""
        try:
            stat = os.stat(self._pointer_path)  # noqa: PTH116  in every inference; Path.stat takes three times as long
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def _read_pointer(self, model: str) -> ActivePointer:
        try:
            return ActivePointer.model_validate_json(Path(self._pointer_path).read_bytes())
        except (OSError, ValidationError) as exc:
            raise ModelNotActiveError(
                f"the agent in {self._layout.root} has no active variant of model {model}: see edge-agent status"
            ) from exc

    def _follow(self) -> None:
        """The thread: load what becomes active, and send a window whenever one is over."""
        ends_s = time.monotonic() + self._loaded.pointer.window_s
        while not self._closed:
            self._wake.wait(min(LONGEST_WAIT_S, max(0.05, ends_s - time.monotonic())))
            self._wake.clear()
            try:
                self._swap_if_told()
                if time.monotonic() >= ends_s:
                    self._report(self._loaded.take_meter())
            except Exception:
                log.exception("model %s could not be followed", self._model)
            if time.monotonic() >= ends_s:
                ends_s = time.monotonic() + self._loaded.pointer.window_s
        self._report(self._loaded.take_meter(retire=True))

    def _swap_if_told(self) -> None:
        mark = self._read_mark()
        retry = self._retry_at_s is not None and time.monotonic() >= self._retry_at_s
        if self._closed or (mark == self._mark and not retry):
            return
        if mark is None:  # nobody is active: who is loaded goes on answering
            self._mark, self._retry_at_s = mark, None
            return
        pointer = None
        try:
            pointer = self._read_pointer(self._model)
            loaded = load(pointer, self._layout)
        except EdgeAgentError as exc:
            log.warning("model %s stays with variant %s: %s", self._model, self.variant_id, exc)
            self._load_error, self._retry_at_s = exc, time.monotonic() + RETRY_S
            self._mark = mark
            self._reports.add(failure(pointer or self._loaded.pointer, exc))
            self._reports.send()
            return
        old, self._loaded = self._loaded, loaded
        self._mark, self._load_error, self._retry_at_s = mark, None, None
        self._report(old.take_meter(retire=True))

    def _report(self, meter: WindowMeter) -> None:
        self._reports.add(meter.cut(now_s=time.monotonic(), unix_s=time.time(), rss_bytes=rss_bytes()))
        self._reports.send()
