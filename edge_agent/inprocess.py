"""A model inside an application's own process: it follows what the agent makes active, and reports its latency.

The agent is never waited for: without it the model goes on answering with what is loaded, and keeps its reports.
Open it after a fork, not before: the thread that follows does not come along.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edge_agent.errors import DigestMismatchError, EdgeAgentError, ModelLoadError, ModelNotActiveError
from edge_agent.layout import Layout, default_data_dir
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.base import Name
from edge_agent.protocol.manifest import FileRole, VariantManifest
from edge_agent.protocol.messages import MalformedMessageError, TelemetryReport, encode
from edge_agent.protocol.signature import FREE
from edge_agent.runner.journal import UNSPOOLED
from edge_agent.runner.selftest import verify_file
from edge_agent.runner.windows import WindowMeter
from edge_agent.runtimes.convert import BoundModel, InputError, require_finite
from edge_agent.runtimes.measure import rss_bytes
from edge_agent.runtimes.registry import open_runtime
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edge_agent.protocol.signature import ModelSignature

    Array = NDArray[Any]

log = logging.getLogger(__name__)
RETRY_S = 60.0  # a variant that did not load is tried again: memory may have been short
LONGEST_WAIT_S = 3600.0  # `Event.wait` refuses what no clock can count: a window may be given as any number
KEPT_REPORTS = 60  # while the agent is away; the oldest goes first
MANIFEST = "manifest.json"
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass
class _Loaded:
    pointer: ActivePointer
    manifest: VariantManifest
    model: BoundModel
    meter: WindowMeter
    lock: threading.Lock = field(default_factory=threading.Lock)
    retired: bool = False

    def take_meter(self, *, retire: bool = False) -> WindowMeter:
        """The window until now; with `retire` no inference runs here afterwards."""
        with self.lock:
            meter, self.meter = self.meter, _new_meter(self.pointer, self.manifest)
            self.retired = self.retired or retire
        return meter


def _new_meter(pointer: ActivePointer, manifest: VariantManifest) -> WindowMeter:
    return WindowMeter(
        manifest,
        deployment_id=pointer.deployment_id,
        source="inprocess",
        now_s=time.monotonic(),
        unix_s=time.time(),
    )


def _load(pointer: ActivePointer, layout: Layout) -> _Loaded:
    """Load the variant that a pointer names.

    Raises:
        EdgeAgentError: its files are not what they should be, or do not load here.
    """
    folder = (layout.root / pointer.variant_dir).resolve()
    if not folder.is_relative_to(layout.root.resolve()):
        raise ModelLoadError(f"the active variant of {pointer.model} lies outside the agent's data directory")
    path = folder / FileRole.MODEL.value
    try:
        manifest = VariantManifest.model_validate_json((folder / MANIFEST).read_bytes())
        if manifest.model_file.sha256 != pointer.model_sha256:
            raise DigestMismatchError(expected_sha256=pointer.model_sha256, actual_sha256=manifest.model_file.sha256)
        verify_file(path, manifest, FileRole.MODEL)
        runtime = open_runtime(manifest.runtime)
        loaded = runtime.load(path, threads=manifest.threads, delegate=manifest.delegate)
        model = BoundModel(loaded, manifest.signature, manifest.inputs, manifest.outputs)
        model.run(_zeros(manifest.signature))  # the first run is slow: it shall not be an application's
    except (OSError, ValidationError) as exc:
        raise ModelLoadError(f"the active variant of {pointer.model} can't be read: {str(exc)[:200]}") from exc
    except MemoryError as exc:
        raise ModelLoadError(f"there is not enough memory for the active variant of {pointer.model}") from exc
    return _Loaded(pointer, manifest, model, _new_meter(pointer, manifest))


def _zeros(signature: ModelSignature) -> dict[str, Array]:
    return {
        spec.name: np.zeros([1 if length == FREE else length for length in spec.shape], spec.datatype.numpy_name)
        for spec in signature.inputs
    }


class _Reports:
    """Sends windows to the agent by Unix datagram, without ever waiting for it."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.report_socket
        self._kept: deque[bytes] = deque(maxlen=KEPT_REPORTS)

    def add(self, report: TelemetryReport | None) -> None:
        """Take a report in."""
        if report is None:
            return
        try:
            self._kept.append(encode(report))
        except MalformedMessageError as exc:
            log.warning("a telemetry window was dropped: %s", exc)

    def send(self) -> None:
        """Send what is here; what the agent does not take stays for the next time."""
        if not self._kept:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, short_path(self._path) as address:
                sender.setblocking(False)
                while self._kept:
                    sender.sendto(self._kept[0], address)
                    self._kept.popleft()
        except OSError as exc:  # away, or its queue is full
            log.debug("the agent takes no reports now: %s", exc)


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
        self._loaded: _Loaded = _load(self._read_pointer(model), layout)
        self._model = model
        self._reports = _Reports(layout)
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
                return _infer(loaded, arrays, rows, began_s=began_s, asked_s=asked_s)

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

    def _checked(self, loaded: _Loaded, inputs: Mapping[str, Array] | Array) -> tuple[dict[str, Array], int]:
        try:
            arrays = _named(inputs, loaded.manifest.signature)
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
            loaded = _load(pointer, self._layout)
        except EdgeAgentError as exc:
            log.warning("model %s stays with variant %s: %s", self._model, self.variant_id, exc)
            self._load_error, self._retry_at_s = exc, time.monotonic() + RETRY_S
            self._mark = mark
            self._reports.add(_failure(pointer or self._loaded.pointer, exc))
            self._reports.send()
            return
        old, self._loaded = self._loaded, loaded
        self._mark, self._load_error, self._retry_at_s = mark, None, None
        self._report(old.take_meter(retire=True))

    def _report(self, meter: WindowMeter) -> None:
        self._reports.add(meter.cut(now_s=time.monotonic(), unix_s=time.time(), rss_bytes=rss_bytes()))
        self._reports.send()


def _infer(loaded: _Loaded, arrays: dict[str, Array], rows: int, *, began_s: float, asked_s: float) -> dict[str, Array]:
    started_s = time.perf_counter()
    try:
        outputs = loaded.model.run_checked(arrays, rows)
    except EdgeAgentError as exc:
        loaded.meter.fail(exc.code)
        raise
    loaded.meter.observe(
        samples=rows,
        queue_ms=(started_s - asked_s) * 1e3,
        preprocess_ms=(asked_s - began_s) * 1e3,
        invoke_ms=(time.perf_counter() - started_s) * 1e3,
    )
    if not all(np.isfinite(array).all() for array in outputs.values()):
        loaded.meter.note("nonfinite_output")
    return outputs


def _named(inputs: Mapping[str, Array] | Array, signature: ModelSignature) -> dict[str, Array]:
    """The inputs by name; floats of another width are converted, nothing else is."""
    specs = signature.inputs
    if not isinstance(inputs, np.ndarray):
        arrays = dict(inputs)
    elif len(specs) == 1:
        arrays = {specs[0].name: inputs}
    else:
        raise InputError(f"the model has the inputs {[spec.name for spec in specs]}: give arrays by name")
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            continue
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {spec.name} is a {type(array).__name__}: give a numpy array")
        wanted = np.dtype(spec.datatype.numpy_name)
        if array.dtype != wanted and array.dtype.kind == wanted.kind == "f":
            with np.errstate(over="ignore"):  # what becomes infinite is refused next
                arrays[spec.name] = array.astype(wanted)
    return arrays


def _failure(pointer: ActivePointer, exc: EdgeAgentError) -> TelemetryReport:
    """A window that says only that this deployment did not load."""
    return TelemetryReport(
        spool_id=UNSPOOLED,
        sequence=0,
        model=pointer.model,
        version=pointer.version,
        variant_id=pointer.variant_id,
        deployment_id=pointer.deployment_id,
        window_start=max(0.0, time.time()),
        window_s=0.0,
        source="inprocess",
        errors={exc.code: 1},
    )
