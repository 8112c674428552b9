"""The variant that the agent has made active, loaded into this process: from the pointer to an inference."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from edge_agent.errors import DigestMismatchError, EdgeAgentError, ModelLoadError
from edge_agent.protocol.manifest import FileRole, VariantManifest
from edge_agent.runner.selftest import verify_file, zeros
from edge_agent.runner.windows import WindowMeter
from edge_agent.runtimes.convert import BoundModel, InputError
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.layout import Layout
    from edge_agent.pointer import ActivePointer
    from edge_agent.protocol.signature import ModelSignature

    Array = NDArray[Any]

MANIFEST = "manifest.json"


@dataclass
class LoadedVariant:
    """A variant in memory; whoever infers holds its lock."""

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

    def infer(self, arrays: dict[str, Array], rows: int, *, began_s: float, asked_s: float) -> dict[str, Array]:
        """Run on arrays that the model's `check` has passed, and count it; under the lock.

        Args:
            arrays: of `rows` samples.
            rows: the number that `check` gave.
            began_s: when the application called, as perf_counter says.
            asked_s: when the arrays were checked.

        Raises:
            edge_agent.errors.ModelInvokeError: the interpreter failed.
        """
        started_s = time.perf_counter()
        try:
            outputs = self.model.run_checked(arrays, rows)
        except EdgeAgentError as exc:
            self.meter.fail(exc.code)
            raise
        self.meter.observe(
            samples=rows,
            queue_ms=(started_s - asked_s) * 1e3,
            preprocess_ms=(asked_s - began_s) * 1e3,
            invoke_ms=(time.perf_counter() - started_s) * 1e3,
        )
        if not all(np.isfinite(array).all() for array in outputs.values()):
            self.meter.note("nonfinite_output")
        return outputs


def _new_meter(pointer: ActivePointer, manifest: VariantManifest) -> WindowMeter:
    return WindowMeter(
        manifest,
        deployment_id=pointer.deployment_id,
        source="inprocess",
        now_s=time.monotonic(),
        unix_s=time.time(),
    )


def load(pointer: ActivePointer, layout: Layout) -> LoadedVariant:
    """Load the variant that a pointer names, and run it once: the first run is slow, and shall not be an application's.

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
        model.run(zeros(manifest.signature))
    except (OSError, ValidationError) as exc:
        raise ModelLoadError(f"the active variant of {pointer.model} can't be read: {str(exc)[:200]}") from exc
    except MemoryError as exc:
        raise ModelLoadError(f"there is not enough memory for the active variant of {pointer.model}") from exc
    return LoadedVariant(pointer, manifest, model, _new_meter(pointer, manifest))


def named(inputs: object, signature: ModelSignature) -> dict[str, Array]:
    """The inputs by name; floats of another width are converted, nothing else is.

    Raises:
        InputError: they are neither one array nor arrays by name.
    """
    specs = signature.inputs
    if isinstance(inputs, Mapping):
        arrays = dict(inputs)
        if strange := [name for name in arrays if not isinstance(name, str)]:
            raise InputError(f"an input is named {strange[0]!r}, a {type(strange[0]).__name__}: names are text")
    elif not isinstance(inputs, np.ndarray):
        raise InputError(
            f"the inputs are a {type(inputs).__name__}: give a numpy array, or a dictionary of them by name"
        )
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
