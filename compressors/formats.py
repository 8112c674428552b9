"""The files that recipes end in: what devices know each by, what reads it, what runs it. One table, no if-chains."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from compressors import onnx_file, pte_file, tflite_file
from edge_agent.protocol.profile import DELEGATES_OF, Delegate, FileFormat, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from compressors.facts import FileFacts
    from edge_agent.protocol.profile import DeviceProfile


class Form(StrEnum):
    """What a model is while it is being compressed: layers in memory, or the file of a target."""

    NETWORK = "network"
    LITERT = "litert"
    ONNX = "onnx"
    EXECUTORCH = "executorch"


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    ending: FileFormat
    read_facts: Callable[[bytes], FileFacts]
    scored_on: tuple[RuntimeName, Delegate]  # where the job itself runs it: no latency is measured there
    recipes: tuple[str, ...]  # those that suit every task, built when none is asked for


class Target(NamedTuple):
    """What a file is run on."""

    runtime: RuntimeName
    delegate: Delegate
    threads: int


FORMATS = {
    Form.LITERT: Format(
        FileFormat.TFLITE,
        tflite_file.read_facts,
        scored_on=(RuntimeName.LITERT, Delegate.NONE),
        recipes=("float32", "dynamic-int8", "static-int8"),
    ),
    Form.ONNX: Format(
        FileFormat.ONNX,
        onnx_file.read_facts,
        scored_on=(RuntimeName.ONNX, Delegate.NONE),
        recipes=("onnx-float32", "onnx-dynamic-int8", "onnx-static-int8"),
    ),
    Form.EXECUTORCH: Format(
        FileFormat.PTE,
        pte_file.read_facts,
        scored_on=(RuntimeName.EXECUTORCH, Delegate.XNNPACK),
        recipes=("executorch-float32", "executorch-static-int8"),
    ),
}


def targets_of(form: Form, profiles: Iterable[DeviceProfile]) -> list[Target]:
    """Everything that some profile would run such a file on."""
    runtimes = FORMATS[form].ending.runtimes
    return sorted(
        {
            Target(runtime, delegate, profile.threads)
            for profile in profiles
            for runtime in profile.runtimes
            if runtime in runtimes
            for delegate in DELEGATES_OF[runtime]
        }
    )


def default_recipes(profiles: Iterable[DeviceProfile]) -> list[str]:
    """The recipes of every format that a runtime of some profile loads."""
    named = list(profiles)
    return [name for form, one in FORMATS.items() if targets_of(form, named) for name in one.recipes]
