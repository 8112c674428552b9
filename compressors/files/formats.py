"""The files that recipes end in: what devices know each by, what reads it, what runs it. One table, no if-chains."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from compressors.files import executorch, litert, onnx
from edge_agent.protocol.profile import Delegate, FileFormat, NpuKind, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from compressors.files.facts import FileFacts
    from edge_agent.protocol.profile import DeviceProfile


class Form(StrEnum):
    """What a model is while it is being compressed: layers in memory, or the file of a target."""

    NETWORK = "network"
    LITERT = "litert"
    ONNX = "onnx"
    EXECUTORCH = "executorch"
    ETHOS_U = "ethos-u"


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    ending: FileFormat
    read_facts: Callable[[bytes], FileFacts]
    delegates: tuple[Delegate, ...]  # what may execute it
    scored_on: tuple[RuntimeName, Delegate] | None  # where the job itself runs it, without a latency; None: nowhere
    recipes: tuple[str, ...] = ()  # those that suit every task, built when none is asked for
    npus: tuple[NpuKind, ...] = ()  # it runs on one of these alone, and is compiled for its very configuration


class Target(NamedTuple):
    """What a file is run on."""

    runtime: RuntimeName
    delegate: Delegate
    threads: int
    npu: str = ""  # the configuration of the processor that the file was compiled for


FORMATS = {
    Form.LITERT: Format(
        FileFormat.TFLITE,
        litert.read_facts,
        delegates=(Delegate.XNNPACK, Delegate.NONE),
        scored_on=(RuntimeName.LITERT, Delegate.NONE),
        recipes=("float32", "dynamic-int8", "static-int8"),
    ),
    Form.ONNX: Format(
        FileFormat.ONNX,
        onnx.read_facts,
        delegates=(Delegate.NONE,),
        scored_on=(RuntimeName.ONNX, Delegate.NONE),
        recipes=("onnx-float32", "onnx-dynamic-int8", "onnx-static-int8"),
    ),
    Form.EXECUTORCH: Format(
        FileFormat.PTE,
        executorch.read_facts,
        delegates=(Delegate.XNNPACK,),
        scored_on=(RuntimeName.EXECUTORCH, Delegate.XNNPACK),
        recipes=("executorch-float32", "executorch-static-int8"),
    ),
    Form.ETHOS_U: Format(
        FileFormat.TFLITE,
        litert.read_facts,
        delegates=(Delegate.ETHOS_U,),
        scored_on=None,
        npus=(NpuKind.ETHOS_U55, NpuKind.ETHOS_U65, NpuKind.ETHOS_U85),
    ),
}


def targets_of(form: Form, profiles: Iterable[DeviceProfile]) -> list[Target]:
    """Everything that some profile would run such a file on."""
    kind = FORMATS[form]
    return sorted(
        {
            Target(runtime, delegate, profile.threads, npu)
            for profile in profiles
            if (npu := _npu_of(kind, profile)) is not None
            for runtime in profile.runtimes
            if runtime in kind.ending.runtimes
            for delegate in kind.delegates
        }
    )


def _npu_of(kind: Format, profile: DeviceProfile) -> str | None:
    """The configuration that such a file must have been compiled for; "" for any CPU, None: it can't run there."""
    if not kind.npus:
        return ""
    npu = profile.npu
    return None if npu is None or npu.kind not in kind.npus else npu.configuration


def runs_on(target: Target, profile: DeviceProfile) -> bool:
    """Whether a profile has what a file was built for."""
    configuration = profile.npu.configuration if profile.npu is not None else None
    return (
        target.runtime in profile.runtimes and target.threads == profile.threads and target.npu in ("", configuration)
    )
