"""DeviceProfile: a kind of device, and the limits that a model must meet on it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from edge_agent.protocol.base import Bytes, Milliseconds, Name, StrictWire


class RuntimeName(StrEnum):
    """Inference runtimes that an agent can have; wire strings."""

    LITERT = "litert"
    TFLITE = "tflite"  # tflite-runtime, LiteRT's predecessor
    ONNX = "onnx"  # ONNX Runtime
    EXECUTORCH = "executorch"


class FileFormat(StrEnum):
    """Model files by the ending that people know; wire strings."""

    TFLITE = "tflite"
    ONNX = "onnx"
    PTE = "pte"

    @property
    def runtimes(self) -> tuple[RuntimeName, ...]:
        """Which runtimes load such a file."""
        return tuple(name for name, runs in FORMAT_OF.items() if runs is self)


FORMAT_OF = {
    RuntimeName.LITERT: FileFormat.TFLITE,
    RuntimeName.TFLITE: FileFormat.TFLITE,
    RuntimeName.ONNX: FileFormat.ONNX,
    RuntimeName.EXECUTORCH: FileFormat.PTE,
}


class Delegate(StrEnum):
    """What executes the graph inside a runtime; wire strings."""

    XNNPACK = "xnnpack"
    NONE = "none"
    ETHOS_U = "ethos-u"  # for files that were compiled for the processor


DELEGATES_OF = {
    RuntimeName.LITERT: (Delegate.XNNPACK, Delegate.NONE, Delegate.ETHOS_U),
    RuntimeName.TFLITE: (Delegate.XNNPACK, Delegate.NONE, Delegate.ETHOS_U),
    RuntimeName.ONNX: (Delegate.NONE,),  # the wheel's own CPU kernels
    RuntimeName.EXECUTORCH: (Delegate.XNNPACK,),  # decided when the file was made: it is part of it
}


class Arch(StrEnum):
    """Machine architectures as `uname -m` names them."""

    AARCH64 = "aarch64"
    ARMV7L = "armv7l"
    X86_64 = "x86_64"


class NpuKind(StrEnum):
    """Neural processors that Shoal knows by name."""

    ETHOS_U55 = "ethos-u55"
    ETHOS_U65 = "ethos-u65"
    ETHOS_U85 = "ethos-u85"
    EDGE_TPU = "edge-tpu"
    RKNPU2 = "rknpu2"
    HAILO_8L = "hailo-8l"


class CpuFeature(StrEnum):
    """Instruction set extensions that decide how fast a recipe is."""

    FP16 = "fp16"
    DOTPROD = "dotprod"
    I8MM = "i8mm"
    BF16 = "bf16"
    LSE = "lse"
    SVE = "sve"
    AVX2 = "avx2"
    AVX512 = "avx512"
    AVX512_VNNI = "avx512-vnni"


class Cpu(StrictWire):
    """The processor: latency measured on another `model` never satisfies a limit."""

    model: Annotated[str, Field(min_length=1, max_length=128, description="core name, e.g. Cortex-A72")]
    cores: Annotated[int, Field(ge=1, le=1024)]
    max_mhz: Annotated[int | None, Field(ge=1, le=100_000)] = None
    features: frozenset[CpuFeature] = frozenset()


class Npu(StrictWire):
    """A neural processor, by kind and by its vendor's configuration name."""

    kind: NpuKind
    configuration: Annotated[str | None, Field(max_length=64, description="e.g. ethos-u65-256")] = None
    tops: Annotated[float | None, Field(strict=True, gt=0, le=10_000, allow_inf_nan=False)] = None
    cpu_fallback: Annotated[bool, Field(description="operators that it can't run may run on the CPU")] = False


class Limits(StrictWire):
    """What a model must meet on the device; None means no limit."""

    latency_p95_ms: Annotated[Milliseconds | None, Field(gt=0)] = None
    metric_floor: Annotated[
        float | None, Field(strict=True, allow_inf_nan=False, description="worst value of the metric")
    ] = None
    metric_max_drop: Annotated[
        float | None,
        Field(strict=True, ge=0, allow_inf_nan=False, description="largest loss against float, in units of the metric"),
    ] = None
    ram_bytes: Annotated[Bytes | None, Field(gt=0, description="peak memory that the model may add to a runner")] = None
    download_bytes: Annotated[Bytes | None, Field(gt=0, description="bytes of one variant on the wire")] = None
    storage_bytes: Annotated[Bytes | None, Field(gt=0, description="bytes of one variant on the device")] = None


class Benchmark(StrEnum):
    """Networks whose published latencies calibrate predictions; weights do not matter."""

    MOBILENET_V2 = "mobilenet-v2"  # width 1.0, one picture of 224 x 224 x 3, 1,000 classes


class Numbers(StrEnum):
    """What a network was computed with."""

    FLOAT32 = "float32"
    INT8 = "int8"


class PublishedLatency(StrictWire):
    """A latency that somebody has published for this CPU, with the profile's threads, on XNNPACK."""

    network: Benchmark
    numbers: Numbers
    latency_ms: Annotated[Milliseconds, Field(gt=0)]
    source: Annotated[str, Field(min_length=1, max_length=512)]


class DeviceProfile(StrictWire):
    """A kind of device: hardware, budgets, runtimes, limits, and where the figures come from."""

    name: Name
    description: Annotated[str, Field(max_length=256)] = ""
    arch: Arch
    cpu: Cpu
    ram_bytes: Annotated[Bytes, Field(gt=0)]
    storage_bytes: Annotated[Bytes, Field(gt=0, description="storage that the agent may fill with models")]
    npu: Npu | None = None
    runtimes: Annotated[tuple[RuntimeName, ...], Field(min_length=1, description="in order of preference")]
    threads: Annotated[int, Field(ge=1, le=64, description="threads that one model may use")] = 1
    limits: Limits = Limits()
    sources: tuple[Annotated[str, Field(max_length=512)], ...] = ()
    published: Annotated[
        tuple[PublishedLatency, ...], Field(max_length=16, description="they calibrate predicted latencies")
    ] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.runtimes)) != len(self.runtimes):
            raise ValueError(f"runtimes names one twice: {[str(r) for r in self.runtimes]}")
        if self.threads > self.cpu.cores:
            raise ValueError(f"threads is {self.threads}, but the CPU has {self.cpu.cores} cores")
        if self.limits.ram_bytes is not None and self.limits.ram_bytes > self.ram_bytes:
            raise ValueError("limits.ram_bytes is larger than ram_bytes: no such device can hold it")
        if self.limits.storage_bytes is not None and self.limits.storage_bytes > self.storage_bytes:
            raise ValueError("limits.storage_bytes is larger than storage_bytes: no such device can hold it")
        return self
